"""A sweep without Ray: its grid, its folders, and what survives failures and interruptions."""

import dataclasses
import json
import types
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cvmae.checkpoint import FORMAT
from cvmae.config import PRESETS, override, read_config
from cvmae.storage.manifest import write_manifest
from cvmae.sweep import concurrency, driver, summary, trials

HISTORY = {"train_loss": 0.5, "tuning_r2": 0.1, "train_s": 2.0}


def write_checkpoint(config, epochs_done):
    """Leave what a pretraining leaves after some epochs, with errors that fall to a minimum."""
    folder = Path(config.output_dir) / "checkpoints" / f"step_{epochs_done:08d}"
    (folder / "statistics").mkdir(parents=True, exist_ok=True)
    for name in ("config.yaml", "model.safetensors", "optimizer.safetensors"):
        (folder / name).touch()
    history = [
        HISTORY
        | {"epoch": e, "step": e, "tuning_mse": abs(e - 1) + 1.0}
        | {"measurements_per_s": 100.0 * (e + 1), "data_wait_share": 0.1}
        for e in range(epochs_done)
    ]
    progress = {"epoch": epochs_done, "global_step": epochs_done, "history": history}
    (folder / "progress.json").write_text(json.dumps(progress))
    write_manifest(folder, FORMAT)


@pytest.fixture
def pretrained(monkeypatch):
    """Replace pretrain and the fit of statistics; list what pretrain was called with.

    `pretrained.fails` holds names of trials that raise, `pretrained.epochs` limits epochs.
    """
    record = types.SimpleNamespace(calls=[], parents=[], fails=set(), epochs=10**9, num_fits=0)

    def fake(config, *, parent_run_id="", data=None):
        record.calls.append(config)
        record.parents.append(parent_run_id)
        Path(config.output_dir).mkdir(parents=True, exist_ok=True)
        if Path(config.output_dir).name in record.fails:
            raise RuntimeError("lost its worker\nsecond line")
        write_checkpoint(config, min(config.train.epochs, record.epochs))
        return config.output_dir

    def fit(config, dataset):
        record.num_fits += 1
        return types.SimpleNamespace(fitted=None)

    monkeypatch.setattr(trials, "pretrain", fake)
    monkeypatch.setattr(driver, "fit_data", fit)
    monkeypatch.setattr(driver, "open_dataset", lambda root, splits: None)
    monkeypatch.setattr(driver, "warn_of_long_run", lambda runs, fitted, num_at_once: None)
    return record


@pytest.fixture
def config(tmp_path):
    changes = {
        "scaling.num_workers": 0,
        "output_dir": str(tmp_path / "out"),
        "data.root": str(tmp_path / "meds"),
        "sweep.policies": ["random", "cv"],
        "sweep.epochs": [2, 3],
        "sweep.seeds": [7],
    }
    return override(PRESETS["tiny"], changes)


def resumed(config):
    return override(config, {"resume": config.output_dir})


def test_every_cell_of_the_grid_is_pretrained_once_in_its_own_folder(config, pretrained):
    driver.sweep(override(config, {"sweep.seeds": [7, 8]}))
    assert [
        (Path(c.output_dir).name, c.mask.policy, c.train.epochs, c.seed) for c in pretrained.calls
    ] == [
        (f"{policy}_epochs{epochs}_seed{seed}", policy, epochs, seed)
        for policy in ("random", "cv")
        for epochs in (2, 3)
        for seed in (7, 8)
    ]


def test_empty_axes_take_the_settings_own_values(config, pretrained):
    driver.sweep(dataclasses.replace(config, seed=5, sweep=PRESETS["tiny"].sweep))
    names = [Path(c.output_dir).name for c in pretrained.calls]
    assert names == [f"{p}_epochs2_seed5" for p in ("random", "variance", "cv")]


def test_trials_share_one_fit_of_the_statistics_and_one_parent(config, pretrained):
    driver.sweep(config)
    assert pretrained.num_fits == 1
    places = {c.data.statistics for c in pretrained.calls}
    assert places == {str(Path(config.output_dir) / "statistics")}
    assert len(set(pretrained.parents)) == 1
    assert pretrained.parents[0] != ""


