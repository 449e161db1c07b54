"""A sweep without Ray: its grid, its folders, and what survives failures and interruptions."""

import dataclasses
import importlib
import json
import re
import signal
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cvmae.config import PRESETS, Config, override, parse, read_config
from cvmae.runtime.nodes import Node
from cvmae.runtime.preemption import PreemptedError
from cvmae.sweep import concurrency, driver, trials
from cvmae.sweep.figures import redraw
from tests.sweep.fake_trials import write_checkpoint

FIGURES = {"convergence.png", "ranked_error.png", "error_by_quartile.png", "share_hidden.png"}


LABELS = [f"{policy} {epochs} epochs" for epochs in (2, 3) for policy in ("random", "cv")]


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
        ({"sweep.seeds": [1, 1]}, r"sweep\.seeds=1 1 names 1 twice"),
        ({"sweep.policies": ["cv", "cv"]}, r"sweep\.policies=cv cv names cv twice"),
        ({"sweep.epochs": [2, 0]}, r"train\.epochs=0 is not allowed"),
        ({"output_dir": ""}, "output_dir is empty"),
        ({"train.accumulation_steps": 9}, r"accumulation_steps=9 is more than the 8 lanes"),
        ({"train.compile": "on", "train.precision": "fp32"}, r"train\.compile=on is not possible"),
        ({"sweep.scheduler": "asha"}, r"sweep\.scheduler=asha compares trials .*num_workers 1"),
        (
            {"sweep.axes": ["train.accumulation_steps=1,9"]},
            r"=9 is more than the 8 lanes",
        ),
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
    assert "unfinished" not in table
    rows = pq.read_table(Path(config.output_dir) / "trials.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["finished"] * 4


def test_the_table_shows_what_each_trial_reached(config, pretrained):
    told = driver.sweep(config)
    rows = pq.read_table(Path(config.output_dir) / "trials.parquet").to_pylist()
    row = rows[1]
    assert (row["policy"], row["epochs"], row["seed"]) == ("random", 3, 7)
    assert (row["best_tuning_mse"], row["last_tuning_mse"]) == (1.0, 2.0)
    assert row["measurements_per_s"] == 250.0  # mean of 200 and 300: the first epoch warms up
    assert row["data_wait_share"] == pytest.approx(0.1)
    assert row["run_dir"] == f"{config.output_dir}/trials/random_epochs3_seed7"
    lines = [line.split() for line in told.splitlines()]
    assert ["random", "3", "epochs", "3", "1", "2.0000", "-", "0.000", "-", "1.0000"] in lines
    assert [
        "cv",
        "3",
        "epochs",
        "3",
        "1",
        "2.0000",
        "-",
        "+0.0000",
        "-",
        "0.000",
        "-",
        "1.0000",
    ] in lines


def test_a_sweep_leaves_all_that_is_needed_to_draw_it_again(config, pretrained, tmp_path, drawn):
    pretrained.draws = True
    told = driver.sweep(config)
    folder = Path(config.output_dir)
    assert told.startswith((folder / "report.txt").read_text().strip())
    assert {path.name for path in folder.glob("*.parquet")} >= {
        "trials.parquet",
        "results.parquet",
        "code_results.parquet",
    }
    drawn = {path.name for path in (folder / "figures").iterdir()}
    again = redraw(tmp_path / "again", folder / "summary.json")
    assert {path.name for path in again} == drawn == FIGURES
    tables = {path.stem: json.loads(path.read_text()) for path in folder.glob("tables/*.json")}
    assert set(tables) == {"ranking", "convergence", "quartiles"}
    assert [row[0] for row in tables["ranking"]["data"]] == LABELS


def test_a_sweep_says_how_its_best_model_is_registered_where_it_names_one(config, pretrained):
    told = driver.sweep(config)
    (line,) = [line for line in told.splitlines() if "to register" in line]
    assert line == (
        "to register the best model in MLflow: python jobs/export.py --infer.checkpoint "
        f"{config.output_dir} --infer.register NAME --tracking.uri URI --output_dir NEW_FOLDER"
    )
    tree = parse(Config(), line.partition("export.py ")[2].split())
    assert (tree.infer.checkpoint, tree.infer.register) == (config.output_dir, "NAME")
    ratios = {"sweep.axes": ["mask.ratio=0.2,0.6"], "output_dir": f"{config.output_dir}_ratios"}
    assert "to register" not in driver.sweep(override(config, ratios))  # they do not compare


def ray_config(**changes):
    return override(PRESETS["tiny"], {f"scaling.{k}": v for k, v in changes.items()})


@pytest.mark.parametrize(
    ("config", "nodes", "num_cores", "expected"),
    [
        # 8 CPUs less 1 for Ray Data hold 13 trials of 0.51, but two cores compute one of two.
        (ray_config(), [{"CPU": 8}], 2, 1),
        (ray_config(), [{"CPU": 32}, {"CPU": 32}], 64, 32),
        (ray_config(), [{"CPU": 8}], 64, 13),
        # 1.51 CPUs hold exactly one trial of 0.51 beside Ray Data.
        (ray_config(), [{"CPU": 1.51}], 2, 1),
        (ray_config(use_gpu=True), [{"CPU": 32, "GPU": 4}, {"CPU": 32, "GPU": 4}], 64, 4),
        (ray_config(use_gpu=True), [{"CPU": 2, "GPU": 8}], 2, 1),
        (override(ray_config(), {"sweep.max_concurrent": 3}), [{"CPU": 8}], 2, 3),
        (override(ray_config(), {"train.num_threads": 4}), [{"CPU": 64}], 64, 8),
        # Together three nodes have room for 3 workers of 1.5 CPUs, but then for no whole CPU.
        (ray_config(num_workers=1, cpus_per_worker=1.5), [{"CPU": 2}] * 3, 6, 2),
    ],
)
def test_trials_at_a_time_leave_a_cpu_for_ray_data(config, nodes, num_cores, expected):
    found = concurrency.num_concurrent(config, [Node(own) for own in nodes], num_cores)
    assert found == expected


@pytest.mark.parametrize(
    ("config", "nodes"),
    [
        (ray_config(), [{"CPU": 1.5}]),
        (ray_config(use_gpu=True), [{"CPU": 8, "GPU": 1}]),
        (override(ray_config(), {"sweep.max_concurrent": 14}), [{"CPU": 8}]),
    ],
)
def test_trials_that_would_wait_in_silence_are_refused_with_the_arithmetic(config, nodes):
    with pytest.raises(ValueError, match=r"sweep\.max_concurrent=.* Ray Data needs 1 whole CPU"):
        concurrency.num_concurrent(config, [Node(own) for own in nodes], num_cores=8)


def test_more_trials_at_a_time_than_there_is_room_for_are_refused_before_the_fit(
    config, pretrained, monkeypatch
):
    monkeypatch.setattr(driver, "start_ray", lambda scaling: None)
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": {"CPU": 8}}])
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


def stop(config, name, epochs_done=1):
    """Leave a trial as a scheduler leaves it that has stopped it."""
    (trial,) = (one for one in trials.plan_trials(config) if one.name == name)
    write_checkpoint(trial.config, epochs_done)
    (Path(trial.config.output_dir) / "config.yaml").touch()
    trials.mark_stopped(trial, "by sweep.scheduler asha after epoch 1")
    return trial


def test_a_stopped_trial_is_left_as_it_is_and_listed(config, pretrained):
    driver.sweep(override(config, {"sweep.max_trials": 1}))
    stop(config, "cv_epochs3_seed7")
    pretrained.calls.clear()
    told = driver.sweep(resumed(config))
    assert {Path(c.output_dir).name for c in pretrained.calls} == {
        "random_epochs3_seed7",
        "cv_epochs2_seed7",
    }
    assert re.search(r"^cv_epochs3_seed7 +stopped +1/3 +2\.0000$", told, re.M)
    assert "asha has stopped trials early" in told  # also where the scheduler is none by now


def test_a_stopped_trial_goes_on_when_its_mark_is_taken_away(config):
    trial = stop(config, "cv_epochs3_seed7")
    assert trials.trial_status(trial) == "stopped"
    (Path(trial.config.output_dir) / trials.STOPPED).unlink()
    assert trials.trial_status(trial) == "unfinished"


@pytest.mark.parametrize(
    ("budget", "expected"),
    [({"sweep.max_trials": 3}, 3), ({"sweep.max_epochs": 7}, 3), ({"sweep.max_hours": 1e-9}, 0)],
)
def test_when_a_budget_is_used_up_the_rest_stays_new_until_there_is_more(
    config, pretrained, budget, expected
):
    told = driver.sweep(override(config, budget))
    (name,) = budget
    assert len(pretrained.calls) == expected
    assert f"{name}={budget[name]} is used up" in told
    assert re.search(rf"^{4 - expected} more +not begun", told, re.M)
    pretrained.calls.clear()
    driver.sweep(resumed(config))
    assert len(pretrained.calls) == 4 - expected


def test_what_has_begun_goes_on_before_another_trial_begins(config, pretrained):
    pretrained.epochs, pretrained.fails = 2, {"random_epochs3_seed7"}
    with pytest.raises(ValueError, match="1 of 4 trials failed"):
        driver.sweep(config)
    pretrained.epochs, pretrained.fails = 10**9, set()
    pretrained.calls.clear()
    driver.sweep(override(resumed(config), {"sweep.max_trials": 3}))
    assert [Path(c.output_dir).name for c in pretrained.calls] == ["cv_epochs3_seed7"]


def test_the_parents_metrics_are_means_over_seeds_by_epoch(config, pretrained):
    driver.sweep(override(config, {"sweep.epochs": [3], "sweep.seeds": [1, 2]}))
    columns = pq.read_table(Path(config.output_dir) / "metrics.parquet").to_pydict()
    points = list(zip(columns["name"], columns["step"], columns["value"], strict=True))
    assert [p for p in points if p[0] == "tuning_mse/cv 2 seeds"] == [
        ("tuning_mse/cv 2 seeds", 1, 2.0),
        ("tuning_mse/cv 2 seeds", 2, 1.0),
        ("tuning_mse/cv 2 seeds", 3, 2.0),
    ]
    assert ("best_tuning_mse/cv 2 seeds", 3, 1.0) in points


def test_a_sweeps_run_is_called_by_what_it_tries(config, pretrained):
    driver.sweep(override(config, {"sweep.axes": ["mask.ratio=0.15,0.25"], "sweep.seeds": [1, 2]}))
    about = json.loads((Path(config.output_dir) / "tracking.json").read_text())
    assert about["run_name"] == "random, cv x 2, 3 epochs x ratio 0.15, 0.25 x 2 seeds"
    assert about["run_name"] in about["tags"]["mlflow.note.content"]
    assert about["dataset"]["name"] == "meds"


def test_a_ratio_that_short_sequences_cannot_meet_is_said_once_a_sweep(tiny, monkeypatch, caplog):
    monkeypatch.setattr(driver, "_run", lambda attempt: {})
    changes = {
        "sweep.axes": ["mask.ratio=0.25,0.95"],
        "sweep.policies": ["random", "cv", "variance"],
    }
    driver.sweep(override(tiny, changes | {"mask.anneal_epochs": 9}))
    assert caplog.text.count("mask.ratio=0.95 cannot be met by sequences of fewer than") == 1
    assert caplog.text.count("mask.anneal_epochs=9 is not below train.epochs=2") == 1


def test_ray_is_not_imported_before_its_environment_is_prepared(config, monkeypatch):
    seen = []
    monkeypatch.delitem(sys.modules, "cvmae.sweep.tune", raising=False)
    monkeypatch.delattr("cvmae.sweep.tune", raising=False)  # or other tests would find another one
    monkeypatch.setattr(
        driver, "start_ray", lambda scaling: seen.append("cvmae.sweep.tune" in sys.modules)
    )
    monkeypatch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": {"CPU": 8}}])
    config = override(config, {"scaling.num_workers": 1})
    assert driver._start_ray(config, trials.plan_trials(config)) >= 1
    assert seen == [False]


def test_a_signal_in_the_last_moment_of_a_trial_ends_the_sweep(tiny, monkeypatch):
    pretraining = importlib.import_module("cvmae.train.pretrain")
    train = pretraining.train

    def signalled(*args, **rest):
        progress = train(*args, **rest)
        signal.raise_signal(signal.SIGINT)
        return progress

    monkeypatch.setattr(pretraining, "train", signalled)
    with pytest.raises(PreemptedError, match="stopped by a signal, when random_epochs2"):
        driver.sweep(override(tiny, {"sweep.policies": ["random", "cv"]}))
    (only,) = (Path(tiny.output_dir) / "trials").iterdir()
    assert only.name.startswith("random")


def test_trials_of_an_earlier_grid_that_a_resumed_one_leaves_out_are_said(
    config, pretrained, caplog
):
    driver.sweep(config)
    assert "not in this grid" not in caplog.text
    again = {"resume": config.output_dir, "sweep.policies": ["cv"]}
    driver.sweep(override(config, again))
    assert "2 trials in" in caplog.text
