"""Whether a run may be resumed: with the data, statistics and settings that it was begun with."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cvmae.checkpoint import (
    CONFIG,
    MODEL,
    STATISTICS,
    Progress,
    checkpoint_folder,
    open_checkpoint,
    read_progress,
)
from cvmae.config import Config, flatten, read_config
from cvmae.model.kind import misshapen
from cvmae.runtime.start_ray import trains_on_gpu
from cvmae.runtime.tables import counted
from cvmae.statistics.code_statistics import CodeStatistics
from cvmae.statistics.fitted import FittedData

__all__ = ["check_same_run", "how_to_train_on", "with_precision"]

# Settings that may differ when a run is resumed: they change neither data, model nor updates.
# Files count by what they say, which is compared elsewhere.
FREE_ON_RESUME = re.compile(
    r"output_dir|resume|resume_allow|data\.(root|statistics|codes_file)|evaluate\.(?!seed$).*"
    r"|mask\.weights_file|finetune\.(checkpoint|labels)"
    r"|train\.(num_threads|strategy|activation_checkpointing|compile)"
    r"|(scaling|checkpoint|tracking|sweep|deepspeed)\..*"
)


def with_precision(config: Config, *, on_gpu: bool) -> Config:
    """Return settings that name the arithmetic for which `train.precision` auto stands.

    A checkpoint notes them: auto would not tell that a run is resumed on another device.
    """
    if config.train.precision != "auto":
        return config
    return replace(config, train=replace(config.train, precision="bf16" if on_gpu else "fp32"))


def check_same_run(config: Config, fitted: FittedData) -> Progress:
    """Refuse to resume with settings or data that would make it another run; return how far it is.

    `resume_allow` names what may differ: `data`, `statistics`, or a setting. A model that the
    weights do not fit is never let through.

    Raises:
        FileNotFoundError: There is no whole checkpoint.
        ValueError: Something differs that changes data, model or updates; the message lists it.
    """
    with open_checkpoint(config.output_dir) as folder:
        own, saved = FittedData.read(folder / STATISTICS), flatten(read_config(folder / CONFIG))
        misfit = misshapen(folder / MODEL, config, fitted.statistics.num_codes)
        progress = read_progress(folder)
    on_gpu = trains_on_gpu(config.scaling)
    given, allow = flatten(with_precision(config, on_gpu=on_gpu)), config.resume_allow
    if unknown := [name for name in allow if name not in {"data", "statistics", *given}]:
        raise ValueError(
            f"resume_allow={unknown[0]!r} is no setting: give data, statistics or names like "
            "mask.ratio"
        )
    if misfit:
        raise ValueError(
            f"cannot resume {config.output_dir}: {misfit}, and no resume_allow makes it fit; "
            "start a new run with --base CONFIG --output_dir NEW"
        )
    changes = {"data": _changes(own.fingerprint, fitted.fingerprint)}
    changes["statistics"] = _statistics_changes(own.statistics, fitted.statistics)
    free = ["train.epochs"] if _may_be_longer(config) else []
    for name in given:
        if not FREE_ON_RESUME.fullmatch(name) and name not in free and saved[name] != given[name]:
            changes[name] = f"{saved[name]!r} -> {given[name]!r}"
    refused = {name: text for name, text in changes.items() if text and name not in allow}
    if refused:
        raise ValueError(
            f"cannot resume {config.output_dir} with other data, statistics or settings ("
            f"{'; '.join(f'{name}: {text}' for name, text in refused.items())}): give what it was "
            f"trained with, say --resume_allow {' '.join(refused)} if the change is meant, or "
            "start a new run with --base CONFIG --output_dir NEW"
        )
    return progress


def how_to_train_on(config: Config, progress: Progress) -> str:
    """Say of a finished run what it has come to, and what to do for more."""
    folder, done = config.output_dir, progress.epoch
    more = (
        f"--resume {folder} --train.epochs N goes on, N above {done}"
        if _may_be_longer(config)
        else f"more of them take a new run, for whose end the learning rate is planned: --base "
        f"{folder}/config.yaml --train.epochs N --output_dir NEW; or, from where this one ended, "
        f"--resume {folder} --train.epochs N --resume_allow train.epochs"
    )
    return (
        f"finished, after {counted(done, 'epoch')}; its last checkpoint is "
        f"{checkpoint_folder(folder, progress)}; {more}"
    )


def _may_be_longer(config: Config) -> bool:
    # With these two the learning rate of a step does not depend on how many are to come.
    return config.optim.schedule == "constant" and config.optim.warmup_steps == 0


def _changes(own: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    keys = [key for key in {**own, **given} if own.get(key) != given.get(key)]
    return ", ".join(f"{key} {own.get(key)!r} -> {given.get(key)!r}" for key in keys)


def _statistics_changes(own: CodeStatistics, given: CodeStatistics) -> str:
    """Say how statistics differ, by codes where the vocabulary does."""
    if own.codes == given.codes:
        return ", ".join(own.differences(given))
    gone, new = sorted({*own.codes} - {*given.codes}), sorted({*given.codes} - {*own.codes})
    found = [
        f"{name} {', '.join(some[:5])}" for name, some in (("without", gone), ("with", new)) if some
    ]
    return (
        f"vocabulary of {own.num_codes} codes -> {given.num_codes}, "
        f"{' and '.join(found) or 'in another order'}"
    )
