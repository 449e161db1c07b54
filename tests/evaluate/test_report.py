import json
import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from cvmae.evaluate.baselines import BASELINES
from cvmae.evaluate.contestants import Contestant
from cvmae.evaluate.reconstruction import Sums
from cvmae.evaluate.report.figure_style import Drawing
from cvmae.evaluate.report.figures import FIGURES, draw
from cvmae.evaluate.report.page import methods_table, write_report
from cvmae.evaluate.results import Results, build_results, to_json
from cvmae.evaluate.summary import summary
from tests.evaluate.made_results import PROVENANCE, SETTINGS, make_results, make_statistics

pytestmark = pytest.mark.usefixtures("drawn")


def test_summary_has_a_row_per_policy_and_baseline_best_first():
    rows = summary(make_results({"random": 0.7, "cv": 0.6}))
    assert [row.policy for row in rows] == [
        "cv",
        "random",
        "linear interpolation",
        "code mean",
        "last value",
    ]
    assert (rows[0].won, rows[0].num_codes, rows[1].won) == (12, 12, None)
    assert rows[0].measurements_per_s == 8000


def test_methods_table_shows_every_row_and_the_headline():
    results = make_results({"random": 0.7, "cv": 0.6})
    text = methods_table(results)
    assert results.headline.title in text
    assert "12 of 12" in text
    assert all(name in text for name in ("random", "cv", *BASELINES))


# What readers of results.json rely on: its keys, in order.
KEYS = {
    "": "settings data reference methods pairs against_reference against_interpolation seeds codes "
    "cv_against_r2 convergence notes headline provenance downstream columns code_columns "
    "volatility near_copies context perturbation failed "
    "not_compared",
    "settings": "split seed min_scored bootstrap_samples statistics mask_ratio sequence_length",
    "data": "num_subjects num_sequences num_measurements num_hidden num_twins num_scored num_codes "
    "num_codes_matched num_codes_counted codes_unmatched codes_left_out",
    "methods": "name kind of r2_pooled r2_pooled_interval r2_macro r2_macro_interval "
    "interval_over r2_median r2_pooled_classical runs",
    "runs": "checkpoint r2_pooled r2_macro stamp",
    "pairs": "first second kind family num_runs over verdict pooled_difference pooled_interval p "
    "p_adjusted degrees_of_freedom macro_difference macro_interval num_codes wins losses ties "
    "win_rate clear_wins clear_losses wilcoxon_p cohens_d difference difference_low "
    "difference_high difference_p_adjusted",
    "seeds": "name num_runs standard_deviation largest_difference wins losses",
    "codes": "code name num_scored num_subjects counted left_out mean std cv cv_unclipped r2 "
    "r2_interval r2_classical mean_absolute_error root_mean_squared_error",
    "cv_against_r2": "r p num_codes",
    "convergence": "reference names reference_best",
    "curve": "epoch tuning_mse lowest highest num_runs num_reached epochs_to_reference_best "
    "epochs_to_reference_best_interval measurements_to_reference_best hours_to_reference_best "
    "epochs_to_reference_best_per_run "
    "epochs_to_own_best epochs_to_own_best_per_run final_slope measurements_per_s",
    "headline": "title sentences",
    "provenance": "command date data dataset versions hardware",
    "hardware": "machine num_cpus gpu",
}


def test_the_keys_of_results_json_are_what_readers_rely_on():
    tree = to_json(make_results({"random": 0.7, "cv": 0.6}))
    assert [method["name"] for method in tree["methods"]] == ["random", "cv", *BASELINES]
    assert [tree["pairs"][0][key] for key in ("first", "second")] == ["cv", "random"]
    found = {
        "": tree,
        "runs": tree["methods"][0]["runs"][0],
        "cv_against_r2": tree["cv_against_r2"]["cv"],
        "curve": tree["convergence"]["names"]["cv"],
        "hardware": tree["provenance"]["hardware"],
        **{key: tree[key] for key in ("settings", "data", "convergence", "headline", "provenance")},
        **{key: tree[key][0] for key in ("methods", "pairs", "seeds", "codes")},
    }
    assert {name: " ".join(value) for name, value in found.items()} == KEYS


