import json

import numpy as np
import pytest

from cvmae.evaluate.baselines import BASELINES
from cvmae.evaluate.contestants import Contestant
from cvmae.evaluate.reconstruction import Sums, summary
from cvmae.evaluate.report.figures import draw
from cvmae.evaluate.report.page import text_table, write_report
from cvmae.evaluate.results import build_results, plain
from cvmae.statistics.code_statistics import CodeStatistics

NUM_CODES, NUM_SUBJECTS, VALUES = 12, 150, 5
BASELINE_ERRORS = (1.0, 1.1, 0.8)
SETTINGS = {
    "split": "held_out",
    "seed": 7,
    "min_scored": 100,
    "bootstrap_samples": 100,
    "mask_ratio": 0.25,
    "sequence_length": 512,
}
PROVENANCE = {
    "command": "python jobs/evaluate.py",
    "date": "2026-11-23T00:00:00+00:00",
    "data": "meds",
    "dataset": "synthetic hospital",
    "versions": {"python": "3.11"},
    "hardware": {"machine": "x86_64", "num_cpus": 2, "gpu": "none"},
}


def make_statistics(num_codes=NUM_CODES):
    cv = np.geomspace(0.01, 3, num_codes)
    ones = np.ones(num_codes)
    shapes = dict.fromkeys(
        ("minimum", "maximum", "q25", "median", "q75", "mad", "within_subject_std"), ones
    )
    codes = tuple(f"LAB//lab {index}//mg/dL" for index in range(num_codes))
    return CodeStatistics(
        codes=codes,
        members=tuple((code,) for code in codes),
        num_values=np.full(num_codes, 10_000),
        num_subjects=np.full(num_codes, 900),
        raw_mean=100 * ones,
        raw_std=130 * cv,
        clip_low=-np.inf * ones,
        clip_high=np.inf * ones,
        mean=100 * ones,
        std=100 * cv,
        **shapes,
    )