def test_statistics_that_were_given_are_used(config, pretrained, tmp_path):
    driver.sweep(override(config, {"data.statistics": str(tmp_path / "fitted")}))
    assert {c.data.statistics for c in pretrained.calls} == {str(tmp_path / "fitted")}


def test_relative_paths_are_absolute_in_trials(config, pretrained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    driver.sweep(override(config, {"data.root": "meds", "output_dir": "out"}))
    assert {c.data.root for c in pretrained.calls} == {str(tmp_path / "meds")}
    assert all(Path(c.output_dir).is_absolute() for c in pretrained.calls)


def test_the_resolved_settings_are_written_before_the_first_trial(config, pretrained):
    pretrained.fails = {"random_epochs2_seed7"}
    with pytest.raises(ValueError, match="1 of 4 trials failed"):
        driver.sweep(config)
    assert read_config(Path(config.output_dir) / "config.yaml").sweep == config.sweep


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sweep.seeds": [1, 1]}, r"sweep\.seeds=\(1, 1\) names 1 twice"),
        ({"sweep.policies": ["cv", "cv"]}, r"sweep\.policies=.* names 'cv' twice"),
        ({"sweep.epochs": [2, 0]}, r"train\.epochs=0 is not allowed"),
        ({"output_dir": ""}, "output_dir is empty"),
        ({"train.accumulation_steps": 9}, r"accumulation_steps=9 is more than the 8 lanes"),
        ({"train.compile": "on", "train.precision": "fp32"}, r"train\.compile=on is not possible"),
    ],
)
def test_a_grid_that_is_not_allowed_is_refused_before_anything_runs(
    config, pretrained, changes, message
):
    with pytest.raises(ValueError, match=message):
        driver.sweep(override(config, changes))
    assert pretrained.calls == []
    assert list(Path(config.output_dir).glob("*")) == []


def test_a_folder_in_use_is_refused(config, pretrained):
    driver.sweep(config)
    with pytest.raises(ValueError, match=r"is not empty.*--resume"):
        driver.sweep(config)


def test_resuming_where_nothing_was_is_refused(config, pretrained):
    with pytest.raises(FileNotFoundError, match="so no sweep"):
        driver.sweep(resumed(config))


