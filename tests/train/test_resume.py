"""Resuming: what changes data, model or updates is refused and named, the rest is not."""

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from cvmae.checkpoint import load_state
from cvmae.config import Config, override, read_config
from cvmae.synthetic.hospital import SyntheticConfig, write_hospital
from cvmae.train import loop
from cvmae.train.pretrain import pretrain
from cvmae.train.resume import check_same_run
from tests.prepared import fit, load_or_fit


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another hospital with the same codes."""
    root = tmp_path_factory.mktemp("elsewhere") / "meds"
    return write_hospital(
        SyntheticConfig(root=str(root), num_subjects=50, num_codes=8, num_shards=3, seed=9)
    )


class InterruptedRunError(Exception):
    """Stands for a process that ends here."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained") / "run"


@pytest.fixture
def run(tiny: Config, trained: Path) -> Config:
    """Settings of a run that is resumed: a copy of one that was trained once."""
    if not trained.exists():
        pretrain(replace(tiny, output_dir=str(trained)))
    shutil.copytree(trained, tiny.output_dir)
    return replace(tiny, resume=tiny.output_dir)


def fitted_to(config: Config, folder: Path) -> Config:
    """Fit statistics to the settings as they are now, and give them."""
    fit(config).write(folder)
    return replace(config, data=replace(config.data, statistics=str(folder)))


def check(config: Config) -> None:
    check_same_run(config, load_or_fit(config))


def test_another_data_set_is_refused_until_data_and_statistics_are_allowed(
    run, elsewhere, tmp_path
):
    moved = replace(run, data=replace(run.data, root=elsewhere))
    with pytest.raises(ValueError, match=r"num_rows is .*--resume_allow data statistics"):
        pretrain(moved)
    moved = fitted_to(moved, tmp_path / "fitted")
    with pytest.raises(ValueError, match=r"data: .*num_rows \d+ -> \d+.*; statistics: vocabulary"):
        check(moved)
    with pytest.raises(ValueError, match=r"--resume_allow statistics if"):
        check(replace(moved, resume_allow=("data",)))
    moved = replace(moved, train=replace(moved.train, epochs=3))
    allowed = ("data", "statistics", "train.epochs")
    pretrain(replace(moved, resume_allow=allowed))
    progress, _, _ = load_state(run.output_dir)
    assert progress.epoch == 3
    # From here on the other data are the run's own, and the permission is used up.
    assert not read_config(Path(run.output_dir) / "config.yaml").resume_allow
    check(moved)


@pytest.mark.parametrize(
    ("first", "shown"),
    [
        (slice(None, None, -1), "vocabulary of 8 codes -> 8, in another order"),
        (slice(3, None), "vocabulary of 8 codes -> 8, without LAB//.* and with LAB//new"),
    ],
)
def test_another_vocabulary_is_shown_and_must_be_allowed(run, first, shown):
    fitted = load_or_fit(run)
    codes = fitted.statistics.codes[first]
    codes += tuple(f"LAB//new{number}" for number in range(8 - len(codes)))
    changed = replace(fitted, statistics=replace(fitted.statistics, codes=codes))
    with pytest.raises(ValueError, match=rf"statistics: {shown}.*--resume_allow statistics if"):
        check_same_run(run, changed)
    check_same_run(replace(run, resume_allow=("statistics",)), changed)


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("mask.ratio", 0.5, r"0\.25 -> 0\.5"),
        ("mask.policy", "random", "'cv' -> 'random'"),
        ("optim.lr", 0.5, r"0\.001 -> 0\.5"),
        ("train.batch_sequences", 8, "16 -> 8"),
        ("train.epochs", 9, "2 -> 9"),  # the cosine's length
        ("data.lanes", 2, "4 -> 2"),
        ("evaluate.seed", 1, "20250 -> 1"),
        ("model.num_heads", 4, "2 -> 4"),  # shapes stay, the function does not
        ("seed", 1, "0 -> 1"),
        ("train.precision", "bf16", "'fp32' -> 'bf16'"),
    ],
)
def test_a_setting_that_changes_the_run_is_refused_until_it_is_allowed(run, name, value, shown):
    changed = override(run, {name: value})
    with pytest.raises(ValueError, match=rf"\({name}: {shown}\).*--resume_allow {name} if"):
        check(changed)
    check(replace(changed, resume_allow=(name,)))


@pytest.mark.parametrize(
    ("name", "value"), [("model.width", 16), ("model.num_layers", 3), ("model.num_layers", 1)]
)
def test_a_model_that_the_weights_do_not_fit_is_refused_whatever_is_allowed(run, name, value):
    changed = replace(override(run, {name: value}), resume_allow=(name,))
    with pytest.raises(ValueError, match=r"weights are of another model: .* no resume_allow makes"):
        pretrain(changed)
    assert load_state(run.output_dir)[0].is_finished(run)  # still the run's own


