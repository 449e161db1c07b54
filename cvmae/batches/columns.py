"""Columns: declared ways of hiding values of an evaluation, each the same for every model.

* ``uniform``: a fixed share of each subject's values, all codes alike; what is claimed rests on it.
* ``leave-one-out``: one value at a time, all others of its window visible: one target of each
  subject and code.
* ``own mask of POLICY``: as a policy of training would hide them, by its codes' weights.

Masks of shares are drawn on the whole subject, before windows are cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cvmae.arrays import Bools, Float32s, Floats, Ints
from cvmae.batches.keys import counter_hash, stream_keys, uniform
from cvmae.batches.masking import evaluation_hidden, sample_independently
from cvmae.meds.measurements import Measurements

__all__ = [
    "LEAVE_ONE_OUT",
    "UNIFORM",
    "Column",
    "Kind",
    "Targets",
    "choose_targets",
    "column_hidden",
    "has_twin",
    "uniform_column",
]

Kind = Literal["uniform", "leave-one-out", "own mask"]
UNIFORM: Kind = "uniform"
LEAVE_ONE_OUT: Kind = "leave-one-out"

# Shape letters beside those of `cvmae.arrays`: M measurements of a whole unit, T targets.


@dataclass(frozen=True, kw_only=True, eq=False)
class Column:
    """One way of hiding values."""

    name: str
    kind: Kind
    meaning: str  # a sentence for readers
    ratio: float = 0.0  # share hidden; leave-one-out has none
    weight_C: Float32s | None = None  # of an own mask
    draws_independently: bool = False  # its weights are then chances
    limit: float = 1.0  # leave-one-out: targets whose draw is below it are taken
    own_of: tuple[str, ...] = ()  # names of the models that were trained under such a mask


def uniform_column(ratio: float, practised: Sequence[str] = ()) -> Column:
    """Return the column that claims rest on, which is nobody's own.

    Args:
        ratio: Share hidden.
        practised: Names of the models that were trained by equal weights, which readers are told.
    """
    trained = f"; {', '.join(practised)} trained by such a mask" if practised else ""
    meaning = f"{ratio:.0%} of each subject's values, drawn uniformly; claims rest on it"
    return Column(
        name=UNIFORM,
        kind=UNIFORM,
        meaning=meaning + trained,
        ratio=ratio,
    )


def column_hidden(column: Column, measurements: Measurements, *, seed: int) -> Bools:
    """Return which values of a unit a column hides, leave-one-out aside; M entries."""
    assert column.kind != LEAVE_ONE_OUT, "its targets are hidden one at a time"
    if column.weight_C is None:
        return evaluation_hidden(measurements, ratio=column.ratio, seed=seed)
    weight_M = column.weight_C[measurements.code_index_N]
    if column.draws_independently:
        return sample_independently(
            subject_id_W=measurements.subject_id_S,
            first_position_W=np.zeros_like(measurements.subject_id_S),
            length_W=np.diff(measurements.offsets_S),
            chance_N=weight_M,
            seed=seed,
            epoch=0,
        )
    return evaluation_hidden(measurements, ratio=column.ratio, seed=seed, weight_M=weight_M)


@dataclass(frozen=True, kw_only=True, eq=False)
class Targets:
    """One value of each subject and code, in file order."""

    index_T: Ints  # into the unit's columns
    draw_T: Floats  # of the subject and code, uniform on (0, 1)

    def below(self, limit: float) -> Ints:
        """Return the index of those whose draw is below a limit."""
        return self.index_T[self.draw_T < limit]


def choose_targets(measurements: Measurements, *, seed: int) -> Targets:
    """Draw one value of each subject and code that has no twin; of subjects with two and more.

    The value and the draw that a limit is applied to are independent: a code that is measured
    often in a subject is as likely as one that was measured once.
    """
    m = measurements
    lengths_S = np.diff(m.offsets_S)
    subject_M = np.repeat(np.arange(len(lengths_S)), lengths_S)
    allowed_Q = np.flatnonzero(~has_twin(m) & (lengths_S[subject_M] >= 2))
    subject_Q, code_Q = subject_M[allowed_Q], m.code_index_N[allowed_Q].astype(np.int64)
    position_Q = allowed_Q - m.offsets_S[subject_Q]
    value_keys_S, pair_keys_S = (
        stream_keys(seed, purpose, m.subject_id_S, stream="target") for purpose in (0, 1)
    )
    draw_Q = counter_hash(value_keys_S[subject_Q], position_Q)
    order = np.lexsort((draw_Q, code_Q, subject_Q))
    pair_Q = np.stack([subject_Q, code_Q])[:, order]
    first = np.ones(len(order), bool)
    first[1:] = (pair_Q[:, 1:] != pair_Q[:, :-1]).any(axis=0)
    chosen = np.sort(order[first])
    draw_T = uniform(counter_hash(pair_keys_S[subject_Q[chosen]], code_Q[chosen]))
    return Targets(index_T=allowed_Q[chosen], draw_T=draw_T)


def has_twin(measurements: Measurements) -> Bools:
    """Mark measurements whose subject, time and code occur more than once."""
    lengths_S = np.diff(measurements.offsets_S)
    subject_N = np.repeat(np.arange(len(lengths_S)), lengths_S)
    keys = (measurements.code_index_N, measurements.time_us_N, subject_N)
    order_N = np.lexsort(keys)
    same_N = np.ones(max(len(order_N) - 1, 0), bool)
    for key in keys:
        same_N &= key[order_N][1:] == key[order_N][:-1]
    twin_N = np.zeros(len(order_N), bool)
    twin_N[order_N[1:][same_N]] = True
    twin_N[order_N[:-1][same_N]] = True
    return twin_N
