"""How fast this machine's processor takes a step or embeds: what a dry run's hours start from.

A figure from another machine is wrong by a factor; a few steps of the very model take seconds.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from statistics import NormalDist
from typing import TypeVar

import numpy as np
import torch

from cvmae.arrays import Ints
from cvmae.batches.batch import Batch, make_batch
from cvmae.batches.columns import Column
from cvmae.checkpoint import Loaded
from cvmae.config import Config
from cvmae.evaluate.evaluate import Comparison
from cvmae.evaluate.models import score_unit
from cvmae.infer.embed import ASKED, embed_moments
from cvmae.infer.hidden import restore_hidden
from cvmae.infer.histories import last_moments
from cvmae.infer.pooling import Pooling
from cvmae.meds.dataset import Source
from cvmae.meds.measurements import Measurements
from cvmae.meds.reading import read_unit
from cvmae.meds.units import Unit, plan_units
from cvmae.model.vomae import build_model
from cvmae.plan.one_run import Amount, CpuTime, cpu_time
from cvmae.train.engine import Engine
from cvmae.train.make_engine import make_engine

__all__ = [
    "embedding_seconds",
    "likely_lengths",
    "restoring_seconds",
    "scoring_seconds",
    "slowest_of",
    "step_seconds",
    "training_time",
]

MOST = 4096  # measurements of a step that is timed; of a larger one this part
MOST_MOMENTS, MOST_SCORED = 256, 64  # subjects that are embedded; scored, or restored
MOST_UNITS = 32  # that are looked into for these
ROUNDS, MOST_SECONDS, STEP = 24, 5.0, 8
SIGMA = 1.65  # of the logarithm of a patient's measurements, as in MIMIC-IV
CPU = torch.device("cpu")
Prepared = TypeVar("Prepared")

# Shape letters beside those of `cvmae.arrays`: Q quantiles.


def training_time(config: Config, amount: Amount, num_codes: int, epochs: int) -> CpuTime:
    """Return what so many epochs take on CPUs, by steps that are timed here and now."""
    steps = max(1, round(amount.num_sequences / config.train.batch_sequences))
    step = Amount(
        num_sequences=amount.num_sequences / steps,
        num_measurements=amount.num_measurements / steps,
    )
    step_s = step_seconds(config, num_codes, step)
    return cpu_time(config, amount, step_s=step_s, steps=steps, epochs=epochs)


def step_seconds(config: Config, num_codes: int, step: Amount) -> float:
    """Time a rank's part of a training step on a CPU, on random values; in seconds.

    Sequences are as long as patients have them; ranks wait for the slowest of them. What they tell
    each other is not in it.

    Args:
        config: Of the run.
        num_codes: Of the vocabulary.
        step: What all ranks take at a time.
    """
    base = Config()
    return _timed(
        replace(
            base,
            data=replace(base.data, sequence_length=config.data.sequence_length),
            model=config.model,
            mask=replace(base.mask, target=config.mask.target, ratio=config.mask.ratio),
            train=replace(config.train, strategy="ddp", compile="off", epochs=1),
            scaling=replace(base.scaling, num_workers=config.scaling.num_workers),
        ),
        num_codes,
        step,
    )


@lru_cache  # the trials of a sweep are mostly alike in this
def _timed(config: Config, num_codes: int, step: Amount) -> float:
    train, num_ranks = config.train, max(config.scaling.num_workers, 1)
    parts = num_ranks * train.accumulation_steps
    own = Amount(
        num_sequences=step.num_sequences / parts, num_measurements=step.num_measurements / parts
    )
    lengths_Q = likely_lengths(own.mean_length, config.data.sequence_length)
    num_sequences = max(1, round(min(own.num_sequences, MOST / own.mean_length)))
    model = build_model(config.model, num_codes, config.seed, config.mask.target)
    with _threads(train.num_threads):
        engine = make_engine(model, config, device=CPU, total_steps=ROUNDS + 1)
        batches = (
            _random_batch(num_sequences, lengths_Q, num_codes, config.mask.ratio, seed)
            for seed in range(ROUNDS + 1)
        )
        seconds = _rounds(engine, batches)
    share = own.num_sequences / num_sequences
    return slowest_of(num_ranks, seconds) * share * train.accumulation_steps


def likely_lengths(mean: float, longest: int) -> Ints:
    """Return lengths of sequences of this mean, spread as patients are, shortest first.

    Quantiles of a lognormal distribution, cut off at the longest window: how many sequences are
    alike in length decides how many products attention takes.
    """
    spread_Q = np.exp(SIGMA * np.array([NormalDist().inv_cdf((q + 0.5) / 512) for q in range(512)]))
    low, high = 0.0, 1000.0 * longest
    for _ in range(50):  # a larger median makes a larger mean
        median = (low + high) / 2
        is_short = np.clip(median * spread_Q, 2, longest).mean() < mean
        low, high = (median, high) if is_short else (low, median)
    return np.clip(np.rint(high * spread_Q), 2, longest).astype(np.int64)


def slowest_of(num_ranks: int, seconds: Sequence[float]) -> float:
    """Return the expected longest of so many draws from these times: ranks wait for the slowest."""
    below = np.arange(len(seconds) + 1) / len(seconds)
    return float(np.sort(seconds) @ np.diff(below**num_ranks))


def embedding_seconds(
    model: Loaded, source: Source, units: Sequence[Unit], pooling: Pooling
) -> tuple[float, float]:
    """Time on a CPU what reading a unit takes, and embedding one of its subjects; in seconds."""
    reading, found = _read_some(model, source, units)
    moments = last_moments(found)
    with _threads(model.config.train.num_threads):
        each = _mean_seconds(
            lambda number: moments.take(np.arange(number)),
            lambda some: embed_moments(model, found, some, [pooling]),
            min(moments.num_moments, MOST_MOMENTS),
        )
    return reading, each


def restoring_seconds(
    model: Loaded, source: Source, units: Sequence[Unit], config: Config
) -> tuple[float, float]:
    """Time on a CPU what reading a unit takes, and restoring hidden values of one of its subjects.

    See `restore_hidden` for what `config` says; in seconds.
    """
    reading, found = _read_some(model, source, units)
    with _threads(model.config.train.num_threads):
        each = _mean_seconds(
            lambda number: _first(found, number),
            lambda few: restore_hidden(model, few, config),
            min(len(found.subject_id_S), MOST_SCORED),
        )
    return reading, each


def scoring_seconds(compared: Comparison, config: Config, columns: Sequence[Column]) -> float:
    """Time on a CPU what all models take for a subject under these columns; in seconds.

    Returns:
        The mean of a few subjects; 0 where the looked at units hold none.
    """
    split, asked, source = config.evaluate.split, config.evaluate, compared.dataset.source
    found_U = (
        (unit, read_unit(source, unit, compared.statistics.lookup, split)[0].subject_id_S)
        for unit in _spread(plan_units(compared.dataset, config.data.unit_rows))
    )
    unit, subject_S = next((both for both in found_U if len(both[1])), (None, ()))
    if unit is None:
        return 0.0
    score = partial(
        score_unit,
        unit,
        split=split,
        seed=asked.seed,
        contestants=compared.contestants,
        statistics=compared.statistics,
        sequence_length=asked.sequence_length,
        device="cpu",
    )
    begin = time.perf_counter()
    score(source=source, columns=())  # reads, and does nothing else
    return _mean_seconds(
        lambda number: replace(source, members={split: np.sort(subject_S[:number])}),
        lambda few: score(source=few, columns=columns),
        min(len(subject_S), MOST_SCORED),
        beside=time.perf_counter() - begin,
    )


def _read_some(model: Loaded, source: Source, units: Sequence[Unit]) -> tuple[float, Measurements]:
    """Read units until one holds a measurement; return the seconds that it took, and these."""
    lookup = model.fitted.statistics.lookup
    found, _ = read_unit(source, units[0], lookup, ASKED)  # what is compiled at first is compiled
    reading = 0.0
    for unit in _spread(units):
        begin = time.perf_counter()
        found, _ = read_unit(source, unit, lookup, ASKED)
        reading = time.perf_counter() - begin
        if len(found.subject_id_S):
            break
    return reading, found


def _first(measurements: Measurements, number: int) -> Measurements:
    """Return those of the first so many subjects."""
    end = measurements.offsets_S[number]
    return Measurements(
        subject_id_S=measurements.subject_id_S[:number],
        offsets_S=measurements.offsets_S[: number + 1],
        code_index_N=measurements.code_index_N[:end],
        time_us_N=measurements.time_us_N[:end],
        numeric_value_N=measurements.numeric_value_N[:end],
    )


def _spread(units: Sequence[Unit]) -> Sequence[Unit]:
    """Return some of many units, from the middle on."""
    middle = len(units) // 2
    return [*units[middle:], *units[:middle]][:: max(1, len(units) // MOST_UNITS)]


def _mean_seconds(
    prepare: Callable[[int], Prepared],
    work: Callable[[Prepared], object],
    number: int,
    beside: float = 0.0,
) -> float:
    """Return what one of so many takes: of one alone, of eight and so on while time allows.

    Args:
        prepare: Returns what some of them are worked off by.
        work: What is timed.
        number: How many there are.
        beside: What is in the time and does not count.
    """
    some = 1
    while number:
        prepared = prepare(some)
        begin = time.perf_counter()
        work(prepared)
        taken = time.perf_counter() - begin
        if some >= number or taken > MOST_SECONDS / STEP:
            return max(taken - beside, 0.0) / some
        some = min(some * STEP, number)
    return 0.0


def _rounds(engine: Engine, batches: Iterable[Batch]) -> list[float]:
    taken: list[float] = []
    for number, batch in enumerate(batches):
        begin = time.perf_counter()
        engine.step([batch], number)
        taken.append(time.perf_counter() - begin)
        if sum(taken) > MOST_SECONDS:
            break
    return taken[1:] or taken  # the first one meets everything for the first time


def _random_batch(
    num_sequences: int, lengths_Q: Ints, num_codes: int, ratio: float, seed: int
) -> Batch:
    rng = np.random.default_rng(seed)
    length_B = rng.choice(lengths_Q, num_sequences)
    total = int(length_B.sum())
    hidden = [rng.permutation(n) < max(1, round(ratio * n)) for n in length_B]
    return make_batch(
        lengths_B=length_B,
        code_index_N=rng.integers(0, num_codes, total),
        minutes_N=np.concatenate([np.arange(n) for n in length_B]),
        value_N=rng.standard_normal(total, np.float32),
        hidden_N=np.concatenate(hidden),
    )


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
