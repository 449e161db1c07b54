"""Code statistics: what each pass costs, how exact variances are, and merging in any order."""

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.clock import interleave, median_ratio, progress
from benchmarks.epochs import TRAIN, Prepared, prepare
from benchmarks.rows import Row
from cvmae.arrays import Float32s
from cvmae.meds.measurements import Measurements
from cvmae.meds.reading import read_unit
from cvmae.statistics.all_units import Vocabulary, run_first_pass, run_second_pass
from cvmae.statistics.moments import Moments
from cvmae.statistics.passes import FirstPass, SecondPass, first_pass, second_pass
from cvmae.statistics.vocabulary import CandidateLookup, open_candidates

__all__ = ["exact_variance", "merge_differences", "statistics_rows"]

SAMPLED_CODES = 4
FLOOR = "the read with codes as dictionaries"
MOST = 1.4  # over the floor, which leaves MOST - 1 for the arithmetic
FLOATS = ("mean", "squares", "within_squares")


def statistics_rows(folder: Path, hospital: str, num_rows: int, rounds: int) -> Iterator[Row]:
    """Measure the passes over their floor, and check what they promise."""
    prepared = prepare(hospital)
    yield from _pass_rows(prepared, rounds)
    yield from _arithmetic_rows(prepared, rounds)
    progress("statistics: exactness")
    measurements, firsts, seconds = _parts(prepared)
    error, cv = _variance_error(prepared, measurements, _merged(firsts), _merged(seconds))
    yield Row(
        suite="data",
        name="statistics: relative error of a variance",
        value=error,
        goal=1e-12,
        note=f"against rational arithmetic, codes of CV {cv:.2g} and more, clipped and not",
    )
    integers, ulps = merge_differences(firsts)
    integers_2, ulps_2 = merge_differences(seconds)
    yield Row(
        suite="data",
        name="statistics: integers changed by the order of merging",
        value=integers + integers_2,
        goal=0,
        note=f"{len(firsts)} units merged in 6 orders, counts, extremes and histograms compared",
    )
    yield Row(
        suite="data",
        name="statistics: largest change of a float by the order of merging",
        value=max(ulps, ulps_2),
        unit="last units",
        goal=1,
    )


def _pass_rows(prepared: Prepared, rounds: int) -> Iterator[Row]:
    config, units = prepared.config, prepared.plan.units
    fitted = prepared.fitted.statistics
    candidates = open_candidates(config.data)
    source, scaling = prepared.data.source, config.scaling
    _, subjects = run_first_pass(source, units, candidates, scaling)
    vocabulary = Vocabulary(members=fitted.members, low_C=fitted.clip_low, high_C=fitted.clip_high)
    seconds = interleave(
        {
            "floor": prepared.read_floor_everything,
            "pass 1": lambda: run_first_pass(source, units, candidates, scaling),
            "pass 2": lambda: run_second_pass(
                source, units, subjects, vocabulary, config.data, scaling
            ),
        },
        rounds,
        "statistics",
    )
    for name in ("pass 1", "pass 2"):
        yield Row(
            suite="data",
            name=f"statistics: {name} with its reading, over {FLOOR}, CPU",
            value=median_ratio(seconds[name], seconds["floor"]),
            unit="x",
            goal=MOST,
        )
        took = statistics.median(seconds[name]) / prepared.num_rows * 1e9
        yield Row(suite="data", name=f"statistics: {name}, CPU a row", value=took, unit="ns")


def _arithmetic_rows(prepared: Prepared, rounds: int) -> Iterator[Row]:
    """Measure what the passes do with measurements that are read already, on train."""
    fitted = prepared.fitted.statistics
    read = [
        read_unit(prepared.data.source, unit, fitted.lookup, TRAIN)
        for unit, number in zip(
            prepared.plan.units, prepared.fitted.unit_index.num_sequences[TRAIN], strict=True
        )
        if number
    ]
    low, high = fitted.clip_low, fitted.clip_high
    seconds = interleave(
        {
            "floor": prepared.read_floor,
            "pass 1": lambda: [first_pass(m, rows, fitted.codes) for m, rows in read],
            "pass 2": lambda: [second_pass(m, low, high) for m, _ in read],
        },
        rounds,
        "statistics, arithmetic alone",
    )
    for name in ("pass 1", "pass 2"):
        yield Row(
            suite="data",
            name=f"statistics: {name}, arithmetic alone, over {FLOOR}, CPU",
            value=median_ratio(seconds[name], seconds["floor"]),
            unit="x",
            goal=round(MOST - 1, 2),
        )


