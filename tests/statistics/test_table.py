"""What the table of codes says beside its numbers."""

import numpy as np
import pytest

from cvmae.statistics.table import format_statistics
from tests.batches.test_policies import statistics_of

COUNTS = {
    "splits": {},
    "candidate_rows": dict.fromkeys(
        ("num_matching", "num_null_value", "num_non_finite", "num_null_time"), 0
    ),
    "num_duplicates": 0,
    "num_subjects_without_split": 0,
    "dropped_codes": {},
}


def line_of(flagged=(), **changes) -> str:
    """The first code's line: red cells, whose CV a few unit slips have made."""
    statistics = statistics_of(
        [4.0, 1.0],
        [12.08, 1.0],
        **{"median": [4, 1], "mad": [0.4722, 1], "num_values": [240, 5]} | changes,
    )
    table = format_statistics(statistics, COUNTS | {"flagged_codes": list(flagged)}, {})
    return next(line for line in table.splitlines() if line.startswith("code 0"))


def test_a_cv_of_few_values_that_a_robust_one_contradicts_is_named_beside_it():
    assert "3.0200" in line_of()
    assert line_of().endswith("robust CV 0.1750: too few values for any to be clipped")


@pytest.mark.parametrize(
    "changes",
    [
        {"num_values": [1000, 5]},  # here quantiles clip
        {"mad": [3.0, 1]},  # a robust CV of 1.1: the plain one is less than three times that
        {"mad": [0.0, 1]},  # more than half of the values are the same
        {"median": [0.0, 1]},
        {"maximum": [900.0, 2], "clip_high": [30.0, np.inf]},
    ],
)
def test_a_cv_that_is_clipped_or_not_contradicted_stands_alone(changes):
    assert "robust" not in line_of(**changes)


def test_a_code_without_a_natural_zero_is_said_to_get_the_median_weight():
    assert line_of(flagged=["code 0"]).endswith("no natural zero: median mask weight")