def test_another_number_of_codes_is_refused_whatever_is_allowed(run, tmp_path):
    fewer = fitted_to(replace(run, data=replace(run.data, num_codes=5)), tmp_path / "fitted")
    fewer = replace(fewer, resume_allow=("statistics", "data.num_codes"))
    with pytest.raises(ValueError, match=r"shape \[8, 32\], expected \[5, 32\]"):
        pretrain(fewer)


def test_an_epoch_that_was_begun_goes_on_where_an_allowed_change_makes_it_shorter(
    tiny, monkeypatch
):
    config = replace(
        tiny,
        train=replace(tiny.train, batch_sequences=8),
        checkpoint=replace(tiny.checkpoint, every_steps=5),
    )
    stopped = loop.save_checkpoint

    def save_and_stop(*args, **rest):
        stopped(*args, **rest)
        if rest["progress"].step == 20:
            raise InterruptedRunError

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", save_and_stop)
        with pytest.raises(InterruptedRunError):
            pretrain(config)
    longer = replace(config, resume=tiny.output_dir, train=replace(tiny.train, batch_sequences=16))
    pretrain(replace(longer, resume_allow=("train.batch_sequences",)))
    steps = [epoch["step"] for epoch in load_state(tiny.output_dir)[0].history]
    assert steps[0] == 20
    assert 20 < steps[1] < 40


def test_a_device_whose_arithmetic_is_another_is_refused_where_precision_is_auto(run):
    on_gpu = replace(run, scaling=replace(run.scaling, num_workers=2, use_gpu=True))
    with pytest.raises(ValueError, match=r"\(train\.precision: 'fp32' -> 'bf16'\)"):
        check(on_gpu)
    check(replace(on_gpu, train=replace(on_gpu.train, precision="fp32")))


def test_metrics_of_an_epoch_that_a_kill_kept_from_being_reported_are_made_up_for(
    tiny, tmp_path, monkeypatch
):
    whole = pretrain(replace(tiny, output_dir=str(tmp_path / "whole")))
    stopped = loop.save_checkpoint

    def save_and_stop(*args, **rest):
        stopped(*args, **rest)
        raise InterruptedRunError

    for epoch in (1, 2):
        with monkeypatch.context() as patch:
            patch.setattr(loop, "save_checkpoint", save_and_stop)
            with pytest.raises(InterruptedRunError):
                pretrain(replace(tiny, resume=tiny.output_dir if epoch > 1 else ""))
    for _ in range(2):  # what has been reported is not reported twice
        pretrain(replace(tiny, resume=tiny.output_dir))
    ours, theirs = (
        [
            (point["step"], point["name"])
            for point in pq.read_table(f"{run}/metrics.parquet").to_pylist()
        ]
        for run in (tiny.output_dir, whole)
    )
    assert ours == theirs


def test_harmless_changes_are_not_refused(run, tmp_path):
    elsewhere = tmp_path / "copy"
    load_or_fit(run).write(elsewhere)
    check(
        override(
            run,
            {
                "data.statistics": str(elsewhere),
                "train.num_threads": 2,
                "train.strategy": "deepspeed",
                "train.activation_checkpointing": True,
                "deepspeed.stage": 3,
                "deepspeed.offload": "parameters",
                "deepspeed.config_file": "x.json",
                "scaling.num_workers": 4,
                "scaling.cpus_per_worker": 1.5,
                "scaling.max_failures": 7,
                "checkpoint.every_steps": 3,
                "checkpoint.keep": 5,
                "tracking.uri": "http://elsewhere",
                "tracking.experiment": "other",
                "sweep.seeds": [1, 2],
                "evaluate.bootstrap_samples": 10,
            },
        )
    )


def test_an_elastic_run_may_be_made_of_a_fixed_one(run):
    check(override(run, {"scaling.num_workers": 4, "scaling.min_workers": 2}))


def test_a_permission_that_names_nothing_is_refused(run):
    with pytest.raises(ValueError, match=r"resume_allow='mask\.rato' is no setting"):
        check(replace(run, resume_allow=("mask.rato",)))


def test_a_store_that_lacks_epochs_of_a_run_is_given_them_when_it_is_resumed(tiny):
    metrics = Path(pretrain(tiny)) / "metrics.parquet"
    whole = pq.read_table(metrics)
    losses = whole.filter(pc.equal(whole["name"], "tuning_mse")).drop_columns(["time"])
    metrics.unlink()
    pretrain(replace(tiny, resume=tiny.output_dir))
    again = pq.read_table(metrics)
    again = again.filter(pc.equal(again["name"], "tuning_mse")).drop_columns(["time"])
    assert again.equals(losses)