def _parts(
    prepared: Prepared,
) -> tuple[list[Measurements], list[FirstPass], list[SecondPass]]:
    """Return the measurements of every unit of train, and what each pass finds in them."""
    reader = prepared.plan.train_reader
    fitted = reader.statistics
    candidates = open_candidates(prepared.config.data)
    measured, firsts, seconds = [], [], []
    num_sequences_U = prepared.fitted.unit_index.num_sequences[TRAIN]
    for unit, num_sequences in zip(prepared.plan.units, num_sequences_U, strict=True):
        if num_sequences:
            lookup = CandidateLookup(candidates)
            measurements, rows = read_unit(prepared.data.source, unit, lookup, TRAIN)
            firsts.append(first_pass(measurements, rows, lookup.names))
            measurements, _ = read_unit(prepared.data.source, unit, fitted.lookup, TRAIN)
            seconds.append(second_pass(measurements, fitted.clip_low, fitted.clip_high))
            measured.append(measurements)
    return measured, firsts, seconds


def _variance_error(
    prepared: Prepared, measured: Sequence[Measurements], first: FirstPass, second: SecondPass
) -> tuple[float, float]:
    """Return the largest relative error of a variance, and the smallest CV among the codes."""
    fitted = prepared.fitted.statistics
    # A small CV is what cancels digits.
    sampled = np.argsort(fitted.cv)[:SAMPLED_CODES]
    errors = []
    for code in sampled:
        value_N = np.concatenate([m.numeric_value_N[m.code_index_N == code] for m in measured])
        place = first.names.index(fitted.codes[code])
        errors.append(_relative_error(first.moments, place, value_N))
        low, high = np.float32(fitted.clip_low[code]), np.float32(fitted.clip_high[code])
        errors.append(_relative_error(second.moments, int(code), np.clip(value_N, low, high)))
    return max(errors), float(fitted.cv[sampled].min())


def _relative_error(moments: Moments, place: int, value_N: Float32s) -> float:
    exact = exact_variance(value_N)
    found = Fraction(float(moments.squares[place])) / int(moments.num_values[place])
    return float(abs(found - exact) / exact)


def exact_variance(value_N: Float32s) -> Fraction:
    """Return the variance (ddof 0) of float32 values without any rounding.

    Example:
        >>> exact_variance(np.array([1.5, 2.5, 3.5], np.float32))
        Fraction(2, 3)
    """
    # Every value is an integer times the same power of two.
    mantissa_N, exponent_N = np.frexp(value_N.astype(np.float64))
    integers_N = (mantissa_N * 2.0**24).astype(np.int64).tolist()
    lowest = int(exponent_N.min())
    shifts_N = (exponent_N - lowest).tolist()
    scaled = [value << shift for value, shift in zip(integers_N, shifts_N, strict=True)]
    count, total = len(scaled), sum(scaled)
    squares = sum(value * value for value in scaled)
    scale = Fraction(2) ** (2 * (lowest - 24))
    return Fraction(count * squares - total * total, count * count) * scale


def merge_differences(parts: Sequence[FirstPass] | Sequence[SecondPass]) -> tuple[int, float]:
    """Merge parts in several orders; return how many integers differ, and the most last units.

    Floats are counts of the spacing at the value that merging in order of units gives.
    """
    random = np.random.default_rng(0)
    reference = _merged(parts)
    others = [_merged(parts[::-1]), _tree(parts)]
    others += [_merged([parts[i] for i in random.permutation(len(parts))]) for _ in range(4)]
    integers = sum(_changed_integers(reference, other) for other in others)
    return integers, max(_ulps(reference.moments, other.moments) for other in others)


def _merged(parts: Sequence[Any]) -> Any:
    return reduce(lambda a, b: a.merge(b), parts)


def _tree(parts: Sequence[Any]) -> Any:
    """Merge neighbours, then neighbours of those."""
    while len(parts) > 1:
        parts = [_merged(parts[place : place + 2]) for place in range(0, len(parts), 2)]
    return parts[0]


def _changed_integers(a: Any, b: Any) -> int:
    one, other = _integers(a), _integers(b)
    return sum(
        max(len(x), len(y)) if x.shape != y.shape else int(np.count_nonzero(x != y))
        for x, y in zip(one, other, strict=True)
    )


def _integers(part: Any) -> list[npt.NDArray[Any]]:
    """Return all of a pass that must not change: counts, extremes, histogram."""
    arrays = [part.moments.num_values, part.moments.num_subjects]
    if isinstance(part, FirstPass):
        arrays += [part.minimum, part.maximum, part.histogram.key, part.histogram.count]
        arrays += [np.array(dataclasses.astuple(part.rows)), np.array(part.names)]
    else:
        arrays.append(np.array([part.num_duplicates]))
    return arrays


def _ulps(a: Moments, b: Moments) -> float:
    # As they are written down; beneath, they are kept in extended precision.
    pairs = ((getattr(part, name).astype(np.float64) for part in (a, b)) for name in FLOATS)
    return max(
        float(np.max(np.abs(x - y) / np.spacing(np.maximum(np.abs(x), np.finfo(float).tiny))))
        for x, y in pairs
    )
