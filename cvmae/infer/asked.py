"""What is to be imputed: subjects, times and codes."""

from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from cvmae.arrays import Bools, Ints
from cvmae.batches.sequences import gather_index
from cvmae.meds.measurements import Measurements
from cvmae.meds.row_order import run_starts
from cvmae.statistics.code_statistics import CodeStatistics, MemberLookup

__all__ = ["Asked", "KnownCodes"]

# Shape letters: L rows that are asked for, K codes that an entry of the vocabulary stands for.


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownCodes:
    """The MEDS codes that a model knows, each by itself: an entry of its vocabulary may be several.

    Rows keep the name that they have, and what is imputed has it too.
    """

    names: tuple[str, ...]
    entry_K: npt.NDArray[np.int32]

    @classmethod
    def of(cls, statistics: CodeStatistics) -> Self:
        """Return the codes of a vocabulary, ascending."""
        entries = {code: n for n, codes in enumerate(statistics.members) for code in codes}
        names = sorted(entries)
        return cls(
            names=tuple(names), entry_K=np.array([entries[name] for name in names], np.int32)
        )

    @property
    def lookup(self) -> MemberLookup:
        """Map MEDS codes to their place among the names, -1 where a code is not known."""
        return MemberLookup([(name,) for name in self.names])

    def as_entries(self, measurements: Measurements) -> Measurements:
        """Return measurements that were read by this lookup as those of the vocabulary."""
        return replace(measurements, code_index_N=self.entry_K[measurements.code_index_N])


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """Rows that are asked for; a row may be one that was measured."""

    subject_id_L: Ints = field(repr=False)
    time_us_L: Ints = field(repr=False)
    code_L: Ints = field(repr=False)  # place among the names of `KnownCodes`

    @property
    def num_rows(self) -> int:
        """Return L."""
        return len(self.subject_id_L)

    def take(self, chosen_L: Ints | Bools) -> Self:
        """Return some of them."""
        return type(self)(
            subject_id_L=self.subject_id_L[chosen_L],
            time_us_L=self.time_us_L[chosen_L],
            code_L=self.code_L[chosen_L],
        )

    def of_subjects(self, subject_S: Ints) -> Self:
        """Return the rows of some subjects, no two alike, who ascend as those of all rows do."""
        first_S, end_S = (
            np.searchsorted(self.subject_id_L, subject_S, side) for side in ("left", "right")
        )
        return self.take(gather_index(first_S, end_S - first_S))

    def as_entries(self, known: KnownCodes) -> Self:
        """Return the same rows with entries of the vocabulary for codes."""
        return replace(self, code_L=known.entry_K[self.code_L].astype(np.int64))

    def in_order(self) -> Self:
        """Return each row once, by subject, time and code."""
        rows = self.take(np.lexsort((self.code_L, self.time_us_L, self.subject_id_L)))
        return rows.take(run_starts(rows.subject_id_L, rows.time_us_L, rows.code_L))

    @classmethod
    def of(cls, rows: Measurements) -> Self:
        """Ask for the rows of a unit that were read by the lookup of `KnownCodes`."""
        return cls(
            subject_id_L=np.repeat(rows.subject_id_S, np.diff(rows.offsets_S)),
            time_us_L=rows.time_us_N,
            code_L=rows.code_index_N.astype(np.int64),
        )
