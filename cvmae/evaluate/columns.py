"""What each column shows: pooled, and code by code, beside what could be and what was trained on.

R2 is 1 - SSE / sum of z^2 of the same values, z by the reference's mean and deviation of train:
the code mean scores 0 under every mask. Values of the columns differ, so that only figures of one
column compare.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cvmae.arrays import Floats, Ints
from cvmae.batches.columns import Column, Kind
from cvmae.evaluate.attainable import Truth
from cvmae.evaluate.baselines import BASELINES
from cvmae.evaluate.contestants import Contestant
from cvmae.evaluate.reconstruction import Sums, average_runs, r2_per_code
from cvmae.evaluate.small_cells import SMALLEST_CELL
from cvmae.statistics.code_statistics import CodeStatistics

__all__ = ["CodeColumns", "ColumnScores", "Totals", "code_columns", "column_scores", "totals"]

# Shape letters beside those of `cvmae.arrays`: K methods, Q runs of models, then baselines.


@dataclass(frozen=True, kw_only=True)
class ColumnScores:
    """How every method did under one column."""

    name: str
    kind: Kind
    meaning: str
    own_of: tuple[str, ...]  # models that were trained under this mask: not a comparison
    num_hidden: int
    num_twins: int  # hidden values that are not scored
    num_scored: int
    num_subjects: int  # with a scored value
    num_codes: int  # likewise
    r2_pooled: dict[str, float]  # by method
    r2_pooled_runs: dict[str, tuple[float, ...]]  # of each run, by model
    attainable_r2: float | None  # pooled, on the synthetic hospital


@dataclass(frozen=True, kw_only=True)
class CodeColumns:
    """One code under every column; errors are in the code's own unit.

    Where a column scores values of fewer than `SMALLEST_CELL` subjects, R2 and errors are NaN.
    """

    code: str
    robust_cv: float  # beside `cv` and `cv_unclipped` of the code's scores
    within_subject_cv: float
    cv_true: float | None  # on the synthetic hospital
    share_hidden: dict[str, float]  # realised in training, by model
    num_scored: dict[str, int]  # by column, as all that follow
    r2: dict[str, dict[str, float]]  # then by method
    mean_absolute_error: dict[str, dict[str, float]]
    attainable_r2: dict[str, float]  # empty but on the synthetic hospital, as the next
    share_of_attainable: dict[str, dict[str, float]]  # R2 over attainable R2


@dataclass(frozen=True, kw_only=True, eq=False)
class Totals:
    """Sums of a column over subjects, seeds averaged and each run by itself."""

    names: tuple[str, ...]  # of the methods
    run_names: tuple[str, ...]  # of the method of each run
    subjects_C: Ints  # with a scored value
    count_C: Floats
    square_C: Floats  # of z
    error_CK: Floats
    absolute_CK: Floats
    error_CQ: Floats

    @property
    def r2_CK(self) -> Floats:
        """R2 of each code and method, NaN where nothing was scored."""
        return r2_per_code(self.error_CK, self.square_C)

    def by_name(self, values_K: Floats) -> dict[str, float]:
        """Return values of methods by their names."""
        return {name: float(value) for name, value in zip(self.names, values_K, strict=True)}

    def pooled_r2(self, codes: Ints | slice = slice(None)) -> Floats:
        """Return the R2 [K] of all values of some codes together."""
        return _pooled(self.error_CK[codes], self.square_C[codes])

    def pooled_r2_runs(self, codes: Ints | slice = slice(None)) -> dict[str, tuple[float, ...]]:
        """Return the same of each run, by its model."""
        r2_Q = _pooled(self.error_CQ[codes], self.square_C[codes])
        return {
            name: tuple(float(r2_Q[q]) for q, own in enumerate(self.run_names) if own == name)
            for name in dict.fromkeys(self.run_names)
            if name not in BASELINES
        }


def _pooled(error_CK: Floats, square_C: Floats) -> Floats:
    # All sums in one go: equal ones stay equal to the last bit, and the code mean scores 0.
    sums_X = np.column_stack([square_C, error_CK]).sum(axis=0)
    return r2_per_code(sums_X[1:], sums_X[0])


def totals(sums: Sums, contestants: Sequence[Contestant]) -> Totals:
    """Add up the subjects of a column.

    Args:
        sums: Errors of every contestant, then of every baseline.
        contestants: In the order of the sums' methods.
    """
    run_names = (*(contestant.method for contestant in contestants), *BASELINES)
    averaged, names = average_runs(sums, run_names)
    columns_RX = np.column_stack([sums.count_R, sums.square_R, averaged.error_RK, sums.error_RK])
    totals_CX: Floats = np.stack(
        [np.bincount(sums.code_R, x_R, minlength=sums.num_codes) for x_R in columns_RX.T],
        axis=1,
    ).astype(np.float64, copy=False)
    return Totals(
        names=names,
        run_names=run_names,
        subjects_C=np.bincount(sums.code_R, minlength=sums.num_codes),
        count_C=totals_CX[:, 0],
        square_C=totals_CX[:, 1],
        error_CK=totals_CX[:, 2 : 2 + len(names)],
        error_CQ=totals_CX[:, 2 + len(names) :],
        absolute_CK=averaged.absolute_CK,
    )


def column_scores(
    columns: Sequence[Column],
    all_sums: Sequence[Sums],
    all_totals: Sequence[Totals],
    truth: Truth | None,
) -> tuple[ColumnScores, ...]:
    """Return a row for each column."""
    rows = []
    for place, (column, sums, found) in enumerate(zip(columns, all_sums, all_totals, strict=True)):
        rows.append(
            ColumnScores(
                name=column.name,
                kind=column.kind,
                meaning=column.meaning,
                own_of=column.own_of,
                num_hidden=sums.num_hidden,
                num_twins=sums.num_twins,
                num_scored=int(found.count_C.sum()),
                num_subjects=len(np.unique(sums.subject_R)),
                num_codes=int(np.count_nonzero(found.count_C)),
                r2_pooled=found.by_name(found.pooled_r2()),
                r2_pooled_runs=found.pooled_r2_runs(),
                attainable_r2=None if truth is None else float(truth.pooled_J[place]),
            )
        )
    return tuple(rows)


def code_columns(
    columns: Sequence[Column],
    all_totals: Sequence[Totals],
    statistics: CodeStatistics,
    shares: Mapping[str, Floats],
    truth: Truth | None,
) -> tuple[CodeColumns, ...]:
    """Return a row for each code of the vocabulary.

    Args:
        columns: All of them.
        all_totals: Of each.
        statistics: Of the reference.
        shares: Share hidden in training of each code, by model.
        truth: Of the synthetic hospital, where the data are its.
    """
    named = list(zip((column.name for column in columns), all_totals, strict=True))
    r2_by, absolute_by = {}, {}
    for name, found in named:
        enough_C = found.subjects_C >= SMALLEST_CELL
        count_C = np.where(enough_C, found.count_C, np.nan)
        r2_by[name] = np.where(enough_C[:, None], found.r2_CK, np.nan)
        absolute_by[name] = found.absolute_CK * (statistics.std / count_C)[:, None]
    rows = []
    for code, text in enumerate(statistics.codes):
        best = {} if truth is None else _floats(columns, truth.r2_JC[:, code])
        rows.append(
            CodeColumns(
                code=text,
                robust_cv=float(statistics.robust_cv[code]),
                within_subject_cv=float(statistics.within_subject_cv[code]),
                cv_true=None if truth is None else float(truth.cv_C[code]),
                share_hidden={name: float(share_C[code]) for name, share_C in shares.items()},
                num_scored={name: int(found.count_C[code]) for name, found in named},
                r2={name: found.by_name(r2_by[name][code]) for name, found in named},
                mean_absolute_error={
                    name: found.by_name(absolute_by[name][code]) for name, found in named
                },
                attainable_r2=best,
                share_of_attainable={
                    name: found.by_name(r2_by[name][code] / best[name])
                    for name, found in named
                    if name in best
                },
            )
        )
    return tuple(rows)


def _floats(columns: Sequence[Column], values_J: Floats) -> dict[str, float]:
    return {column.name: float(value) for column, value in zip(columns, values_J, strict=True)}
