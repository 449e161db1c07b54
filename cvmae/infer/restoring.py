"""Rows that are asked for, restored as hidden values are in training and in evaluation.

A subject's measurements are cut into windows as there. A row that was measured is hidden where it
stands, whatever its value; any other is put into the window that is nearest in time. So nothing
that is asked for is seen, and all other measurements of the window are, earlier and later ones.

The model reads a window once or several times, in passes. Hours count from the first row of a
pass, as in training: a row before the window's first measurement would move all others in time,
so the rows of such a time get a pass of their own. And no pass has more rows beside its window
than a window has at most.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from cvmae.arrays import Bools, Float32s, Floats, Ints
from cvmae.batches.batch import join_cells
from cvmae.batches.cells import make_cell
from cvmae.batches.evaluation import MOST_MEASUREMENTS
from cvmae.batches.masking import FixedMask
from cvmae.batches.sequences import Sequences, cut_windows, gather_index
from cvmae.checkpoint import Loaded
from cvmae.infer.asked import Asked, KnownCodes
from cvmae.infer.embed import why_not_finite
from cvmae.infer.histories import Moments, num_until
from cvmae.meds.measurements import Measurements
from cvmae.meds.splits import is_among

__all__ = ["Passes", "Placed", "is_imputing", "is_measured", "place", "refuse_imputing", "restore"]

# Shape letters: L rows that are asked for, N measurements, W windows, U rows that nobody measured,
# R measurements and behind them those rows, P passes.


class Passes(NamedTuple):
    """Some passes over windows, and what is hidden in each."""

    rows: Measurements
    windows: Sequences
    hidden_N: Bools
    row_M: Ints  # which of the rows of `Placed` each hidden one is; -1: another pass restores it


@dataclass(frozen=True, kw_only=True, eq=False)
class Placed:
    """Windows in which the rows that are asked for stand, hidden, among measurements."""

    code_R: Ints
    time_us_R: Ints
    value_R: Float32s
    hidden_R: Bools
    row_L: Ints  # which each is; -1: its subject has no measurement that may be seen
    windows: Sequences  # P windows: the measurements of each pass
    start_P: Ints  # the first row that each pass has beside them
    num_beside_P: Ints
    is_early_P: Bools  # whether those are from before the window

    def in_batches(self, max_rows: int) -> Iterator[Passes]:
        """Yield the passes, of at most `max_rows` together; a longer one comes alone."""
        whole = replace(self.windows, length_W=self.windows.length_W + self.num_beside_P)
        for index_B in whole.in_batches(max_rows):
            yield self._take(index_B)

    def _take(self, index_B: Ints) -> Passes:
        own, num_beside_B = self.windows.take(index_B), self.num_beside_P[index_B]
        row_N = np.concatenate(
            [
                gather_index(own.start_W, own.length_W),
                gather_index(self.start_P[index_B], num_beside_B),
            ]
        )
        number_B = np.arange(len(index_B))
        pass_N = np.repeat(np.tile(number_B, 2), np.concatenate([own.length_W, num_beside_B]))
        # Stable: measurements of one time keep their order, and what was put there comes behind.
        order_N = np.lexsort((self.time_us_R[row_N], pass_N))
        row_N, pass_N = row_N[order_N], pass_N[order_N]
        length_B = own.length_W + num_beside_B
        offsets_B = np.append(0, np.cumsum(length_B))
        hidden_N = self.hidden_R[row_N]
        num_measured = len(self.hidden_R) - int(self.num_beside_P.sum())
        elsewhere_N = self.is_early_P[index_B][pass_N] & (row_N < num_measured)
        return Passes(
            rows=Measurements(
                subject_id_S=own.subject_id_W,
                offsets_S=offsets_B,
                code_index_N=self.code_R[row_N].astype(np.int32),
                time_us_N=self.time_us_R[row_N],
                numeric_value_N=self.value_R[row_N],
            ),
            windows=replace(own, start_W=offsets_B[:-1], length_W=length_B),
            hidden_N=hidden_N,
            row_M=np.where(elsewhere_N, -1, row_N)[hidden_N],
        )


def is_imputing(model: Loaded) -> bool:
    """Tell whether a model's decoder can be asked for a value by code and time."""
    return not model.config.finetune.checkpoint and model.model.target == "value"


