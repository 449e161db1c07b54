"""The columns of an evaluation: uniform, leave-one-out, and each policy's own mask."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cvmae.arrays import Float32s
from cvmae.batches.columns import LEAVE_ONE_OUT, Column, uniform_column
from cvmae.batches.policies import epoch_weights, mask_weights
from cvmae.checkpoint import Loaded
from cvmae.evaluate.contestants import Contestant
from cvmae.evaluate.models import load
from cvmae.evaluate.one_policy import mask_in_effect
from cvmae.settings import MaskConfig
from cvmae.statistics.code_statistics import CodeStatistics
from cvmae.train.weights_file import table_weights

__all__ = ["OWN_MASK", "declare_columns", "leave_one_out_column"]

OWN_MASK = "own mask of "

logger = logging.getLogger("cvmae")


def declare_columns(
    contestants: Sequence[Contestant],
    statistics: CodeStatistics,
    *,
    ratio: float,
    limit: float | None,
) -> tuple[Column, ...]:
    """Return uniform first, leave-one-out, and a column for each mask that models were trained by.

    Policies that hide by the same weights share a column, and those of equal weights (`random`)
    have none: they meet their own mask under ``uniform``, by which all are compared. Of a policy
    whose runs have weights of their own, those of the least seed count. A mask whose weights cannot
    be known is left out, which is logged.

    Args:
        contestants: All of the compared models; best weights bring no column of their own.
        statistics: Of the reference; weights follow from them.
        ratio: Share that all masks hide, but for chances of independent draws.
        limit: Of leave-one-out, see `Column`; None: without that column.
    """
    masks: dict[MaskConfig, list[Contestant]] = {}
    for contestant in contestants:
        if contestant.which == "last":
            mask = _what_matters(load(contestant, "cpu"))
            masks.setdefault(mask, []).append(contestant)
    policies = [mask.policy for mask in masks]
    equal: list[str] = []
    own: list[Column] = []
    for mask, runs in masks.items():
        names = tuple(dict.fromkeys(run.name for run in runs))
        first = min(runs, key=lambda run: load(run, "cpu").config.seed)
        weight_C = _weights(first, statistics)
        if weight_C is None:
            continue
        if (weight_C == weight_C[0]).all() and not mask.draws_independently:
            equal += names
            continue
        unlike = f" ({', '.join(names)})" if policies.count(mask.policy) > 1 else ""
        own.append(
            Column(
                name=f"{OWN_MASK}{mask.policy}{unlike}",
                kind="own mask",
                meaning=_meaning(mask, first, ratio),
                ratio=ratio,
                weight_C=weight_C,
                draws_independently=mask.draws_independently,
                own_of=names,
            )
        )
    single = [] if limit is None else [leave_one_out_column(limit)]
    return (uniform_column(ratio, equal), *single, *own)


def leave_one_out_column(limit: float) -> Column:
    """Return the column that hides one value at a time."""
    return Column(
        name=LEAVE_ONE_OUT,
        kind=LEAVE_ONE_OUT,
        meaning="one value at a time, all others of its window visible; one target of each subject "
        "and code" + (f", {limit:.1%} of them, drawn by the seed" if limit < 1 else ""),
        limit=limit,
    )


def _what_matters(loaded: Loaded) -> MaskConfig:
    """Return the settings that weights follow from, all others at their defaults.

    A table stands there by a hash of its weights: where their file lies does not matter.
    """
    mask, default = mask_in_effect(loaded.config.mask), MaskConfig()
    try:
        table_C = table_weights(loaded.config, loaded.fitted.statistics.codes)
    except (OSError, ValueError):  # neither file nor copy is here: the path is all that is known
        table_C = None
    if table_C is not None:
        mask = replace(mask, weights_file=hashlib.sha256(table_C.tobytes()).hexdigest())
    others = ("ratio", "target", "anneal_epochs", "anneal_from")
    return replace(mask, **{name: getattr(default, name) for name in others})


def _weights(contestant: Contestant, statistics: CodeStatistics) -> Float32s | None:
    """Return the weights of a model's policy on the reference's statistics, None if not known."""
    loaded = load(contestant, "cpu")
    try:
        return _weights_of(loaded, statistics)
    except (OSError, ValueError) as error:
        logger.warning("%s has no column of its own mask: %s", contestant.name, error)
        return None


def _weights_of(loaded: Loaded, statistics: CodeStatistics) -> Float32s:
    config, mask = loaded.config, loaded.config.mask
    if mask.policy == "random":
        return np.ones(statistics.num_codes, np.float32)
    if mask.policy == "adaptive":  # as its next epoch would hide
        weights = epoch_weights(statistics, mask, seed=config.seed)
        weight_C = weights.of_epoch(config.train.epochs, loaded.progress.code_metrics)
        return np.ones(statistics.num_codes, np.float32) if weight_C is None else weight_C
    table_C = table_weights(config, statistics.codes)
    at_its_end = replace(mask, anneal_epochs=0)
    return mask_weights(statistics, at_its_end, seed=config.seed, table_C=table_C)


def _meaning(mask: MaskConfig, first: Contestant, ratio: float) -> str:
    share = "its own share" if mask.draws_independently else f"{ratio:.0%}"
    settings = [
        f"{name} {getattr(mask, name):g}"
        for name, plain in (("sharpness", 1), ("uniform_share", 0))
        if getattr(mask, name) != plain
    ]
    if mask.policy in ("shuffled_cv", "adaptive"):  # each run has weights of its own
        settings.append(f"those of the run with seed {load(first, 'cpu').config.seed}")
    added = f" ({'; '.join(settings)})" if settings else ""
    return f"{share} of each subject's values, drawn by the weights of {mask.policy}{added}"
