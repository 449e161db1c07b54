"""How fast this machine's processor takes a step or embeds: what a dry run's hours start from.

A figure from another machine is wrong by a factor; a few steps of the very model take seconds.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from statistics import NormalDist

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
from cvmae.meds.reading import read_unit, read_unit_and_subjects
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
ROUNDS, MOST_SECONDS = 24, 5.0
SIGMA = 1.65  # of the logarithm of a patient's measurements, as in MIMIC-IV
CPU = torch.device("cpu")

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
    model: Loaded, source: Source, unit: Unit, pooling: Pooling
) -> tuple[float, float]:
    """Time on a CPU what reading a unit takes, and embedding one of its subjects; in seconds."""
    lookup = model.fitted.statistics.lookup
    read_unit_and_subjects(source, unit, lookup, ASKED)  # what is compiled at first is compiled
    begin = time.perf_counter()
    measurements, _, _ = read_unit_and_subjects(source, unit, lookup, ASKED)
    reading = time.perf_counter() - begin
    moments = last_moments(measurements)
    some = moments.take(np.arange(min(moments.num_moments, MOST_MOMENTS)))
    with _threads(model.config.train.num_threads):
        embed_moments(model, measurements, some.take(np.arange(1)), [pooling])
        begin = time.perf_counter()
        embed_moments(model, measurements, some, [pooling])
        taken = time.perf_counter() - begin
    return reading, taken / max(some.num_moments, 1)


def restoring_seconds(
    model: Loaded, source: Source, unit: Unit, config: Config
) -> tuple[float, float]:
    """Time on a CPU what reading a unit takes, and restoring hidden values of one of its subjects.

    See `restore_hidden` for what `config` says; in seconds.
    """
    lookup = model.fitted.statistics.lookup
    read_unit(source, unit, lookup, ASKED)  # what is compiled at first is compiled
    begin = time.perf_counter()
    found, _ = read_unit(source, unit, lookup, ASKED)
    reading = time.perf_counter() - begin
    some_S = found.subject_id_S[:MOST_SCORED]
    few, _ = read_unit(replace(source, members={ASKED: np.sort(some_S)}), unit, lookup, ASKED)
    with _threads(model.config.train.num_threads):
        restore_hidden(model, few, config)
        begin = time.perf_counter()
        restore_hidden(model, few, config)
        taken = time.perf_counter() - begin
    return reading, taken / max(len(some_S), 1)


def scoring_seconds(compared: Comparison, config: Config, columns: Sequence[Column]) -> float:
    """Time on a CPU what all models take for a subject under these columns; in seconds.

    Returns:
        The mean of a few subjects; 0 where the looked at units hold none.
    """
    split, asked = config.evaluate.split, config.evaluate
    units = plan_units(compared.dataset, config.data.unit_rows)
    source = compared.dataset.source
    for unit in units[:: max(1, len(units) // MOST_UNITS)]:
        found, _ = read_unit(source, unit, compared.statistics.lookup, split)
        if not len(found.subject_id_S):
            continue
        some_S = found.subject_id_S[:MOST_SCORED]
        own = partial(
            score_unit,
            unit,
            split=split,
            seed=asked.seed,
            contestants=compared.contestants,
            statistics=compared.statistics,
            sequence_length=asked.sequence_length,
            device="cpu",
        )
        few = replace(source, members={split: np.sort(some_S)})
        own(source=replace(source, members={split: some_S[:1]}), columns=columns)
        begin = time.perf_counter()
        own(source=few, columns=())  # reads, and does nothing else
        read = time.perf_counter()
        own(source=few, columns=columns)
        return max(time.perf_counter() - read - (read - begin), 0.0) / len(some_S)
    return 0.0


def _rounds(engine: Engine, batches: Iterable[Batch]) -> list[float]:
    taken: list[float] = []
    for number, batch in enumerate(batches):
        begin = time.perf_counter()
        engine.step([batch], number)
        taken.append(time.perf_counter() - begin)
        if sum(taken) > MOST_SECONDS and number:
            break
    return taken[1:]  # the first one meets everything for the first time


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