def refuse_imputing(model: Loaded) -> None:
    """Refuse a model whose decoder cannot be asked for a value by code and time.

    Raises:
        ValueError: It was trained with mask.target=measurement, or fine-tuned.
    """
    if model.config.finetune.checkpoint:
        raise ValueError(
            "this model was fine-tuned, which has trained its encoder away from its decoder: "
            "impute by the pretrained model that it began with"
        )
    if model.model.target != "value":
        raise ValueError(
            f"this model was trained with mask.target={model.model.target}, which hides codes and "
            "times from its decoder: impute by one of mask.target=value"
        )


def restore(model: Loaded, measurements: Measurements, asked: Asked, where: str) -> Floats:
    """Return the standardised value that is expected of each row, L entries.

    Args:
        model: That restores values; see `refuse_imputing`.
        measurements: Of a unit or a frame.
        asked: Of any subjects; NaN comes of those without a measurement that may be seen.
        where: What messages call model and rows.

    Raises:
        ValueError: The model makes numbers that are not finite.
    """
    # What comes out must not depend on how many cores a machine has.
    torch.set_num_threads(model.config.train.num_threads)
    statistics = model.fitted.statistics
    entries = asked.as_entries(KnownCodes.of(statistics))
    placed = place(measurements, entries, model.config.data.sequence_length)
    device = model.model.mask_token.device
    z_R = np.zeros(len(placed.hidden_R))
    for passes in placed.in_batches(MOST_MEASUREMENTS):
        mask = FixedMask(hidden_M=passes.hidden_N)
        batch = join_cells([make_cell(passes.rows, passes.windows, statistics, mask)])
        with torch.inference_mode():
            z_M = model.model(batch.to(device)).float().cpu().numpy()
        restored_M = passes.row_M >= 0
        z_R[passes.row_M[restored_M]] = z_M[restored_M]
    if not np.isfinite(z_R).all():
        raise ValueError(f"{where}: imputed values are NaN or infinite; {why_not_finite(model)}")
    return np.where(placed.row_L >= 0, np.append(z_R, np.nan)[placed.row_L], np.nan)


def is_measured(measurements: Measurements, asked: Asked) -> Bools:
    """Return which rows stand among the measurements, L entries; codes are those of both."""
    return _match(measurements, asked)[1] >= 0


def place(measurements: Measurements, asked: Asked, sequence_length: int) -> Placed:
    """Put rows among the measurements of their subjects, into windows of which some may be seen.

    Args:
        measurements: Of a unit.
        asked: Whose codes are entries of the vocabulary, as those of the measurements are.
        sequence_length: Measurements of a window at most, and rows beside them in one pass.
    """
    own = _of_subjects(measurements, np.unique(asked.subject_id_L))
    hidden_N, row_L = _match(own, asked)
    windows = cut_windows(own, sequence_length, singles=True)
    window_N = np.repeat(np.arange(windows.num_sequences), windows.length_W)
    # A window of which nothing is left to see is as good as not there.
    seen_W = np.bincount(window_N[~hidden_N], minlength=windows.num_sequences) > 0
    kept_N = seen_W[window_N]
    row_L = np.where((row_L >= 0) & np.append(kept_N, False)[row_L], row_L, -1)
    beside_U, window_U = _nearest(own, window_N, kept_N, asked.take(row_L < 0))
    index_U = np.flatnonzero(row_L < 0)[beside_U]
    time_U = asked.time_us_L[index_U]
    is_early_U = time_U < own.time_us_N[windows.start_W[window_U]]
    order_U = np.lexsort((time_U, is_early_U, window_U))
    index_U, window_U, is_early_U = index_U[order_U], window_U[order_U], is_early_U[order_U]
    time_U = time_U[order_U]
    first_P = _cut_passes(window_U, np.where(is_early_U, time_U, 0), is_early_U, sequence_length)
    # Windows of which measurements are asked for, and nothing that fits in beside them.
    alone_W = np.bincount(window_N[hidden_N & kept_N], minlength=windows.num_sequences) > 0
    alone_W[window_U[~is_early_U]] = False
    alone = np.flatnonzero(alone_W)
    none_P = np.zeros(len(alone), np.int64)
    row_L[index_U] = len(kept_N) + np.arange(len(index_U))
    return Placed(
        code_R=np.concatenate([own.code_index_N, asked.code_L[index_U]]),
        time_us_R=np.concatenate([own.time_us_N, time_U]),
        value_R=np.concatenate([own.numeric_value_N, np.zeros(len(index_U), np.float32)]),
        hidden_R=np.concatenate([hidden_N, np.ones(len(index_U), np.bool_)]),
        row_L=row_L,
        windows=windows.take(np.concatenate([alone, window_U[first_P]])),
        start_P=len(kept_N) + np.concatenate([none_P, first_P]),
        num_beside_P=np.concatenate([none_P, np.diff(first_P, append=len(index_U))]),
        is_early_P=np.concatenate([none_P > 0, is_early_U[first_P]]),
    )


