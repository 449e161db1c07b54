"""Subjects with known truth: those of a split, from whom samples are drawn with replacement.

Their errors are real, those of the baselines, which need no model. What holds of all of them is
the truth that an interval from a sample of them should hold.
"""

from pathlib import Path

import numpy as np

from benchmarks.epochs import prepare
from cvmae.arrays import Floats, Ints
from cvmae.batches.evaluation import evaluation_batches
from cvmae.batches.sequences import gather_index
from cvmae.evaluate.reconstruction import Sums, add_batches, merge
from cvmae.meds.dataset import open_dataset
from cvmae.meds.units import plan_units
from cvmae.settings_of_comparison import EvaluateConfig

__all__ = ["baseline_sums", "draw_subjects", "with_errors"]


def baseline_sums(root: str, folder: Path) -> Sums:
    """Return the errors of the baselines on the held-out subjects of a data set.

    Args:
        root: Of the data set.
        folder: Where its statistics are kept.
    """
    settings = EvaluateConfig()
    prepared = prepare(root, beside=str(folder / f"inference_{Path(root).name}"))
    statistics = prepared.fitted.statistics
    dataset = open_dataset(root, [settings.split])
    parts = [
        add_batches(
            evaluation_batches(
                dataset.source,
                unit,
                statistics,
                split=settings.split,
                sequence_length=settings.sequence_length,
                ratio=settings.mask_ratio,
                seed=settings.seed,
            ),
            [],
            statistics.num_codes,
        )
        for unit in plan_units(dataset, prepared.config.data.unit_rows)
    ]
    return _by_subject(merge(parts))


def draw_subjects(sums: Sums, drawn: Ints) -> Sums:
    """Return the sums of some subjects, each as often as it is named, as if they were others."""
    starts = np.searchsorted(sums.subject_R, np.arange(sums.num_subjects + 1))
    lengths = np.diff(starts)[drawn]
    index = gather_index(starts[:-1][drawn], lengths)
    changed = {name: getattr(sums, name)[index] for name in ("code_R", "count_R", "sum_R")}
    changed |= {name: getattr(sums, name)[index] for name in ("square_R", "error_RK")}
    subject_R = np.repeat(np.arange(len(drawn)), lengths)
    return Sums(**vars(sums) | changed | {"num_subjects": len(drawn), "subject_R": subject_R})


def with_errors(sums: Sums, error_RK: Floats) -> Sums:
    """Return the sums of other methods on the same values."""
    return Sums(**vars(sums) | {"error_RK": error_RK})


def _by_subject(sums: Sums) -> Sums:
    """Sort the pairs by subject, and leave out subjects of whom nothing was scored."""
    order = np.argsort(sums.subject_R, kind="stable")
    own, subject_R = np.unique(sums.subject_R[order], return_inverse=True)
    names = ("code_R", "count_R", "sum_R", "square_R", "error_RK")
    changed = {name: getattr(sums, name)[order] for name in names}
    return Sums(**vars(sums) | changed | {"num_subjects": len(own), "subject_R": subject_R})
