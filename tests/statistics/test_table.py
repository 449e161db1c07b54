"""What the table of codes says beside its numbers."""

import pytest

from cvmae.statistics.table import count_lines, format_statistics
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


@pytest.mark.parametrize(("mad", "robust"), [(0.4722, "0.1750"), (2.0, "0.7413"), (0, "0.0000")])
def test_a_cv_of_few_values_has_the_robust_one_beside_it(mad, robust):
    assert "3.0200" in line_of()
    assert line_of(mad=[mad, 1]).endswith(f"few values: robust CV {robust}")


def test_a_cv_of_many_values_which_quantiles_clip_stands_alone():
    assert "robust" not in line_of(num_values=[1000, 5])


def test_a_code_without_a_natural_zero_is_said_to_get_the_median_weight():
    found = line_of(flagged=["code 0"], num_values=[1000, 5])
    assert found.endswith("no natural zero: median mask weight")


def test_codes_that_are_left_out_take_one_line_however_many_they_are():
    dropped = {f"LAB//{i}": f"{i} values on train (data.min_count=25)" for i in range(9)}
    *_, line = count_lines(COUNTS | {"dropped_codes": dropped}, {"LAB//1": "sodium"})
    assert line == (
        "9 matching codes left out (all are named in data.json): "
        "LAB//0: 0 values on train (data.min_count=25); "
        "LAB//1 (sodium): 1 values on train (data.min_count=25); "
        "LAB//2: 2 values on train (data.min_count=25); ..."
    )
    assert not any("left out" in line for line in count_lines(COUNTS, {}))