def make_results(errors, *, seeds=1, num_codes=NUM_CODES, histories=True, called=None):
    """Results in which each name's error on every code is scaled as given (by code or alike)."""
    rng = np.random.default_rng(11)
    subject, code = (
        grid.ravel() for grid in np.meshgrid(np.arange(NUM_SUBJECTS), np.arange(num_codes))
    )
    target = rng.normal(size=(len(subject), VALUES))
    shared = rng.normal(size=target.shape)  # what is hard is hard for all
    names = [name for name in errors for _ in range(seeds)]
    columns = []
    for scale in [*(errors[name] for name in names), *BASELINE_ERRORS]:
        noise = shared + 0.3 * rng.normal(size=target.shape)
        scale_R = np.broadcast_to(np.asarray(scale, dtype=float), num_codes)[code]
        columns.append(((scale_R[:, None] * noise) ** 2).sum(axis=1))
    error = np.stack(columns, axis=1)
    sums = Sums(
        num_subjects=NUM_SUBJECTS,
        num_sequences=NUM_SUBJECTS,
        num_hidden=target.size + 9,
        num_twins=9,
        measurements_C=np.full(num_codes, 4 * target.size // num_codes),
        subject_R=subject,
        code_R=code,
        count_R=np.full(len(subject), float(VALUES)),
        sum_R=target.sum(axis=1),
        square_R=(target**2).sum(axis=1),
        error_RK=error,
        absolute_CK=np.full((num_codes, error.shape[1]), 1.0),
    )
    curve = [
        {"epoch": e, "tuning_mse": 0.4 + 0.5 / e, "measurements_per_s": 8000.0} for e in range(1, 9)
    ]
    results = build_results(
        sums,
        [Contestant(name=name, path=f"runs/{name}") for name in names],
        statistics=make_statistics(num_codes),
        histories={name: [curve if histories else []] * seeds for name in errors},
        settings=SETTINGS,
        names=called or {},
    )
    return plain({**results, "provenance": PROVENANCE})


def headline_of(errors, **options):
    told = make_results(errors, **options)["headline"]
    return told["title"], " ".join(told["sentences"])


def test_headline_says_that_cv_wins_where_it_wins():
    title, text = headline_of({"random": 0.7, "cv": 0.6})
    assert title.startswith("cv restores hidden values better than random: on 12 of 12 labs")
    assert "12 for cv, 0 for random, 0 undecided" in text


def test_headline_says_that_cv_loses_where_it_loses():
    title, text = headline_of({"random": 0.6, "cv": 0.7})
    assert title.startswith("random restores hidden values better than cv: on 12 of 12 labs")
    assert "cv minus random: -0." in text


def test_headline_names_no_winner_without_a_difference():
    title, _ = headline_of({"random": 0.6, "cv": 0.6})
    assert title == "No clear difference between cv and random"


def test_headline_is_split_where_values_and_codes_disagree():
    # A little better on eleven codes, far worse on one: codes say cv, pooled error random.
    scale = np.full(NUM_CODES, 0.55)
    scale[0] = 1.5
    title, _ = headline_of({"random": 0.6, "cv": scale})
    assert title.startswith("A split verdict: random is better pooled over values, cv on 11 of 12")


def test_headline_says_when_interpolation_beats_the_models():
    _, text = headline_of({"random": 0.95, "cv": 0.9})
    assert "behind linear interpolation" in text
    assert "linear interpolation does better on 12 of 12 labs" in text


def test_headline_warns_that_one_run_is_one_run():
    assert "luck of training" in headline_of({"random": 0.7, "cv": 0.6})[1]
    seeds = headline_of({"random": 0.7, "cv": 0.6}, seeds=3)[1]
    assert "luck of training" not in seeds
    assert "over seeds" in seeds


def test_one_model_alone_is_judged_against_the_baselines():
    title, text = headline_of({"mine": 0.5})
    assert title.startswith("mine restores hidden values with a pooled R2 of 0.7")
    assert "ahead of linear interpolation" in text


def test_summary_has_a_row_per_policy_and_baseline_best_first():
    rows = summary(make_results({"random": 0.7, "cv": 0.6}))
    assert [row["policy"] for row in rows] == [
        "cv",
        "random",
        "linear interpolation",
        "code mean",
        "last value",
    ]
    assert (rows[0]["won"], rows[0]["num_codes"], rows[1]["won"]) == (12, 12, None)
    assert rows[0]["measurements_per_s"] == 8000


def test_text_table_shows_every_row_and_the_headline():
    results = make_results({"random": 0.7, "cv": 0.6})
    text = text_table(results)
    assert results["headline"]["title"] in text
    assert "12 of 12" in text
    assert all(name in text for name in ("random", "cv", *BASELINES))


def test_results_are_plain_json():
    results = make_results({"random": 0.7, "cv": 0.6}, histories=False)
    assert json.loads(json.dumps(results, allow_nan=False)) == results


@pytest.mark.parametrize("errors", [{"mine": 0.5}, {"random": 0.7, "cv": 0.6}])
def test_report_is_one_file_with_every_figure_inside(errors, tmp_path):
    results = make_results(errors)
    path = write_report(results, tmp_path)
    page = path.read_text(encoding="utf-8")
    names = {drawing.name for drawing in draw(results)}
    assert names == {image.stem for image in (tmp_path / "figures").glob("*.png")}
    assert page.count('src="data:image/png;base64,') == len(names)
    assert "http://" not in page
    assert "https://" not in page
    assert results["headline"]["title"] in page


def test_report_shows_the_cv_with_and_without_clipping(tmp_path):
    page = write_report(make_results({"random": 0.7, "cv": 0.6}), tmp_path).read_text()
    # The most volatile code: std 300 about a mean of 100, 390 without clipping.
    assert "<td>3.000</td><td>3.900</td>" in page


def test_differences_figure_of_many_codes_keeps_both_ends():
    scale = np.linspace(0.5, 0.9, 60)
    figures = {d.name: d for d in draw(make_results({"random": 0.7, "cv": scale}, num_codes=60))}
    labels = [text.get_text() for text in figures["differences"].figure.axes[0].get_yticklabels()]
    # Neighbours differ by less than their noise, so only the ends as groups are certain.
    assert len(labels) == 40
    assert sum(label in {f"lab {code} mg/dL" for code in range(40, 60)} for label in labels) > 15
    assert sum(label in {f"lab {code} mg/dL" for code in range(20)} for label in labels) > 15
    assert "both ends of 60 codes" in figures["differences"].caption


def test_no_history_means_no_learning_curves_and_no_invented_epochs():
    results = make_results({"random": 0.7, "cv": 0.6}, histories=False)
    assert "learning_curves" not in {drawing.name for drawing in draw(results)}
    assert summary(results)[0]["epochs_to_reference_best"] is None


def test_report_and_figures_call_codes_by_the_names_that_the_data_set_gives_them(tmp_path):
    code = "LAB//lab 0//mg/dL"
    results = make_results({"random": 0.7, "cv": 0.6}, called={code: "Sodium, Blood"})
    page = write_report(results, tmp_path).read_text()
    assert f'<td title="{code}: Sodium, Blood">Sodium mg/dL</td>' in page
    assert "lab 1 mg/dL</td>" in page
    drawn = {d.name: d.figure.axes[0] for d in draw(results)}
    for name in ("differences", "codes"):
        labels = [text.get_text() for text in drawn[name].get_yticklabels()]
        assert "Sodium mg/dL" in labels
        assert "lab 0 mg/dL" not in labels
