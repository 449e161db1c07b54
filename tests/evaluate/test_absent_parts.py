"""The report where parts are absent: no empty table, no number that is none, no false reason."""

import re
from dataclasses import replace

import pytest

from cvmae.evaluate.context import Context, Slope, Truncated
from cvmae.evaluate.contrasts import Contrast
from cvmae.evaluate.perturbation import Degradation, Perturbation
from cvmae.evaluate.report.page import write_report
from cvmae.evaluate.survey import NearCopies
from cvmae.evaluate.volatility import PublishedPair, Volatility, VolatilityCorrelation
from tests.evaluate.made_results import SETTINGS, make_results

NAN = float("nan")
NONE = Contrast(
    value=NAN,
    interval=(NAN, NAN),
    over="subjects",
    verdict="undecided",
    p=NAN,
    num_seeds=1,
    num_subjects=0,
)
SLOPE = Slope(
    first="cv",
    second="random",
    history=replace(NONE, value=0.25, interval=(0.125, 0.5)),
    length=None,
)
TRUNCATED = Truncated(
    num_found=5, num_targets=5, num_subjects=5, min_priors=8, by_kept=(), slopes=(SLOPE,)
)
CONTEXT = Context(
    reference="random",
    num_windows_found=9,
    num_windows=9,
    num_targets=9,
    num_subjects=9,
    by_history=(),
    by_length=(),
    slopes=(),
    truncated=TRUNCATED,
)
PAIR = PublishedPair(
    first="cv",
    second="random",
    num_codes=0,
    wins=0,
    losses=0,
    ties=0,
    win_rate=NAN,
    wilcoxon_p=NAN,
    cohens_d=NAN,
    published_win_rate=0.71,
    published_p_below=None,
    published_cohens_d=None,
    top=(),
    bottom=(),
)
CORRELATION = VolatilityCorrelation(
    measure="CV",
    model="cv",
    pearson=NAN,
    pearson_p=NAN,
    spearman=NAN,
    spearman_p=NAN,
    num_codes=0,
)
VOLATILITY = Volatility(
    reference="random", quartiles=(), num_unranked=0, correlations=(CORRELATION,), pairs=(PAIR,)
)
PERTURBATION = Perturbation(
    reference="random",
    noise=0.9,
    min_priors=3,
    num_found=9,
    num_targets=9,
    num_subjects=9,
    num_controls=0,
    methods=tuple(
        Degradation(
            name=name,
            kind=kind,
            error=0.5,
            change=SLOPE.history,
            percent=SLOPE.history,
            control_change=NONE,
            control_percent=NONE,
        )
        for name, kind in (("random", "model"), ("last value", "baseline"))
    ),
    pairs=(),
    codes=(),
)


@pytest.fixture
def page_of(tmp_path):
    """Return a function from parts to the page of two policies without a counted code."""
    few = make_results(
        {"random": 0.7, "cv": 0.6}, settings=replace(SETTINGS, min_scored=10**6), histories=False
    )

    def write(**parts):
        page = write_report(replace(few, **parts), tmp_path).read_text(encoding="utf-8")
        body = re.sub(r'src="[^"]*"', "", page)
        return body[body.index("<main") : body.index("<script")]

    return write


def test_nothing_is_said_of_no_code_and_no_share_is_a_dash_of_a_hundred(page_of):
    page = page_of(volatility=VOLATILITY)
    assert "-%" not in page
    assert "0 of 0" not in page
    assert "Volatility against R2" not in page
    assert not re.search(r"<tbody>\s*</tbody>", page)


def test_slopes_by_truncation_are_shown_where_there_is_none_as_observed(page_of):
    page = page_of(context=CONTEXT)
    assert "One policy: nothing to compare it with" not in page
    assert "+0.250 (0.125 to 0.500; undecided)" in page
    # A policy that nothing is known of has dashes and no number of seeds.
    page = page_of(context=replace(CONTEXT, truncated=None))
    assert re.search(r"<tr><td>cv</td>(<td>-</td>\s*){4}</tr>", page)


def test_a_contrast_that_is_none_is_one_dash(page_of):
    page = page_of(perturbation=PERTURBATION)
    assert "- (-" not in page
    assert re.search(r"<td>-</td>\s*<td>-</td></tr>", page)


def test_codes_that_were_never_measured_together_are_not_called_unlike(page_of):
    page = page_of(near_copies=NearCopies(pairs=(), num_judged=0))
    assert "None among the 0 pairs" not in page
    assert "No two codes were measured at the same times often enough" in page


def test_without_a_history_nobody_is_said_never_to_reach_a_target(page_of):
    assert ">never<" not in page_of()
