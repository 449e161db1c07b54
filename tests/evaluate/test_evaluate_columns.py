"""The columns of a whole evaluation on the synthetic hospital, of which the truth is known."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from cvmae.batches.batch import make_batch
from cvmae.batches.columns import choose_targets, column_hidden, has_twin
from cvmae.batches.policies import mask_weights
from cvmae.batches.sequences import cut_windows
from cvmae.config import override
from cvmae.evaluate.attainable import find_truth, truth_of, unexplained_of_unit
from cvmae.evaluate.evaluate import evaluate
from cvmae.evaluate.exposure import shares_hidden
from cvmae.evaluate.models import find_contestants, load
from cvmae.evaluate.own_masks import declare_columns, leave_one_out_column
from cvmae.meds.dataset import open_dataset
from cvmae.meds.reading import read_unit
from cvmae.meds.units import plan_units
from cvmae.statistics.fitted import FittedData
from cvmae.synthetic.hospital import SyntheticConfig, write_hospital
from cvmae.synthetic.process import code_laws, code_truth
from cvmae.synthetic.reference import attainable_r2, conditional_variance, single_variance
from tests.evaluate.trained import changed_run, train_models
from tests.prepared import fit

NAMES = {
    "random": {"mask.policy": "random"},
    "cv": {"mask.policy": "cv"},
    "mild": {"mask.policy": "cv", "mask.sharpness": 0.5},
    "flat": {"mask.policy": "cv", "mask.sharpness": 0},
    "adaptive": {"mask.policy": "adaptive"},
}


@pytest.fixture(scope="module")
def runs(hospital, tmp_path_factory):
    """A model of each policy, trained for two epochs."""
    folder = tmp_path_factory.mktemp("runs")
    given = {
        "data.unit_rows": 500,
        "data.sequence_length": 32,
        "train.epochs": 2,
        "evaluate.min_scored": 10,
        "evaluate.sequence_length": 32,
        "evaluate.bootstrap_samples": 20,
    }
    return train_models(hospital, folder, NAMES, **given), folder


@pytest.fixture(scope="module")
def contestants(runs):
    return find_contestants([f"{name}={runs[1] / name}" for name in NAMES])


@pytest.fixture(scope="module")
def evaluated(runs):
    """The folder of an evaluation of all of them."""
    shared, folder = runs
    entries = [f"{name}={folder / name}" for name in NAMES]
    evaluate(override(shared, {"evaluate.checkpoints": entries, "output_dir": folder / "out"}))
    return folder / "out"


def one_of(contestants, name):
    return next(c for c in contestants if (c.name, c.which) == (name, "last"))


def test_policies_that_hide_alike_share_a_column_and_equal_weights_meet_the_uniform_one(
    contestants,
):
    statistics = load(contestants[0], "cpu").fitted.statistics
    columns = declare_columns(contestants, statistics, ratio=0.25, limit=None)
    assert {column.name: column.own_of for column in columns} == {
        "uniform": (),  # all are compared by it
        "own mask of cv (cv)": ("cv",),
        "own mask of cv (mild)": ("mild",),
        "own mask of adaptive": ("adaptive",),
    }
    assert columns[0].meaning.endswith("; random, flat trained by such a mask")
    config = load(one_of(contestants, "cv"), "cpu").config
    expected = mask_weights(statistics, config.mask, seed=config.seed)
    by_name = {column.name: column for column in columns}
    own, milder = (by_name[f"own mask of cv ({name})"] for name in ("cv", "mild"))
    np.testing.assert_array_equal(own.weight_C, expected)
    assert (own.weight_C != milder.weight_C).any()
    assert "sharpness 0.5" in milder.meaning


def test_an_own_mask_is_that_of_the_least_seed_wherever_runs_lie(runs, tmp_path):
    columns = []
    for places in ("ab", "ba"):
        folder = tmp_path / places
        folder.mkdir()
        entries = []
        for seed, place in enumerate(places):
            changes = {"mask.policy": "shuffled_cv", "seed": seed}
            entries.append(f"mixed={changed_run(runs[1] / 'cv', folder / place, changes)}")
        found = find_contestants(entries)
        assert [load(run, "cpu").config.seed for run in found] == [0, 1]
        statistics = load(found[0], "cpu").fitted.statistics
        columns.append(declare_columns(found, statistics, ratio=0.25, limit=None)[1])
    assert "those of the run with seed 0" in columns[1].meaning
    np.testing.assert_array_equal(columns[0].weight_C, columns[1].weight_C)


def test_tables_of_the_same_weights_share_a_column_wherever_their_files_lie(runs, tmp_path):
    codes = FittedData.read(str(runs[1] / "statistics")).statistics.codes
    rows = [f"{code},{1 + place}" for place, code in enumerate(codes)]
    given = {"a": rows, "b": rows, "other": [f"{code},{9 + n}" for n, code in enumerate(codes)]}
    entries = []
    for seed, (name, own) in enumerate(given.items()):
        path = tmp_path / f"{name}.csv"
        path.write_text("\n".join(["code,weight", *own]), encoding="utf-8")
        changes = {"mask.policy": "table", "mask.weights_file": path, "seed": seed}
        changes["output_dir"] = tmp_path / name
        copy = changed_run(runs[1] / "cv", tmp_path / name, changes)
        entries.append(f"{'other' if name == 'other' else 'mine'}={copy}")
    found = find_contestants(entries)
    statistics = load(found[0], "cpu").fitted.statistics
    names = [c.name for c in declare_columns(found, statistics, ratio=0.25, limit=None)]
    assert names == ["uniform", "own mask of table (mine)", "own mask of table (other)"]


def test_results_have_every_column_and_mark_own_masks(evaluated):
    results = json.loads((evaluated / "results.json").read_text())
    by_name = {column["name"]: column for column in results["columns"]}
    assert list(by_name)[:2] == ["uniform", "leave-one-out"]
    assert len(by_name) == 5
    assert by_name["own mask of cv (mild)"]["own_of"] == ["mild"]
    uniform = by_name["uniform"]
    assert uniform["num_scored"] == results["data"]["num_scored"]
    assert uniform["r2_pooled"]["code mean"] == 0
    assert uniform["r2_pooled"]["cv"] != by_name["own mask of cv (cv)"]["r2_pooled"]["cv"]
    assert all(0.3 < column["attainable_r2"] < 1 for column in results["columns"])
    assert all(column["num_scored"] > 50 for column in results["columns"])


def test_the_table_of_codes_and_the_report_show_the_columns(evaluated):
    names = set(pq.read_table(evaluated / "codes.parquet").column_names)
    assert {
        "r2/cv",
        "r2/leave-one-out/cv",
        "mean_absolute_error/own mask of cv (cv)/random",
        "share_of_attainable/uniform/random",
        "attainable_r2/leave-one-out",
        "share_hidden/cv",
        "within_subject_cv",
        "cv_true",
    } <= names
    page = (evaluated / "report.html").read_text(encoding="utf-8")
    assert all(f'<figure id="{name}">' in page for name in ("columns", "quartiles"))
    assert ">own</i>" in page
    assert "Best attainable" in page
    assert "Near-copies" in page


def test_leave_one_out_is_what_one_target_at_a_time_gives(runs, contestants, evaluated):
    shared, _ = runs
    loaded = load(one_of(contestants, "cv"), "cpu")
    statistics = loaded.fitted.statistics
    dataset = open_dataset(shared.data.root)
    error, square, count = 0.0, 0.0, 0
    for unit in plan_units(dataset, 10**6):
        m, _ = read_unit(dataset.source, unit, statistics.lookup, "held_out")
        windows = cut_windows(m, 32)
        for target in choose_targets(m, seed=shared.evaluate.seed).index_T:
            (w,) = np.flatnonzero(
                (windows.start_W <= target) & (target < windows.start_W + windows.length_W)
            )
            own = slice(windows.start_W[w], windows.start_W[w] + windows.length_W[w])
            value = statistics.standardise(m.code_index_N[own], m.numeric_value_N[own])
            hidden = np.arange(own.start, own.stop) == target
            minutes = (m.time_us_N[own] - m.time_us_N[own.start]) // 60_000_000
            batch = make_batch(
                lengths_B=windows.length_W[[w]],
                code_index_N=m.code_index_N[own],
                minutes_N=minutes,
                value_N=value,
                hidden_N=hidden,
            )
            with torch.inference_mode():
                said = float(loaded.model(batch)[0])
            error += (said - float(value[hidden][0])) ** 2
            square, count = square + float(value[hidden][0]) ** 2, count + 1
    results = json.loads((evaluated / "results.json").read_text())
    column = next(c for c in results["columns"] if c["name"] == "leave-one-out")
    assert column["num_scored"] == count
    # Other batches add in another order, in float32.
    assert column["r2_pooled"]["cv"] == pytest.approx(1 - error / square, abs=1e-5)


def test_so_many_targets_as_are_asked_for_are_hidden_and_none_where_none_are(runs, tmp_path):
    shared, folder = runs
    found = []
    for most in (20, 0):
        out = tmp_path / str(most)
        changes = {"evaluate.checkpoints": [f"cv={folder / 'cv'}"], "output_dir": out}
        evaluate(override(shared, {**changes, "evaluate.leave_one_out": most}))
        columns = json.loads((out / "results.json").read_text())["columns"]
        found.append({column["name"]: column["num_hidden"] for column in columns})
    assert found[0]["leave-one-out"] == 20
    assert list(found[1]) == ["uniform", "own mask of cv"]


def test_exposure_is_the_mean_over_the_epochs_of_training(runs, contestants, tmp_path):
    codes = load(contestants[0], "cpu").fitted.statistics.codes
    shares = shares_hidden(contestants, codes)
    rows = pq.read_table(runs[1] / "cv" / "code_metrics.parquet").to_pylist()
    expected = [np.mean([r["mask_rate"] for r in rows if r["code"] == code]) for code in codes]
    np.testing.assert_allclose(shares["cv"], expected)
    assert shares["cv"].max() > 1.5 * shares["random"].max()
    # A checkpoint by itself knows its last epoch.
    alone = [replace(one_of(contestants, "cv"), path=str(tmp_path))]
    load_of = load(one_of(contestants, "cv"), "cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cvmae.evaluate.exposure.load", lambda *_: load_of)
        last = shares_hidden(alone, codes)["cv"]
    expected = [
        r["mask_rate"] for code in codes for r in rows if (r["code"], r["epoch"]) == (code, 2)
    ]
    np.testing.assert_allclose(last, expected)


def test_the_best_r2_is_that_of_the_hidden_values_in_closed_form(runs, contestants):
    shared, _ = runs
    statistics = load(contestants[0], "cpu").fitted.statistics
    hospital, dataset = find_truth(shared.data.root, statistics), open_dataset(shared.data.root)
    (unit,) = plan_units(dataset, 10**6)
    columns = (
        *declare_columns(contestants[:1], statistics, ratio=0.25, limit=None),
        leave_one_out_column(1.0),
    )
    found = truth_of(
        unexplained_of_unit(
            unit,
            source=dataset.source,
            split="held_out",
            seed=shared.evaluate.seed,
            statistics=statistics,
            sequence_length=32,
            columns=columns,
            config=hospital,
        ),
        hospital,
        statistics,
    )
    m, _ = read_unit(dataset.source, unit, statistics.lookup, "held_out")
    windows = cut_windows(m, 32)
    bounds = [slice(s, s + n) for s, n in zip(windows.start_W, windows.length_W, strict=True)]
    targets = choose_targets(m, seed=shared.evaluate.seed).index_T
    singles = [
        (m.code_index_N[own], m.time_us_N[own], np.arange(own.start, own.stop) == target)
        for own, target in itertools.product(bounds, targets)
        if own.start <= target < own.stop
    ]
    expected = attainable_r2(hospital, statistics.codes, singles)
    np.testing.assert_allclose(found.r2_JC[1], expected.r2_C)
    assert found.pooled_J[1] == pytest.approx(expected.r2_pooled)
    hidden = column_hidden(columns[0], m, seed=shared.evaluate.seed)
    masked = [(m.code_index_N[own], m.time_us_N[own], hidden[own]) for own in bounds]
    assert not has_twin(m).any()
    np.testing.assert_allclose(
        found.r2_JC[0], attainable_r2(hospital, statistics.codes, masked).r2_C
    )


def test_one_inverse_gives_the_variance_of_each_value_hidden_alone():
    laws = code_laws(SyntheticConfig(root="", num_codes=4))
    code, minutes = np.array([0, 1, 2, 0, 3, 1]), np.array([0, 0, 60, 900, 900, 5000])
    alone = [
        conditional_variance(laws, code, minutes, hidden)[0] for hidden in np.eye(6, dtype=bool)
    ]
    np.testing.assert_allclose(single_variance(laws, code, minutes), alone)


def test_data_that_were_not_synthesised_have_no_truth(runs, contestants, tmp_path):
    statistics = load(contestants[0], "cpu").fitted.statistics
    assert find_truth(str(tmp_path), statistics) is None
    foreign = replace(statistics, codes=("LAB//elsewhere", *statistics.codes[1:]))
    assert find_truth(runs[0].data.root, foreign) is None


@pytest.mark.parametrize("outlier_rate", [0.0, 0.001])
def test_the_known_cvs_of_the_synthetic_hospital_are_recovered(tiny, tmp_path, outlier_rate):
    hospital = SyntheticConfig(
        root=str(tmp_path / "hospital"),
        num_subjects=600,
        num_codes=6,
        median_measurements=150,
        spread=0.3,
        outlier_rate=outlier_rate,
        seed=3,
    )
    data = replace(
        tiny.data,
        root=write_hospital(hospital),
        unit_rows=50_000,
        # Slips are clipped where the quantile leaves out more than there are.
        clip_quantiles=(0.002, 0.998),
    )
    statistics = fit(replace(tiny, data=data)).statistics
    truth = code_truth(hospital)
    cv_of = dict(zip(truth["code"].to_pylist(), truth["cv"].to_pylist(), strict=True))
    expected = np.array([cv_of[code] for code in statistics.codes])
    # A third of the variance is each subject's own: 480 of them give a CV to about 2.5%, and
    # clipping takes up to 2% more.
    np.testing.assert_allclose(statistics.cv, expected, rtol=0.1)
    assert (statistics.raw_cv > 2 * expected).all() == (outlier_rate > 0)