@pytest.mark.parametrize("settings", [SETTINGS, replace(SETTINGS, min_scored=10**6)])
def test_results_become_plain_json_with_nothing_where_no_number_is(settings):
    results = make_results({"random": 0.7, "cv": 0.6}, histories=False, settings=settings)
    tree = to_json(results)
    assert json.loads(json.dumps(tree, allow_nan=False)) == tree
    macro = results.methods[0].r2_macro
    assert tree["methods"][0]["r2_macro"] == (None if np.isnan(macro) else macro)
    assert np.isnan(macro) == (settings is not SETTINGS)


def test_without_a_code_to_count_pooled_figures_stand_and_a_note_says_why(tmp_path):
    few = replace(SETTINGS, min_scored=10**6)
    results = make_results({"random": 0.7, "cv": 0.6}, settings=few)
    assert [drawing.name for drawing in draw(results)] == ["scores", "learning_curves"]
    assert results.notes[0].startswith("No code has evaluate.min_scored=1000000 scored values")
    page = write_report(results, tmp_path).read_text(encoding="utf-8")
    assert results.notes[0] in page
    assert not re.search(r"\bnan\b", re.sub(r'src="[^"]*"', "", page))  # images aside
    assert "nan" not in methods_table(results)


def test_best_weights_stand_beside_their_model_and_not_in_the_ranking():
    best = Contestant(name="cv", path="runs/cv", which="best", stamp="")
    last = replace(best, which="last")
    rng = np.random.default_rng(0)
    error = rng.random((200, 5))
    sums = Sums(
        num_subjects=100,
        num_sequences=100,
        num_hidden=200,
        num_twins=0,
        measurements_C=np.full(2, 400),
        subject_R=np.repeat(np.arange(100), 2),
        code_R=np.tile([0, 1], 100),
        count_R=np.ones(200),
        sum_R=rng.normal(size=200),
        square_R=np.full(200, 4.0),
        error_RK=error,
        absolute_CK=np.ones((2, 5)),
    )
    results = build_results(
        sums,
        [last, best],
        statistics=make_statistics(2),
        names={},
        histories={"cv": [[]]},
        settings=SETTINGS,
        provenance=PROVENANCE,
    )
    assert [(m.name, m.kind, m.of) for m in results.methods][:2] == [
        ("cv", "model", "cv"),
        ("cv (best weights)", "best weights", "cv"),
    ]
    (row,) = (row for row in summary(results) if row.kind == "model")
    assert row.r2_pooled_best == results.methods[1].r2_pooled != row.r2_pooled
    assert "(best weights)" not in methods_table(results)


def test_an_r2_of_zero_ranks_above_a_negative_one():
    results = make_results({"random": 0.7})
    rest = [m for m in results.methods if m.kind == "model"]
    values = {"code mean": -0.5, "last value": 0.0, "linear interpolation": float("nan")}
    others = [replace(m, r2_pooled=values[m.name]) for m in results.methods if m.name in values]
    rows = summary(replace(results, methods=(*rest, *others)))
    assert [row.policy for row in rows[1:]] == ["last value", "code mean", "linear interpolation"]


@dataclass(frozen=True, kw_only=True)
class WithWeather(Results):
    weather: tuple[float, ...]


def draw_weather(results):
    figure = Figure(figsize=(2, 2))
    figure.subplots().plot(results.weather)
    return Drawing(name="weather", title="Weather", caption="More is better.", figure=figure)


def test_a_new_figure_needs_a_field_and_a_drawing_to_be_in_results_json_and_report(
    monkeypatch, tmp_path
):
    results = WithWeather(**vars(make_results({"random": 0.7})), weather=(0.1, 0.2))
    monkeypatch.setattr("cvmae.evaluate.report.figures.FIGURES", (*FIGURES, draw_weather))
    page = write_report(results, tmp_path).read_text(encoding="utf-8")
    assert to_json(results)["weather"] == [0.1, 0.2]
    assert '<figure id="weather">' in page
    assert "More is better." in page
    assert (tmp_path / "figures" / "weather.png").is_file()


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
    assert results.headline.title in page


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
    assert summary(results)[0].epochs_to_reference_best is None
    assert {row.epochs_needed for row in summary(results)} == {"-", ""}  # not `never`


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
