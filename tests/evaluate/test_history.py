"""History under experiment, by models: whatever the batches and units, the same errors."""

import json

import numpy as np
import pytest

from cvmae.batches.columns import uniform_column
from cvmae.batches.evaluation import evaluation_batches
from cvmae.config import override
from cvmae.evaluate import context, history, one_target, perturbation
from cvmae.evaluate.baselines import BASELINES
from cvmae.evaluate.evaluate import evaluate
from cvmae.evaluate.history import observe
from cvmae.evaluate.models import find_contestants, load, score_unit
from cvmae.evaluate.one_target import Examination, restore_targets
from cvmae.evaluate.reconstruction import merge
from cvmae.meds.dataset import open_dataset
from cvmae.meds.units import plan_units
from cvmae.settings import ScalingConfig
from tests.evaluate.trained import train_models

IN_PROCESS = ScalingConfig(num_workers=0)


@pytest.fixture(scope="module")
def runs(hospital, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    models = {policy: {"mask.policy": policy} for policy in ("random", "cv")}
    return train_models(hospital, folder, models, **{"data.sequence_length": 64}), folder


@pytest.fixture
def examined(runs):
    """Two models on train, which has more subjects than the held-out split; units of a size."""
    shared, folder = runs
    contestants = find_contestants([f"{name}={folder / name}" for name in ("random", "cv")])
    dataset = open_dataset(shared.data.root, ["train"])
    examination = Examination(
        source=dataset.source,
        split="train",
        seed=3,
        sequence_length=64,
        ratio=0.25,
        contestants=tuple(contestants),
        statistics=load(contestants[0], "cpu").fitted.statistics,
        device="cpu",
    )
    return examination, dataset


def corrupt(examined, unit_rows=100_000, limit=40):
    examination, dataset = examined
    return restore_targets(
        examination,
        plan_units(dataset, unit_rows),
        IN_PROCESS,
        label="test",
        min_priors=3,
        limit=limit,
        num_variants=3,
        vary=perturbation.corruptions,
    )


def sorted_errors(found):
    return np.sort(found.error_TXK.reshape(len(found.code_T), -1), axis=0)


def test_errors_depend_on_neither_batches_nor_units(examined, monkeypatch):
    together = corrupt(examined)
    assert together.num_found > 40
    assert len(together.code_T) == 40
    cut = corrupt(examined, unit_rows=300)
    # Other batches make other orders of float32 additions.
    np.testing.assert_allclose(sorted_errors(cut), sorted_errors(together), atol=1e-5)
    monkeypatch.setattr(one_target, "BATCH_MEASUREMENTS", 1)
    alone = corrupt(examined)
    assert alone.code_T.tolist() == together.code_T.tolist()
    np.testing.assert_allclose(alone.error_TXK, together.error_TXK, atol=1e-5)


def test_corruption_reaches_models_and_the_last_value_but_not_the_code_mean(examined):
    error_TXK = corrupt(examined).error_TXK
    clean, own, other = (error_TXK[:, variant] for variant in range(3))
    mean, last = (2 + BASELINES.index(name) for name in ("code mean", "last value"))
    assert (own[:, :2] != clean[:, :2]).all()
    assert np.array_equal(own[:, mean], clean[:, mean])
    assert (own[:, last] != clean[:, last]).all()
    # Another code's history moves the models (they read it), and no baseline.
    assert np.array_equal(other[:, last], clean[:, last], equal_nan=False)
    assert (other[:, :2] != clean[:, :2]).all()
    # Nothing later of the code is in the window.
    assert np.array_equal(own[:, last], own[:, 2 + BASELINES.index("linear interpolation")])


def test_observed_errors_are_those_of_the_uniform_mask(examined):
    examination, dataset = examined
    units = plan_units(dataset, 500)
    found = observe(examination, units, IN_PROCESS, limit=10_000)
    named = {name: getattr(examination, name) for name in ("source", "split", "seed")}
    scored = [
        score_unit(
            unit,
            **named,
            contestants=examination.contestants,
            statistics=examination.statistics,
            columns=[uniform_column(0.25)],
            sequence_length=64,
            device="cpu",
        )[0]
        for unit in units
    ]
    sums = merge(scored)
    assert found.num_windows == found.num_found == sums.num_sequences
    np.testing.assert_allclose((found.error_TK**2).sum(axis=0), sums.error_RK.sum(axis=0), 1e-5)
    # The count of prior values, one value at a time.
    expected = []
    for unit in units:
        for batch in evaluation_batches(
            examination.source,
            unit,
            examination.statistics,
            split="train",
            sequence_length=64,
            ratio=0.25,
            seed=3,
        ):
            hidden = set(batch.batch.hidden_M.tolist())
            offsets = batch.batch.offsets_B.tolist()
            for place in batch.batch.hidden_M.numpy()[batch.scored_M].tolist():
                first = max(offset for offset in offsets if offset <= place)
                code = batch.code_index_N
                before = set(range(first, place)) - hidden
                expected.append(sum(code[other] == code[place] for other in before))
    assert found.prior_T.tolist() == expected


def test_few_windows_are_chosen_alike_whatever_the_units(examined):
    examination, dataset = examined
    few = [
        observe(examination, plan_units(dataset, rows), IN_PROCESS, limit=7)
        for rows in (300, 100_000)
    ]
    assert few[0].num_windows == few[1].num_windows == 7
    assert few[0].num_found == few[1].num_found > 7
    assert sorted(few[0].prior_T) == sorted(few[1].prior_T)


def test_hours_count_from_the_first_measurement_whatever_is_taken_out(examined):
    examination, dataset = examined
    (unit,) = plan_units(dataset, 100_000)
    measurements = examination.read(unit)
    targets = one_target._targets(measurements, examination, 8)
    passes = list(one_target._passes(measurements, targets, examination, context.truncations))
    whole = [one for one in passes if one.variant == len(context.KEPT) - 1]
    none = [one for one in passes if one.variant == 0]
    assert len(whole) == len(none) > 5
    shorter = 0
    for one, other in zip(whole, none, strict=True):
        hours = dict(zip(one.time_us_L.tolist(), one.minutes_L.tolist(), strict=True))
        assert [hours[time] for time in other.time_us_L.tolist()] == other.minutes_L.tolist()
        shorter += other.time_us_L[0] > one.time_us_L[0]
    assert shorter  # in some the first measurement itself was taken out


def test_evaluate_reports_history_and_says_what_it_does_not_show(
    runs, tmp_path, monkeypatch, drawn
):
    monkeypatch.setattr(perturbation, "MIN_CODE_TARGETS", 2)  # there are few
    shared, folder = runs
    given = [f"{name}={folder / name}" for name in ("random", "cv")]
    few = {"evaluate.min_scored": 10, "evaluate.bootstrap_samples": 30}
    evaluate(override(shared, {"evaluate.checkpoints": given, "output_dir": tmp_path, **few}))
    results = json.loads((tmp_path / "results.json").read_text())
    found, corrupted = results["context"], results["perturbation"]
    assert [slope["first"] for slope in found["slopes"]] == ["cv"]
    assert found["slopes"][0]["history"]["verdict"] == "undecided"
    assert [row["label"] for row in found["truncated"]["by_kept"]] == [
        "0",
        "1",
        "2",
        "4",
        "8",
        "all",
    ]
    assert [method["name"] for method in corrupted["methods"]] == [
        "random",
        "cv",
        "code mean",
        "last value",
    ]
    verdicts = {m["name"]: m["change"]["verdict"] for m in corrupted["methods"]}
    assert verdicts == {"random": "undecided", "cv": "undecided"} | dict.fromkeys(
        ("code mean", "last value")  # they have no seeds that could decide
    )
    assert all(low is not None for m in corrupted["methods"] for low in m["change"]["interval"])
    assert corrupted["codes"]
    for row in corrupted["codes"]:
        assert {name: change["verdict"] for name, change in row["change"].items()} == verdicts
    page = (tmp_path / "report.html").read_text()
    assert "Degradation is not benefit" in page
    assert "; undecided)" in page
    drawn = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert {"context", "truncated", "perturbation"} <= drawn


def test_a_data_set_without_histories_has_no_such_section(examined, monkeypatch):
    examination, dataset = examined
    units = plan_units(dataset, 100_000)
    monkeypatch.setattr(perturbation, "MIN_PRIORS", 10_000)
    monkeypatch.setattr(context, "MIN_PRIORS", 10_000)
    nothing = perturbation.measure_perturbation(examination, units, IN_PROCESS, reference="random")
    assert nothing is None
    found = context.measure_context(examination, units, IN_PROCESS, reference="random")
    assert found.truncated is None
    assert sum(b.num_targets for b in found.by_history) == found.num_targets > 0
    assert history.observe(examination, [], IN_PROCESS, limit=1).num_subjects == 0
