import numpy as np
import pytest

from cvmae.evaluate.downstream.tasks import SplitCount, labels_in_splits, support
from cvmae.meds.labels import Labels

MEMBERS = {
    "train": np.array([1, 2, 3]),
    "tuning": np.array([4]),
    "held_out": np.array([5, 6]),
}


def supported(kind, *rows):
    subject_L, value_L = (np.array(column) for column in zip(*rows, strict=True))
    labels = Labels(
        name="task",
        kind=kind,
        subject_id_L=subject_L.astype(np.int64),
        time_us_L=np.arange(len(rows)),
        value_L=value_L.astype(float),
    )
    return support(labels, labels_in_splits(labels, MEMBERS), "held_out")


def test_labels_are_counted_by_split_and_what_is_in_none_is_said():
    found = supported("boolean", (1, 0), (1, 1), (3, 1), (4, 0), (5, 0), (6, 1), (9, 1))
    assert found.splits["train"] == SplitCount(num_labels=3, num_subjects=2, num_positives=2)
    assert found.splits["held_out"] == SplitCount(num_labels=2, num_subjects=2, num_positives=1)
    assert found.num_without_split == 1
    assert found.not_learned == found.not_scored == ""


@pytest.mark.parametrize(
    ("kind", "rows", "learned", "scored"),
    [
        ("boolean", [(1, 0), (2, 0), (4, 0), (5, 1)], "train has no positive label among 2", None),
        ("boolean", [(1, 0), (2, 1), (5, 1)], "tuning has no label", None),
        ("boolean", [(1, 0), (2, 1), (4, 1)], "held_out has no label", None),
        (
            "boolean",
            [(1, 0), (2, 1), (4, 1), (5, 0), (6, 0)],
            "",
            "held_out has no positive label among 2",
        ),
        ("boolean", [(1, 0), (2, 1), (4, 1), (5, 1)], "", "held_out has no negative label among 1"),
        ("number", [(1, 7), (2, 8), (4, 1), (5, 3), (6, 3)], "", "held_out has 2 labels of one"),
    ],
)
def test_what_labels_do_not_allow_is_said(kind, rows, learned, scored):
    found = supported(kind, *rows)
    assert found.not_learned.startswith(learned)
    assert bool(found.not_learned) == bool(learned)
    if scored is not None:
        assert found.not_scored.startswith(scored)
