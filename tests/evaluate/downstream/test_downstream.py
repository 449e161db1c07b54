"""One evaluation of small models on tasks whose answer is known."""

import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from cvmae.config import override
from cvmae.evaluate.evaluate import evaluate
from cvmae.infer.notice import NOTE
from tests.evaluate.downstream.planted_tasks import FIRST, write_set
from tests.evaluate.trained import train_models

TEXTS = {".json", ".html", ".yaml", ".txt", ".svg", ".csv"}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, drawn):
    """The folder of an evaluation, and what it printed."""
    folder = tmp_path_factory.mktemp("downstream")
    write_set(folder / "meds")
    models = {
        f"{policy}{seed}": {"mask.policy": policy, "seed": seed}
        for policy, seed in (("random", 0), ("random", 1), ("cv", 0))
    }
    shared = train_models(folder / "meds", folder, models)
    given = {
        "evaluate.checkpoints": [f"{name[:-1]}={folder / name}" for name in models],
        "evaluate.labels": folder / "meds" / "labels",
        "evaluate.bootstrap_samples": 100,
        "evaluate.min_scored": 10,
        "output_dir": folder / "out",
    }
    return folder / "out", evaluate(override(shared, given))


@pytest.fixture(scope="module")
def tasks(evaluated):
    downstream = json.loads((evaluated[0] / "results.json").read_text())["downstream"]
    return {task["support"]["name"]: task for task in downstream["tasks"]}


def scores_of(task, score):
    return {
        (row["method"], row["features"], row["learner"]): row["scores"][score]["value"]
        for row in task["probes"]
    }


def test_every_way_to_predict_is_there(tasks):
    features = ("mean", "mean+decoded", "mean + hand-made")
    assert set(scores_of(tasks["known"], "auroc")) == {
        ("hand-made features", "hand-made", "logistic regression"),
        ("hand-made features", "hand-made", "gradient boosting"),
        *(
            (method, name, "logistic regression")
            for method in ("random", "cv", "untrained encoder")
            for name in features
        ),
    }
    chosen = [row["method"] for row in tasks["known"]["probes"] if row["chosen"]]
    assert sorted(chosen) == ["cv", "hand-made features", "random", "untrained encoder"]


def test_what_is_known_at_the_prediction_is_found(tasks):
    found = scores_of(tasks["known"], "auroc")
    for key, value in found.items():
        # One value of sixteen in a mean moves it less than a feature of its own.
        assert value > (0.7 if key[1] == "mean" else 0.95), key


def test_what_comes_a_microsecond_later_is_not_seen(tasks):
    # 4 standard errors of an AUROC of some 48 positive and 72 negative labels.
    for key, value in scores_of(tasks["later"], "auroc").items():
        assert abs(value - 0.5) < 0.22, key


def test_numbers_have_r2_and_rank_correlation(tasks):
    found = tasks["number"]
    hand_made = ("hand-made features", "hand-made", "ridge regression")
    assert scores_of(found, "r2")[hand_made] > 0.8
    assert scores_of(found, "rank_correlation")[hand_made] > 0.9
    assert found["support"]["splits"]["held_out"]["num_positives"] is None


def test_n_and_positives_stand_beside_scores_and_undefined_ones_say_why(evaluated, tasks):
    counts = tasks["readmission_alike"]["support"]["splits"]["held_out"]
    assert counts == {"num_labels": 120, "num_subjects": 120, "num_positives": 0}
    row = tasks["readmission_alike"]["probes"][0]
    assert row["scores"]["auroc"]["value"] is None
    assert row["scores"]["auroc"]["undefined"] == "held_out has no positive label among 120"
    assert row["scores"]["brier"]["value"] > 0
    assert tasks["readmission_alike"]["differences"] == []
    out, printed = evaluated
    page = (out / "report.html").read_text()
    for text in (printed, page):
        assert "held_out has no positive label among 120" in text
        assert "General readmission cannot be studied in MIMIC-IV" in text
    assert "nan" not in printed


