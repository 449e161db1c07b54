"""The whole way on real clinical data; skipped where CVMAE_REAL_DATA names none."""

from dataclasses import replace

import pytest

from cvmae.checkpoint import find_checkpoint, load_model, load_state
from cvmae.config import PRESETS
from cvmae.evaluate.evaluate import evaluate
from cvmae.train.pretrain import pretrain

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.mark.parametrize("name", ["mimic4_demo_labs", "mimic4_demo_full"])
def test_both_dialects_of_mimic_run_through_with_their_hundred_labs(real_data, tmp_path, name):
    base = PRESETS["tiny"]
    config = replace(
        base,
        output_dir=str(tmp_path / "run"),
        data=replace(base.data, root=str(real_data / name)),
        train=replace(base.train, epochs=8),
        scaling=replace(base.scaling, num_workers=0),
    )
    run = pretrain(config)
    loaded = load_model(run)
    assert loaded.fitted.statistics.num_codes == 100
    history = load_state(find_checkpoint(run))[0].history
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    # ICU chart events also start with LAB// and would leak duplicates of hidden labs.
    assert not [c for c in loaded.fitted.statistics.codes if c.startswith("LAB//22")]
    table = evaluate(
        replace(
            config,
            output_dir=str(tmp_path / "evaluation"),
            evaluate=replace(config.evaluate, checkpoints=(f"cv={run}",), bootstrap_samples=50),
        )
    )
    assert "linear interpolation" in table
