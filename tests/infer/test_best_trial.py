"""Which trial of a sweep is handed on."""

import json

import pytest

from cvmae.config import PRESETS, override
from cvmae.infer.best_trial import choose
from cvmae.infer.card import CARD
from cvmae.infer.export import export
from cvmae.sweep.summary import Summary, write_summary
from tests.sweep.fake_trials import record


def sweep_of(folder, *trials):
    """Leave what a sweep has left that has ended."""
    (folder / "trials").mkdir(parents=True)
    summary = Summary(settings={}, schedulers=(), codes=(), trials=trials)
    write_summary(summary, folder / "summary.json")
    return str(folder)


def test_it_is_the_finished_one_with_the_least_last_error(tmp_path):
    sweep = sweep_of(
        tmp_path / "sweep",
        record("random", [0.9, 0.5], seed=0),
        record("random", [0.9, 0.7], seed=1),
        record("cv", [0.3, 0.6]),  # the least on the way there
        record("variance", [0.9, 0.4], status="stopped"),
    )
    choice = choose(sweep)
    assert choice.path == f"{sweep}/trials/random_epochs2_seed0"
    assert choice.why == (
        "random_epochs2_seed0: of 3 finished trials (4 in the sweep) it has the least tuning error "
        "after the last epoch, 0.5000, the next 0.6000. That is one of 2 seeds, whose mean is "
        "0.6000 under random: no claim about the policy"
    )


def test_a_run_by_itself_is_taken_as_it_is(tmp_path):
    assert choose(str(tmp_path)).path == str(tmp_path)
    assert choose(str(tmp_path)).why == ""


def test_a_trial_that_diverged_is_not_the_best(tmp_path):
    sweep = sweep_of(tmp_path / "sweep", record("cv", [0.9, float("nan")]), record("random", [0.8]))
    assert choose(sweep).path.endswith("random_epochs1_seed0")


def test_sweeps_that_name_no_best_are_refused(tmp_path):
    begun = tmp_path / "begun"
    (begun / "trials" / "cv").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"infer\.checkpoint=.*has not ended.*--resume"):
        choose(str(begun))
    failed = sweep_of(tmp_path / "failed", record("cv", [0.9], status="failed"))
    with pytest.raises(ValueError, match="none of the 1 trials of this sweep is finished"):
        choose(failed)
    ratios = [(0.1, 0.3), (0.5, 0.2)]
    two = [record("cv", [e], seed=int(10 * r), axes={"mask.ratio": r}) for r, e in ratios]
    with pytest.raises(ValueError, match=r"differ in mask\.ratio \(0\.1, 0\.5\)"):
        choose(sweep_of(tmp_path / "ratios", *two))


def test_an_export_of_a_sweep_is_of_its_best_and_says_so(run, tmp_path):
    best = record("cv", [0.5])
    sweep = sweep_of(tmp_path / "sweep", best, record("random", [0.9]))
    (tmp_path / "sweep" / "trials" / best.trial).symlink_to(run.output_dir)
    config = {"infer.checkpoint": sweep, "output_dir": tmp_path / "out"}
    text = export(override(PRESETS["paper"], config))
    assert f"chosen: {best.trial}: of 2 finished trials" in text
    card = (tmp_path / "out" / CARD).read_text()
    assert f"Chosen in a sweep, so that its tuning error is too good: {best.trial}" in card
    progress = json.loads((tmp_path / "out" / "progress.json").read_text())
    assert progress["epoch"] == run.train.epochs