def test_a_failed_trial_does_not_take_others_down_but_fails_the_sweep(
    config, pretrained, caplog, monkeypatch
):
    # Not through the root logger: a job of another test may have cut it off.
    monkeypatch.setattr(trials.logger, "handlers", [caplog.handler])
    pretrained.fails = {"random_epochs2_seed7"}
    with pytest.raises(ValueError, match="1 of 4 trials failed") as raised:
        driver.sweep(config)
    assert len(pretrained.calls) == 4
    assert "random_epochs2_seed7: RuntimeError: lost its worker\n" in str(raised.value)
    assert "--resume" in str(raised.value)
    assert "Traceback" in caplog.text  # nobody can mend a lost worker from one line
    rows = pq.read_table(Path(config.output_dir) / "trials.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["failed"] + ["finished"] * 3
    assert [row["error"] for row in rows][:2] == ["RuntimeError: lost its worker", None]


def test_resume_skips_finished_trials_and_continues_the_others(config, pretrained):
    pretrained.fails = {"cv_epochs3_seed7"}
    pretrained.epochs = 2
    with pytest.raises(ValueError, match="trials failed"):
        driver.sweep(config)
    pretrained.calls.clear()
    pretrained.fails, pretrained.epochs = set(), 10**9
    table = driver.sweep(resumed(config))
    # Two epochs were all that those of 2 needed; those of 3 were stopped early, the last one
    # before it wrote anything into its folder.
    assert [(Path(c.output_dir).name, c.resume != "") for c in pretrained.calls] == [
        ("random_epochs3_seed7", True),
        ("cv_epochs3_seed7", False),
    ]
    assert all(c.resume in ("", c.output_dir) for c in pretrained.calls)
    assert table.count("  finished  ") == 4


def test_an_interruption_ends_the_sweep(config, pretrained, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(trials, "pretrain", interrupt)
    with pytest.raises(KeyboardInterrupt):
        driver.sweep(config)
    about = json.loads((Path(config.output_dir) / "tracking.json").read_text())
    assert about["status"] == "FAILED"


def test_the_table_shows_what_each_trial_reached(config, pretrained):
    table = driver.sweep(config)
    rows = pq.read_table(Path(config.output_dir) / "trials.parquet").to_pylist()
    row = rows[1]
    assert (row["policy"], row["epochs"], row["seed"]) == ("random", 3, 7)
    assert (row["best_tuning_mse"], row["last_tuning_mse"]) == (1.0, 2.0)
    assert row["measurements_per_s"] == 250.0  # mean of 200 and 300: the first epoch warms up
    assert row["data_wait_share"] == pytest.approx(0.1)
    assert row["run_dir"] == f"{config.output_dir}/trials/random_epochs3_seed7"
    header, _, *lines = table.splitlines()
    assert header.split() == list(summary.PRINTED)
    assert lines[1].split()[:6] == ["random", "3", "7", "finished", "1.0000", "2.0000"]


def test_a_trial_that_never_began_has_no_numbers(config):
    (trial, *_) = trials.plan_trials(config)
    row = summary.summarise([trial], {})[0]
    assert (row["status"], row["best_tuning_mse"], row["measurements_per_s"]) == ("new", None, None)
    assert " - " in summary.format_table([row])


def ray_config(**changes):
    return override(PRESETS["tiny"], {f"scaling.{k}": v for k, v in changes.items()})


@pytest.mark.parametrize(
    ("config", "resources", "num_cores", "expected"),
    [
        # 8 CPUs less 1 for Ray Data hold 13 trials of 0.51, but two cores compute one of two.
        (ray_config(), {"CPU": 8}, 2, 1),
        (ray_config(), {"CPU": 64}, 64, 32),
        (ray_config(), {"CPU": 8}, 64, 13),
        # 1.51 CPUs hold exactly one trial of 0.51 beside Ray Data.
        (ray_config(), {"CPU": 1.51}, 2, 1),
        (ray_config(use_gpu=True), {"CPU": 64, "GPU": 8}, 64, 4),
        (ray_config(use_gpu=True), {"CPU": 2, "GPU": 8}, 2, 1),
        (override(ray_config(), {"sweep.max_concurrent": 3}), {"CPU": 8}, 2, 3),
        (override(ray_config(), {"train.num_threads": 4}), {"CPU": 64}, 64, 8),
    ],
)
def test_trials_at_a_time_leave_a_cpu_for_ray_data(config, resources, num_cores, expected):
    assert concurrency.num_concurrent(config, resources, num_cores) == expected


@pytest.mark.parametrize(
    ("config", "resources"),
    [
        (ray_config(), {"CPU": 1.5}),
        (ray_config(use_gpu=True), {"CPU": 8, "GPU": 1}),
        (override(ray_config(), {"sweep.max_concurrent": 14}), {"CPU": 8}),
    ],
)
def test_trials_that_would_wait_in_silence_are_refused_with_the_arithmetic(config, resources):
    with pytest.raises(ValueError, match=r"sweep\.max_concurrent=.* Ray Data needs 1 whole CPU"):
        concurrency.num_concurrent(config, resources, num_cores=8)


def test_more_trials_at_a_time_than_there_is_room_for_are_refused_before_the_fit(
    config, pretrained, monkeypatch
):
    monkeypatch.setattr(driver, "start_ray", lambda scaling: None)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 8})
    monkeypatch.setattr("ray.nodes", lambda: [{}])
    changes = {"scaling.num_workers": 1, "sweep.max_concurrent": 99}
    with pytest.raises(ValueError, match=r"sweep\.max_concurrent=99"):
        driver.sweep(override(config, changes))
    assert pretrained.num_fits == 0
    assert not Path(config.output_dir).exists()


def test_a_trial_that_was_killed_before_it_had_a_config_is_new(config):
    (trial, *_) = trials.plan_trials(config)
    Path(trial.config.output_dir, "checkpoints").mkdir(parents=True)
    assert trials.trial_status(trial) == "new"
    assert trials.resumable(trial).resume == ""