def _cut_passes(window_U: Ints, early_us_U: Ints, is_early_U: Bools, most: int) -> Ints:
    """Return where each pass begins, of rows that are in order: early ones by their time."""
    new_U = np.zeros(len(window_U), np.bool_)
    new_U[:1] = True
    for key_U in (window_U, early_us_U, is_early_U):
        new_U[1:] |= key_U[1:] != key_U[:-1]
    begin_G = np.flatnonzero(new_U)
    number_U = np.arange(len(window_U)) - begin_G[np.cumsum(new_U) - 1]
    return np.flatnonzero(number_U % most == 0)


def _of_subjects(measurements: Measurements, subject_S: Ints) -> Measurements:
    """Return the measurements of some subjects, who ascend."""
    m = measurements
    kept_S = np.flatnonzero(is_among(subject_S, m.subject_id_S))
    length_S = np.diff(m.offsets_S)[kept_S]
    index_N = gather_index(m.offsets_S[kept_S], length_S)
    return Measurements(
        subject_id_S=m.subject_id_S[kept_S],
        offsets_S=np.append(0, np.cumsum(length_S)),
        code_index_N=m.code_index_N[index_N],
        time_us_N=m.time_us_N[index_N],
        numeric_value_N=m.numeric_value_N[index_N],
    )


def _match(measurements: Measurements, asked: Asked) -> tuple[Bools, Ints]:
    """Return which measurements are asked for, and which one each row is; -1: it is none."""
    m, num_rows = measurements, len(measurements.time_us_N)
    keys = (
        np.concatenate([m.code_index_N, asked.code_L]),
        np.concatenate([m.time_us_N, asked.time_us_L]),
        np.concatenate([np.repeat(m.subject_id_S, np.diff(m.offsets_S)), asked.subject_id_L]),
    )
    # Stable, so that of equal ones the first is a measurement if any is.
    order_R = np.lexsort(keys)
    new_R = np.zeros(len(order_R), np.bool_)
    new_R[:1] = True
    for key_R in keys:
        new_R[1:] |= np.diff(key_R[order_R]) != 0
    group_R = np.empty_like(order_R)
    group_R[order_R] = np.cumsum(new_R) - 1
    first_G = order_R[new_R]
    asked_G = np.zeros(len(first_G), np.bool_)
    asked_G[group_R[num_rows:]] = True
    row_L = first_G[group_R[num_rows:]]
    return asked_G[group_R[:num_rows]], np.where(row_L < num_rows, row_L, -1)


def _nearest(
    measurements: Measurements, window_N: Ints, kept_N: Bools, asked: Asked
) -> tuple[Ints, Ints]:
    """Return the rows whose subject has a kept window, and the window that is nearest in time.

    It is that of the last measurement at or before the row, or of the first one after it.
    """
    kept = np.flatnonzero(kept_N)
    ends_N = np.append(0, np.cumsum(kept_N))
    offsets_S = ends_N[measurements.offsets_S]
    has_S = np.diff(offsets_S) > 0
    seen = Measurements(
        subject_id_S=measurements.subject_id_S[has_S],
        offsets_S=np.append(offsets_S[:-1][has_S], len(kept)),
        code_index_N=measurements.code_index_N[kept],
        time_us_N=measurements.time_us_N[kept],
        numeric_value_N=measurements.numeric_value_N[kept],
    )
    order_S = np.argsort(seen.subject_id_S, kind="stable")
    ascending_S = seen.subject_id_S[order_S]
    found_U = np.flatnonzero(is_among(ascending_S, asked.subject_id_L))
    own = asked.take(found_U)
    subject_U = order_S[np.searchsorted(ascending_S, own.subject_id_L)]
    first_U, end_U = seen.offsets_S[subject_U], seen.offsets_S[subject_U + 1]
    moments = Moments(subject_id_L=own.subject_id_L, time_us_L=own.time_us_L)
    next_U = first_U + num_until(seen, moments)[1]
    before_U, after_U = np.maximum(next_U - 1, first_U), np.minimum(next_U, end_U - 1)
    is_before_U = np.abs(own.time_us_L - seen.time_us_N[before_U]) <= np.abs(
        seen.time_us_N[after_U] - own.time_us_L
    )
    return found_U, window_N[kept][np.where(is_before_U, before_U, after_U)]
