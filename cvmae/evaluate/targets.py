"""Which single values an experiment restores: the last of a code in a subject, with a history.

A target is the last measurement of its code in its subject, without a twin, so that nothing later
of the code can give it away; its history are the earlier ones of the code in its window. All else
of the window stays visible. Where there are more targets than an experiment takes, those of
smallest draw are taken; a draw is a hash of seed, subject and position, so that the choice depends
on neither units nor models.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cvmae.arrays import Bools, Float32s, Ints
from cvmae.batches.columns import has_twin
from cvmae.batches.keys import UInts, counter_hash, stream_keys
from cvmae.batches.sequences import cut_windows, gather_index
from cvmae.meds.measurements import Measurements

__all__ = ["Targets", "Variant", "Window", "find_targets", "smallest", "window_of"]

# Shape letters beside those of `cvmae.arrays`: T targets, L measurements of one target's window,
# P earlier ones of its code, G runs of one code in one window.


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Targets of a unit, in file order of their windows; starts and ends are into its columns."""

    index_T: Ints  # of the target itself
    code_T: Ints
    num_prior_T: Ints
    start_T: Ints  # of its window
    end_T: Ints
    first_position_T: Ints  # of the window's first measurement among the subject's own
    subject_id_T: Ints
    draw_T: UInts

    def take(self, chosen: Bools) -> "Targets":
        """Return some of them."""
        return Targets(**{name: value[chosen] for name, value in vars(self).items()})


class Window(NamedTuple):
    """One target and what surrounds it."""

    subject_id: int
    first_position: int
    place: int  # of the target
    priors_P: Ints  # places of the earlier measurements of its code
    code_L: Ints
    value_L: Float32s  # in the codes' units, not clipped


class Variant(NamedTuple):
    """What a model is shown of a window; the target itself is always asked for, never shown."""

    value_L: Float32s
    kept_L: Bools  # False: taken out, as if it had never been measured


def find_targets(
    measurements: Measurements, sequence_length: int, *, min_priors: int, seed: int
) -> Targets:
    """Find the targets of a unit with a history of `min_priors` or more.

    At least one measurement of another code stands in the window, so that something is left when
    the history is taken away.
    """
    windows = cut_windows(measurements, sequence_length)
    index_N = gather_index(windows.start_W, windows.length_W)
    window_N = np.repeat(np.arange(windows.num_sequences), windows.length_W)
    code_N = measurements.code_index_N[index_N].astype(np.int64)
    num_codes = int(code_N.max(initial=0)) + 1
    # Runs of one code in one window, in the order of windows; the last of a run is the latest.
    order_N = np.argsort(window_N * num_codes + code_N, kind="stable")
    key_N = (window_N * num_codes + code_N)[order_N]
    end_G = np.flatnonzero(np.r_[key_N[1:] != key_N[:-1], np.ones(min(len(key_N), 1), bool)])
    count_G = np.diff(end_G, prepend=-1)
    window_G, code_G = np.divmod(key_N[end_G], num_codes)
    # By place: subjects ascend within a shard only, and a unit may hold several.
    start_G = windows.start_W[window_G]
    subject_G = np.searchsorted(measurements.offsets_S, start_G, side="right") - 1
    own_G = subject_G * num_codes + code_G
    latest = len(own_G) - 1 - np.unique(own_G[::-1], return_index=True)[1]
    last_G = np.zeros(len(own_G), bool)
    last_G[latest] = True
    index_G = index_N[order_N[end_G]]
    chosen_G = last_G & (count_G > min_priors) & ~has_twin(measurements)[index_G]
    chosen_G &= windows.length_W[window_G] > count_G
    window_T, index_T = window_G[chosen_G], index_G[chosen_G]
    start_T, subject_id_T = windows.start_W[window_T], windows.subject_id_W[window_T]
    first_position_T = windows.first_position_W[window_T]
    keys_T = stream_keys(seed, 0, subject_id_T, stream="choice")
    return Targets(
        index_T=index_T,
        code_T=code_G[chosen_G],
        num_prior_T=count_G[chosen_G] - 1,
        start_T=start_T,
        end_T=start_T + windows.length_W[window_T],
        first_position_T=first_position_T,
        subject_id_T=subject_id_T,
        draw_T=counter_hash(keys_T, first_position_T + index_T - start_T),
    )


def window_of(measurements: Measurements, targets: Targets, number: int) -> Window:
    """Return one target's window."""
    start, end = int(targets.start_T[number]), int(targets.end_T[number])
    code_L = measurements.code_index_N[start:end].astype(np.int64)
    place = int(targets.index_T[number]) - start
    return Window(
        subject_id=int(targets.subject_id_T[number]),
        first_position=int(targets.first_position_T[number]),
        place=place,
        priors_P=np.flatnonzero(code_L[:place] == code_L[place]),
        code_L=code_L,
        value_L=measurements.numeric_value_N[start:end],
    )


def smallest(draw_T: UInts, limit: int) -> UInts:
    """Return the `limit` smallest draws, all where there are fewer."""
    return draw_T if len(draw_T) <= limit else np.partition(draw_T, limit - 1)[:limit]
