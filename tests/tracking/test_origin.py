"""What a run says of where it comes from, what it learns from and what its node does."""

import json
import os
import subprocess
import time

import pytest

from cvmae.config import PRESETS, override
from cvmae.meds.dataset import open_dataset
from cvmae.tracking import node_watch, origin
from cvmae.tracking import store as tracking
from cvmae.tracking.dataset import describe_dataset
from cvmae.tracking.params import describe_run, told_params
from tests.prepared import training_data
from tests.tracking.runs import read_points, read_run


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (["--tracking.uri", "me:p@secret@host:5000"], "--tracking.uri host:5000"),
        (["--tracking.uri=http://me:secret@host"], "--tracking.uri=http://host"),
        (["--data.root", "s3://me:secret@bucket/x"], "--data.root s3://bucket/x"),
        (["--x=https://me:secret@host/y"], "--x=https://host/y"),
        (["--data.code_pattern", "^LAB//(?:A|B)@"], "--data.code_pattern '^LAB//(?:A|B)@'"),
    ],
)
def test_the_command_is_told_without_passwords(token, shown):
    assert origin.command(["pretrain.py", *token, "--seed", "1"]) == (
        f"python pretrain.py {shown} --seed 1"
    )


def commit_of(folder, monkeypatch):
    """Return what is told from a working folder, and by a package that is no checkout."""
    monkeypatch.setattr(origin.cvmae, "__file__", str(folder / "site-packages/cvmae/__init__.py"))
    monkeypatch.chdir(folder)
    tags = origin.origin_tags()
    return tags.get("mlflow.source.git.commit", ""), tags.get("mlflow.source.git.dirty", "")


def test_the_commit_is_that_of_the_working_folder_with_a_word_on_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit_of(tmp_path, monkeypatch) == ("", "")
    author = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    (tmp_path / "file").write_text("1")
    for command in (["init", "-q"], ["add", "file"], [*author, "commit", "-q", "-m", "m"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=tmp_path, text=True).strip()
    assert commit_of(tmp_path, monkeypatch) == (head, "")
    (tmp_path / "file").write_text("2")
    assert commit_of(tmp_path, monkeypatch) == (head, "true")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert commit_of(tmp_path, monkeypatch) == ("", "")


def test_the_commit_of_an_image_is_that_of_its_build_and_not_of_what_is_submitted_to_it(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (image := tmp_path / "image").mkdir()
    (copy := tmp_path / "working_dir_files" / "_ray_pkg_1").mkdir(parents=True)
    monkeypatch.setenv("CVMAE_COMMIT", "1f")
    assert commit_of(image, monkeypatch) == ("1f", "")
    monkeypatch.setenv("CVMAE_COMMIT", "1f-dirty")
    assert commit_of(image, monkeypatch) == ("1f", "true")
    assert commit_of(copy, monkeypatch) == ("", "")


def test_versions_machine_and_user_are_told(monkeypatch):
    tags = origin.origin_tags()
    assert "torch 2." in tags["cvmae.versions"]
    assert f"{os.cpu_count()} CPUs" in tags["cvmae.host"]
    monkeypatch.setattr(origin.getpass, "getuser", lambda: {}["no name"])
    assert "mlflow.user" not in origin.origin_tags()


def test_a_data_set_is_told_by_fingerprint_and_counts_without_subjects_or_passwords(tiny):
    data = training_data(tiny)
    told = describe_dataset(data)
    dataset = open_dataset(tiny.data.root)
    profile = json.loads(told["profile"])
    assert profile["fingerprint"] == dataset.fingerprint
    assert profile["splits"]["train"]["num_measurements"] > 0
    assert profile["num_codes"] == data.fitted.statistics.num_codes
    assert len(told["digest"]) == 8
    subjects = {str(subject) for member_S in dataset.members.values() for subject in member_S}
    numbers = {part.strip(' "{}[]:,') for part in told["profile"].split()}
    assert not {n for n in subjects & numbers if len(n) > 4}


def test_another_data_set_has_another_digest(tiny):
    data = training_data(tiny)
    digest = describe_dataset(data)["digest"]
    data.fitted.fingerprint["num_rows"] += 1
    assert describe_dataset(data)["digest"] != digest


def test_params_are_what_differs_from_the_preset_and_what_a_sweep_varies():
    config = override(
        PRESETS["small"],
        {"mask.ratio": 0.5, "output_dir": "/out", "tracking.experiment": "x", "train.epochs": 3},
    )
    assert told_params(config) == {
        "preset": "small",
        "masking": "cv",
        "mask.policy": "cv",
        "seed": 0,
        "train.epochs": 3,
        "mask.ratio": 0.5,
    }
    assert "`/out`" in describe_run(config, {"name": "a hospital"})


def test_the_seeds_of_a_sweep_share_a_word_for_what_they_have_in_common():
    config = override(PRESETS["tiny"], {"sweep.epochs": [2, 4], "seed": 7})
    assert told_params(config)["masking"] == "cv 2 epochs"


def test_the_data_set_is_an_input_of_the_run(on_mlflow, store, tiny):
    told = describe_dataset(training_data(tiny))
    for _ in range(2):  # a resumed run has it once
        tracker = tracking.open_tracker(on_mlflow, run_name="run")
        tracker.log_dataset(told)
        tracker.close("FINISHED")
    (entry,) = read_run(store, tracker.mlflow_id).inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == (told["name"], told["digest"])
    assert entry.tags[0].value == "training"


def test_the_node_is_watched_while_a_worker_trains_and_counted_on_by_the_next(
    on_mlflow, store, monkeypatch
):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    driver = tracking.open_tracker(on_mlflow, run_name="run")
    for epoch in (1, 2):
        worker = tracking.join_tracker(on_mlflow, run_name="run", key=driver.key, parent_run_id="")
        time.sleep(0.35)
        worker.log_metrics({"loss": 1.0}, step=epoch)
        worker.leave()
    points = read_points(store, driver.mlflow_id, "system/cpu_utilization_percentage")
    assert len(points) >= 4
    assert [step for step, _ in points] == list(range(len(points)))
    assert read_points(store, driver.mlflow_id, "system/system_memory_usage_megabytes")[0][1] > 0
    assert "CPUs" in read_run(store, driver.mlflow_id).data.tags["cvmae.worker_host"]


def test_a_node_that_cannot_be_watched_breaks_no_run(monkeypatch, caplog):
    class BrokenMonitor:
        def collect_metrics(self):
            raise OSError("no sensor")

    monkeypatch.setattr(node_watch, "_monitors", lambda: [BrokenMonitor()])
    watch = node_watch.NodeWatch(0)
    watch.stop()
    assert watch.take() == []
    assert caplog.text.count("the node is not watched any more (no sensor)") == 1


def test_a_user_may_switch_the_watch_off(monkeypatch):
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    watch = node_watch.NodeWatch(0)
    watch.stop()
    assert watch.take() == []
