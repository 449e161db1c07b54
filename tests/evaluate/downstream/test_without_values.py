"""Models that restore no values, or not as others do, are compared by labels."""

import importlib
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from cvmae.checkpoint import checkpoint_stamp, find_checkpoint
from cvmae.config import override
from cvmae.evaluate.downstream.finetuned import read_finetuned
from cvmae.evaluate.evaluate import evaluate
from cvmae.evaluate.models import find_contestants, load
from cvmae.evaluate.pretrainings import begun_with
from cvmae.infer.embed import untrained
from cvmae.meds.labels import read_tasks
from cvmae.train.finetune import finetune
from tests.evaluate.downstream.planted_tasks import write_set
from tests.evaluate.trained import train_models


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model of values, one of whole measurements and a fine-tuned one; their shared settings."""
    folder = tmp_path_factory.mktemp("without_values")
    write_set(folder / "meds")
    models = {
        "random": {"mask.policy": "random"},
        "whole": {"mask.policy": "random", "mask.target": "measurement"},
    }
    shared = train_models(folder / "meds", folder, models)
    given = {
        "finetune.checkpoint": folder / "random",
        "finetune.labels": folder / "meds" / "labels" / "known",
        "finetune.epochs": 2,
        "output_dir": folder / "learnt",
    }
    finetune(override(shared, given))
    other = {"finetune.labels": folder / "meds" / "labels" / "later"}
    finetune(override(shared, given | other | {"output_dir": folder / "learnt_later"}))
    few = {"bootstrap_samples": 20, "min_scored": 10, "leave_one_out": 0}
    few |= {"labels": folder / "meds" / "labels"}
    return override(shared, {f"evaluate.{name}": value for name, value in few.items()}), folder


def settings_for(trained, output, *names, **changes):
    shared, folder = trained
    entries = [name if "=" in name else f"{name}={folder / name}" for name in names]
    return override(shared, {"evaluate.checkpoints": entries, "output_dir": output, **changes})


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory):
    """The folder of an evaluation of all three, and what their runs are given."""
    out, given = tmp_path_factory.mktemp("evaluated") / "out", []
    with pytest.MonkeyPatch.context() as patch:
        module = importlib.import_module("cvmae.evaluate.evaluate")
        patch.setattr(module, "give_to_runs", lambda results, folder: given.extend(results))
        later = f"learnt={trained[1] / 'learnt_later'}"
        evaluate(settings_for(trained, out, "random", "whole", "learnt", later))
    return out, given


@pytest.fixture(scope="module")
def results(evaluated):
    return json.loads((evaluated[0] / "results.json").read_text())


def task_of(results, name):
    return next(t for t in results["downstream"]["tasks"] if t["support"]["name"] == name)


def test_a_model_of_whole_measurements_is_compared_by_probes_alone(evaluated, results):
    for task in results["downstream"]["tasks"]:
        features = [row["features"] for row in task["probes"] if row["method"] == "whole"]
        # Its decoder asks by place, so that no code can be asked for.
        assert features == ["mean", "mean + hand-made"]
    pairs = {(p["first"], p["second"]) for p in task_of(results, "known")["differences"]}
    assert {("whole", "random"), ("whole", "untrained encoder")} <= pairs
    names = [method["name"] for method in results["methods"] if method["kind"] != "baseline"]
    assert names == ["random"]
    assert "mask.target=measurement" in results["not_compared"]["whole"]
    page = (evaluated[0] / "report.html").read_text()
    assert any(note.startswith("whole: trained with mask.target=") for note in results["notes"])
    assert "whole: trained with mask.target=measurement" in page


def test_the_others_are_compared_with_a_model_that_restores_values_wherever_it_stands_by_name(
    trained, tmp_path
):
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        module = importlib.import_module("cvmae.evaluate.downstream.candidates")
        patch.setattr(module, "untrained", lambda base, n: asked.append(base) or untrained(base, n))
        names = [f"cv={trained[1] / 'random'}", f"ablation={trained[1] / 'whole'}"]
        labels = trained[1] / "meds" / "labels" / "known"
        settings = settings_for(trained, tmp_path / "out", *names, **{"evaluate.labels": labels})
        evaluate(settings)
    assert {model.config.mask.target for model in asked} == {"value"}
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    pairs = {(p["first"], p["second"]) for p in task_of(results, "known")["differences"]}
    assert ("ablation", "cv") in pairs
    assert ("cv", "ablation") not in pairs


def test_a_fine_tuned_encoder_stands_beside_the_probes_of_the_task_it_has_learnt(trained, results):
    rows = {
        task["support"]["name"]: [r for r in task["probes"] if r["method"] == "learnt"]
        for task in results["downstream"]["tasks"]
    }
    assert {name for name, own in rows.items() if own} == {"known", "later"}
    (row,) = rows["known"]
    assert (row["kind"], row["learner"], row["chosen"]) == ("fine-tuned", "fine-tuning", True)
    table = pq.read_table(trained[1] / "learnt" / "predictions.parquet")
    truth, chance = table["boolean_value"], table["predicted_boolean_probability"]
    expected = roc_auc_score(truth.to_numpy(zero_copy_only=False), chance.to_numpy())
    assert row["scores"]["auroc"]["value"] == pytest.approx(expected)
    known = task_of(results, "known")
    pairs = {p["second"] for p in known["differences"] if p["first"] == "learnt"}
    assert pairs == {"random", "untrained encoder", "hand-made features"}
    assert "learnt" in results["not_compared"]
    assert any("learnt" in group["scores"] for group in known["subgroups"])
    # Two runs under one name, and one seed in each task.
    assert results["downstream"]["notes"][0].endswith("random (1), whole (1), learnt (1).")


def test_whose_weights_are_scored_is_told_with_their_paths(trained, results):
    rows = [row for task in results["downstream"]["tasks"] for row in task["probes"]]
    runs = [run for method in results["methods"] for run in method["runs"]]
    told = {pair for row in rows for pair in zip(row["checkpoints"], row["stamps"], strict=True)}
    told |= {(run["checkpoint"], run["stamp"]) for run in runs}
    paths = [str(trained[1] / name) for name in ("random", "whole", "learnt", "learnt_later")]
    assert told == {(path, checkpoint_stamp(path)) for path in paths}


def test_each_run_is_given_its_scores_of_every_task(trained, evaluated, results):
    found = {str(run.path): run.metrics for run in evaluated[1]}
    names = ("random", "whole", "learnt", "learnt_later")
    assert set(found) == {str(trained[1] / name) for name in names}
    learnt = found[str(trained[1] / "learnt_later")]
    assert set(learnt) == {"held_out_later_auroc", "held_out_later_auprc"}
    for name in ("random", "whole", "learnt"):
        metrics = found[str(trained[1] / name)]
        own = [row for row in task_of(results, "known")["probes"] if row["method"] == name]
        (chosen,) = [row for row in own if row["chosen"]]
        for score in ("auroc", "auprc"):
            told = metrics[f"held_out_known_{score}"]
            assert told == pytest.approx(chosen["scores"][score]["seeds"][0])
        means = [row for row in own if row["features"] == "mean"]
        for row in means:
            assert metrics["held_out_known_auroc_mean"] == row["scores"]["auroc"]["seeds"][0]
        assert ("held_out_known_auroc_mean" in metrics) == (name != "learnt")
    assert "held_out_number_r2" in found[str(trained[1] / "whole")]
    # Not defined, so not told.
    assert not [n for n in found[str(trained[1] / "random")] if n.startswith("held_out_readm")]


def test_a_fine_tuned_run_says_which_weights_it_began_with(trained, tmp_path):
    expected = checkpoint_stamp(trained[1] / "random")
    (labels,) = read_tasks(str(trained[1] / "meds" / "labels" / "known"))
    none_L = np.zeros(labels.num_labels, bool)
    moved = shutil.copytree(trained[1] / "learnt", tmp_path / "moved")
    for path in (trained[1] / "learnt", find_checkpoint(moved)):
        (run,) = find_contestants([f"learnt={path}"])
        assert read_finetuned(run, labels, none_L).begun_with == expected
    config = override(load(run, "cpu").config, {"finetune.from_scratch": True})
    assert begun_with(run.path, config) == ""
    # An old folder does not keep it: what it was begun with is still there, or its path is known.
    (moved / "pretrained.sha256").unlink()
    for checkpoint, told in ((trained[1] / "random", expected), ("gone", "gone")):
        config = override(load(run, "cpu").config, {"finetune.checkpoint": checkpoint})
        assert begun_with(run.path, config) == told


def test_predictions_that_do_not_cover_what_is_scored_do_not_count(trained, tmp_path):
    shutil.copytree(trained[1] / "learnt", tmp_path / "learnt")
    path = tmp_path / "learnt" / "predictions.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    settings = settings_for(trained, tmp_path / "out", "random", f"learnt={tmp_path / 'learnt'}")
    with pytest.raises(ValueError, match="no prediction of 1 of the 120 labels of known"):
        evaluate(settings)


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        (("random", "whole"), {"evaluate.labels": ""}, r"by probes of its encoder alone; give"),
        (("whole",), {}, r"give a model with mask\.target=value beside it"),
        (("random", "learnt"), {"evaluate.labels": "later"}, r"holds other labels than every task"),
        (("random", "learnt"), {"evaluate.split": "tuning"}, r"has predicted held_out alone"),
        (("random", "random=whole"), {}, r"is there for (probes|reconstruction) and random="),
    ],
)
def test_runs_that_nothing_can_be_compared_by_are_refused(
    trained, tmp_path, names, changes, message
):
    if changes.get("evaluate.labels"):
        changes = {"evaluate.labels": trained[1] / "meds" / "labels" / changes["evaluate.labels"]}
    names = [n.replace("=whole", f"={trained[1] / 'whole'}") for n in names]
    with pytest.raises(ValueError, match=message):
        evaluate(settings_for(trained, tmp_path / "out", *names, **changes))


def test_a_fine_tuning_that_has_not_ended_is_refused(trained, tmp_path):
    shutil.copytree(trained[1] / "learnt", tmp_path / "learnt")
    (tmp_path / "learnt" / "predictions.parquet").unlink()
    settings = settings_for(trained, tmp_path / "out", "random", f"learnt={tmp_path / 'learnt'}")
    with pytest.raises(FileNotFoundError, match=r"no predictions\.parquet there; a fine-tuning"):
        evaluate(settings)