def test_the_number_of_differences_that_verdicts_are_adjusted_for_is_said(evaluated, tasks):
    number = len(tasks["known"]["differences"])
    out, printed = evaluated
    assert f"verdicts adjusted for the {number} differences of the task" in printed
    page = (out / "report.html").read_text()
    assert f"adjustment for all {number} differences of this task" in page


def test_two_seeds_decide_nothing_against_one_of_another_policy(tasks):
    pairs = {
        (pair["first"], pair["second"]): pair["verdict"] for pair in tasks["known"]["differences"]
    }
    assert pairs["cv", "random"] == "undecided"
    assert pairs["random", "hand-made features"] == "undecided"
    features = [
        (pair["first_features"], pair["second_features"])
        for pair in tasks["known"]["differences"]
        if (pair["first"], pair["second"], pair["score"]) == ("cv", "random", "auroc")
    ]
    for name in ("mean", "mean+decoded", "mean + hand-made"):
        assert features.count((name, name)) == 1


def test_small_groups_are_not_shown(evaluated, tasks):
    groups = {group["level"]: group for group in tasks["known"]["subgroups"]}
    assert groups["1 level of fewer than 20 subjects"] == {
        "kind": "GENDER",
        "level": "1 level of fewer than 20 subjects",
        "suppressed": True,
        "num_labels": None,
        "num_subjects": None,
        "num_positives": None,
        "scores": {},
    }
    # With the numbers of both, that of X would follow from n.
    assert sorted(groups[sex]["num_subjects"] or 0 for sex in "FM") == [0, 57]
    assert groups["F"]["scores"]["hand-made features"]["value"] > 0.9
    page = (evaluated[0] / "report.html").read_text()
    assert "fewer than 20 subjects" in page
    assert "GENDER: X" not in page
    assert "X" not in groups


def test_figures_of_predictions_are_drawn(evaluated):
    names = {path.name for path in (evaluated[0] / "figures").iterdir()}
    assert {"probes.png", "calibration.png"} <= names


def test_predictions_have_a_note_that_they_are_patient_data(evaluated):
    folder = evaluated[0] / "predictions"
    (path,) = (path for path in folder.iterdir() if path.is_file())
    assert path.name == NOTE
    assert "The files below predictions/ are patient data" in path.read_text()


def test_what_goes_to_mlflow_names_no_subject(evaluated):
    out, printed = evaluated
    names = str(FIRST)[:-3]
    files = [path for path in out.rglob("*") if path.is_file()]
    given = [path for path in files if "predictions" not in path.relative_to(out).parts]
    assert {"results.json", "report.html", "codes.parquet", "config.yaml"} <= {
        path.name for path in given
    }
    texts = [printed, *(path.read_text() for path in given if path.suffix in TEXTS)]
    tables = [pq.read_table(path) for path in given if path.suffix == ".parquet"]
    for text in (*texts, *(str(table.to_pydict()) for table in tables)):
        assert names not in text
    assert names in str(pq.read_table(next(out.rglob("predictions/*/*.parquet"))).to_pydict())


def test_predictions_pass_the_command_of_meds_evaluation(evaluated, tasks, tmp_path):
    files = sorted((evaluated[0] / "predictions" / "known").iterdir())
    assert len(files) == 2 + 3 * (3 + 2)
    assert not (evaluated[0] / "predictions" / "number").exists()
    path = next(
        p for p in files if p.name == "hand-made-features_hand-made_logistic-regression_0.parquet"
    )
    scores = tmp_path / "scores.json"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "meds_evaluation",
            f"predictions_path={path}",
            f"output_file={scores}",
            f"hydra.run.dir={tmp_path}",
        ],
        check=True,
        capture_output=True,
    )
    told = json.loads(scores.read_text())["samples_equally_weighted"]
    key = ("hand-made features", "hand-made", "logistic regression")
    for name, ours in (("roc_auc_score", "auroc"), ("brier_score", "brier")):
        assert told[name] == pytest.approx(scores_of(tasks["known"], ours)[key], abs=1e-5)
