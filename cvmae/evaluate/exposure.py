"""How often training has hidden each code's values: what a model had the chance to learn from."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow.parquet as pq

from cvmae.arrays import Floats
from cvmae.batches.code_metrics import ratio
from cvmae.checkpoint import Loaded
from cvmae.evaluate.contestants import Contestant
from cvmae.evaluate.models import load
from cvmae.storage.folders import is_file, join, local_copy
from cvmae.train.epoch_report import CODE_METRICS

__all__ = ["shares_hidden"]

logger = logging.getLogger("cvmae")


def shares_hidden(contestants: Sequence[Contestant], codes: Sequence[str]) -> Mapping[str, Floats]:
    """Return the realised share hidden of each code in training, by model; the mean of its runs.

    It is the mean over the epochs that the weights have seen, from the run's table of codes, or
    that of the last epoch, from the checkpoint, where there is no table. NaN where neither tells.
    """
    found: dict[str, list[Floats]] = {}
    for contestant in contestants:
        if contestant.which == "last":
            share_C = _of_run(contestant, codes)
            found.setdefault(contestant.name, []).append(share_C)
    return {name: _mean(np.stack(shares)) for name, shares in found.items()}


def _mean(share_EC: Floats) -> Floats:
    """Return the mean of what is known of each code."""
    known_EC = np.isfinite(share_EC)
    return ratio(np.where(known_EC, share_EC, 0.0).sum(axis=0), known_EC.sum(axis=0))


def _of_run(contestant: Contestant, codes: Sequence[str]) -> Floats:
    loaded = load(contestant, "cpu")
    path = contestant.path.rstrip("/")
    run = path.rpartition("/checkpoints/")[0] or path
    try:
        if is_file(join(run, CODE_METRICS)):
            return _of_table(join(run, CODE_METRICS), loaded, codes)
    except (OSError, ValueError, KeyError) as error:
        logger.warning("shares hidden of %s are those of its last epoch (%s)", path, error)
    metrics = loaded.progress.code_metrics
    return np.full(len(codes), np.nan) if metrics is None else metrics.mask_rate_C


def _of_table(place: str, loaded: Loaded, codes: Sequence[str]) -> Floats:
    with local_copy(place) as file:
        columns = pq.read_table(file, columns=["epoch", "code", "mask_rate"]).to_pydict()
    place_of = {code: index for index, code in enumerate(codes)}
    share_EC = np.full((max(columns["epoch"], default=0) + 1, len(codes)), np.nan)
    for epoch, code, share in zip(*columns.values(), strict=True):
        if epoch <= loaded.progress.epoch and code in place_of:
            share_EC[epoch, place_of[code]] = np.nan if share is None else share
    return _mean(share_EC)
