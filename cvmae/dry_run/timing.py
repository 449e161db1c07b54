"""How fast this machine's processor takes a step or embeds: what a dry run's hours start from.

A figure from another machine is wrong by a factor; a few steps of the very model take seconds.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch

from cvmae.batches.batch import Batch, make_batch
from cvmae.checkpoint import Loaded
from cvmae.config import Config
from cvmae.infer.embed import ASKED, embed_moments
from cvmae.infer.histories import last_moments
from cvmae.infer.pooling import Pooling
from cvmae.meds.dataset import Source
from cvmae.meds.reading import read_unit_and_subjects
from cvmae.meds.units import Unit
from cvmae.model.vomae import build_model
from cvmae.plan.one_run import Amount, CpuTime, cpu_time
from cvmae.train.engine import Engine
from cvmae.train.make_engine import make_engine

__all__ = ["embedding_seconds", "step_seconds", "training_time"]

MOST = 4096  # measurements of a step that is timed; of a larger one this part
MOST_MOMENTS = 256  # of an embedding that is timed
ROUNDS, MOST_SECONDS = 9, 5.0
CPU = torch.device("cpu")


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

    All sequences count as of the mean length. What ranks tell each other is not in it.

    Args:
        config: Of the run.
        num_codes: Of the vocabulary.
        step: What all ranks take at a time.
    """
    base = Config()
    return _timed(
        replace(
            base,
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
    train = config.train
    parts = max(config.scaling.num_workers, 1) * train.accumulation_steps
    own = Amount(
        num_sequences=step.num_sequences / parts, num_measurements=step.num_measurements / parts
    )
    num_sequences = max(1, round(min(own.num_sequences, MOST / own.mean_length)))
    model = build_model(config.model, num_codes, config.seed, config.mask.target)
    with _threads(train.num_threads):
        engine = make_engine(model, config, device=CPU, total_steps=ROUNDS + 1)
        length = max(2, round(own.mean_length))
        batch = _random_batch(num_sequences, length, num_codes, config.mask.ratio)
        seconds = statistics.median(_rounds(engine, batch))
    share = own.num_measurements / batch.num_measurements
    return seconds * share * train.accumulation_steps


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


def _rounds(engine: Engine, batch: Batch) -> Sequence[float]:
    engine.step([batch], 0)  # the first one meets everything for the first time
    taken: list[float] = []
    while len(taken) < ROUNDS and sum(taken) < MOST_SECONDS:
        begin = time.perf_counter()
        engine.step([batch], len(taken) + 1)
        taken.append(time.perf_counter() - begin)
    return taken


def _random_batch(num_sequences: int, length: int, num_codes: int, ratio: float) -> Batch:
    rng = np.random.default_rng(0)
    total = num_sequences * length
    hidden_BN = np.arange(length) < max(1, round(ratio * length))
    return make_batch(
        lengths_B=np.full(num_sequences, length),
        code_index_N=rng.integers(0, num_codes, total),
        minutes_N=np.tile(np.arange(length), num_sequences),
        value_N=rng.standard_normal(total, np.float32),
        hidden_N=np.concatenate([rng.permutation(hidden_BN) for _ in range(num_sequences)]),
    )


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
