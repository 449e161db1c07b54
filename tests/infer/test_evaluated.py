"""What a card says of an evaluation."""

import json
import shutil
from dataclasses import replace

import pytest

from cvmae.checkpoint import checkpoint_stamp
from cvmae.config import PRESETS, override
from cvmae.evaluate.downstream.results import Downstream, ProbeRow, Score, Task
from cvmae.evaluate.downstream.tasks import SplitCount, Support
from cvmae.evaluate.evaluate import evaluate
from cvmae.evaluate.results import to_json
from cvmae.infer.card import CARD
from cvmae.infer.evaluated import evaluated_lines
from cvmae.infer.export import export
from cvmae.train.pretrain import pretrain
from tests.evaluate.made_results import make_results

WEIGHTS = "weights of cv"  # that the made results are of


def score(value, low, high):
    return Score(value=value, interval=(low, high), seeds=(value,), undefined="")


def probe(features, *, chosen, checkpoints=("runs/cv",)):
    return ProbeRow(
        method="cv",
        kind="model",
        features=features,
        learner="logistic regression",
        chosen=chosen,
        strengths=(1.0,),
        tuning_loss=0.3,
        scores={
            "auroc": score(0.75, 0.7, 0.8),
            "auprc": score(0.4, 0.3, 0.5),
            "calibration_slope": score(0.9, float("nan"), float("nan")),
        },
        calibration=(),
        checkpoints=checkpoints,
        stamps=(WEIGHTS,) * len(checkpoints),
    )


def written(folder, results):
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(to_json(results)), encoding="utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def results():
    return make_results({"random": 1.0, "cv": 0.9}, seeds=3)


@pytest.fixture
def task():
    counts = {"held_out": SplitCount(num_labels=1200, num_subjects=1200, num_positives=185)}
    support = Support(
        name="dies `soon`\n# x",
        kind="boolean",
        splits=counts,
        num_without_split=0,
        not_learned="",
        not_scored="",
    )
    probes = (probe("mean", chosen=False), probe("mean + std", chosen=True))
    return Task(support=support, probes=probes, differences=(), subgroups=())


def test_figures_have_intervals_and_say_of_how_many(results, tmp_path):
    first, empty, line = evaluated_lines(written(tmp_path / "e", results), "runs/cv", WEIGHTS)
    assert first == (
        "Evaluated on `synthetic hospital`, held_out, 2026-11-23; intervals are of 95%:"
    )
    assert empty == ""
    method = next(m for m in results.methods if m.name == "cv" and m.kind == "model")
    low, high = method.r2_pooled_interval
    assert f"as `cv`: R2 {method.r2_pooled:.3f} ({low:.3f} to {high:.3f}) pooled" in line
    assert f"over 12 codes (n = {results.data.num_scored:,} values of 150 subjects" in line
    assert line.endswith(
        f"the mean of 3 runs (seeds), of which this one has {method.runs[0].r2_pooled:.3f}."
    )


def test_tasks_are_told_by_the_features_that_were_chosen(results, task, tmp_path):
    downstream = Downstream(split="held_out", tasks=(task,), notes=())
    place = written(tmp_path / "e", replace(results, downstream=downstream))
    lines = evaluated_lines(f"{place}/results.json", "runs/cv", WEIGHTS)
    assert [line for line in lines if "dies" in line] == [
        "* `dies soon # x` by logistic regression on mean + std, as `cv`: AUROC 0.750 (0.700 to "
        "0.800), AUPRC 0.400 (0.300 to 0.500) (n = 1,200 labels, 185 positive)."
    ]
    others = evaluated_lines(place, "runs/random", "weights of random")
    assert not any("dies" in line for line in others)


def test_results_of_others_and_other_files_are_refused(results, tmp_path):
    place = written(tmp_path / "e", results)
    with pytest.raises(ValueError, match=r"says nothing of runs/mine \(it is on random, cv, "):
        evaluated_lines(place, "runs/mine", WEIGHTS)
    with pytest.raises(FileNotFoundError, match=r"holds no results\.json"):
        evaluated_lines(str(tmp_path), "runs/cv", WEIGHTS)
    (tmp_path / "e" / "results.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"is no results\.json of an evaluation"):
        evaluated_lines(place, "runs/cv", WEIGHTS)
    (tmp_path / "e" / "results.json").write_text('{"methods": [{}]}')
    with pytest.raises(ValueError, match="of another version"):
        evaluated_lines(place, "runs/cv", WEIGHTS)


@pytest.mark.parametrize("restores", [True, False])
def test_results_of_weights_that_nobody_knows_or_that_are_gone_are_refused(
    restores, results, task, tmp_path
):
    methods = results.methods if restores else ()
    tasks = () if restores else (task,)
    downstream = Downstream(split="held_out", tasks=tasks, notes=())
    given = replace(results, methods=methods, downstream=downstream)
    place = written(tmp_path / "e", given)
    assert evaluated_lines(place, "runs/cv", WEIGHTS)
    with pytest.raises(ValueError, match=r"is of other weights than runs/cv has now.*again"):
        evaluated_lines(place, "runs/cv", "other weights")
    file = tmp_path / "e" / "results.json"
    tree = json.loads(file.read_text())
    for told in [r for m in tree["methods"] for r in m["runs"]]:
        del told["stamp"]
    for told in [r for t in tree["downstream"]["tasks"] for r in t["probes"]]:
        del told["stamps"]
    file.write_text(json.dumps(tree))
    with pytest.raises(ValueError, match=r"does not say which weights of runs/cv.*again"):
        evaluated_lines(place, "runs/cv", WEIGHTS)


def test_a_card_of_an_evaluated_model_has_them(run, results, tmp_path):
    own = {"checkpoint": run.output_dir, "stamp": checkpoint_stamp(run.output_dir)}
    methods = tuple(
        replace(m, runs=tuple(replace(r, **own) for r in m.runs)) if m.of == "cv" else m
        for m in results.methods
    )
    place = written(tmp_path / "e", replace(results, methods=methods))
    given = {"infer.checkpoint": run.output_dir, "infer.results": place}
    export(override(PRESETS["paper"], {"output_dir": tmp_path / "out"} | given))
    card = (tmp_path / "out" / CARD).read_text()
    assert "\n".join(evaluated_lines(place, own["checkpoint"], own["stamp"])) in card
    assert "for held-out figures with intervals" not in card


def test_figures_of_weights_that_were_trained_on_since_are_refused(run, tmp_path):
    folder = shutil.copytree(run.output_dir, tmp_path / "cv")
    own = override(run, {"output_dir": folder})
    given = {"output_dir": tmp_path / "e", "evaluate.checkpoints": f"cv={folder}"}
    evaluate(override(own, given | {"evaluate.min_scored": 20}))
    asked = {"infer.checkpoint": folder, "infer.results": tmp_path / "e"}
    export(override(PRESETS["paper"], {"output_dir": tmp_path / "first"} | asked))
    assert "Hidden values restored, as `cv`" in (tmp_path / "first" / CARD).read_text()
    more = {"resume": folder, "train.epochs": 2, "resume_allow": "train.epochs"}
    pretrain(override(own, more))
    with pytest.raises(ValueError, match=r"infer\.results=.*/e is of other weights than .*/cv has"):
        export(override(PRESETS["paper"], {"output_dir": tmp_path / "second"} | asked))
    assert not (tmp_path / "second").exists()
