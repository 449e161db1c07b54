"""The trials of a sweep: the cells of its grid, how far each has come, and how one is run.

A trial's name and folder follow from its cell of the grid alone. So an interrupted sweep
resumes by looking at the folders: finished trials are skipped, begun ones go on from their
checkpoint, and no state of Ray Tune has to survive.
"""

import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from cvmae.checkpoint import TRIALS, Progress, find_checkpoint, has_checkpoints, read_progress
from cvmae.config import Config, flatten, override
from cvmae.statistics.fitted import TrainingData
from cvmae.storage.claims import FolderInUseError
from cvmae.storage.folders import is_file, written
from cvmae.sweep.axes import axes_of, name_part, read_axes, short_name, shown_value
from cvmae.tracking.store import store_uri
from cvmae.train.pretrain import pretrain
from cvmae.train.run_folder import STOPPED, is_marked_stopped, with_absolute_paths

__all__ = [
    "Status",
    "Trial",
    "grid",
    "mark_stopped",
    "plan_trials",
    "progress_of",
    "resumable",
    "run_trial",
    "sweep_name",
    "trial_status",
]

logger = logging.getLogger("cvmae")

Status = Literal["finished", "stopped", "unfinished", "failed", "new"]

LET_GO_S = 60.0  # in which a cluster ends the processes of a driver that was killed
ASK_EVERY_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One cell of a sweep's grid under one seed; these alone decide its name."""

    name: str
    config: Config
    axes: Mapping[str, Any] = field(default_factory=dict)  # further ones, as readers see them


def grid(config: Config) -> dict[str, tuple[str | int, ...]]:
    """Return the axes of a sweep by their settings, in the order in which trials vary.

    Raises:
        ValueError: See `read_axes`.
    """
    return {
        "sweep.policies": config.sweep.policies,
        "sweep.epochs": config.sweep.epochs or (config.train.epochs,),
        **read_axes(config),
        "sweep.seeds": config.sweep.seeds or (config.seed,),
    }


def sweep_name(config: Config) -> str:
    """Return what a list of runs calls a sweep.

    Example:
        >>> from cvmae.config import PRESETS
        >>> sweep_name(override(PRESETS["small"], {"sweep.seeds": [0, 1, 2]}))
        'random, variance, cv x 20 epochs x 3 seeds'
    """
    policies, epochs, *axes, seeds = grid(config).items()
    parts = [", ".join(map(str, policies[1])), f"{', '.join(map(str, epochs[1]))} epochs"]
    for name, values in axes:
        parts.append(
            f"{short_name(name)} {', '.join(shown_value(name, v) for v in map(str, values))}"
        )
    return " x ".join([*parts, f"{len(seeds[1])} seed" + "s" * (len(seeds[1]) > 1)])


def plan_trials(config: Config) -> list[Trial]:
    """Return the grid's cells in order of policy, epochs, further axes and seed, each one parsed.

    Cells that are the same training, since policy random ignores what they differ in, are one.

    Raises:
        ValueError: An axis names a value twice or is not allowed, or a cell's settings are not.
    """
    axes = grid(config)
    for setting, values in axes.items():
        _require_once(setting, values)
    names = list(axes)[2:-1]
    trials: dict[str, Trial] = {}
    parsed: dict[str, dict[Any, Any]] = {name: {} for name in names}
    for policy, epochs, *cell_values, seed in itertools.product(*axes.values()):
        cell = dict(zip(names, map(str, cell_values), strict=True))
        given = {"mask.policy": policy, "train.epochs": epochs, "seed": seed}
        whole = _parsed(config, given | cell)
        flat = flatten(whole)
        for name, value in cell.items():
            parsed[name][value] = flat[name]
        own = axes_of(str(policy), cell)
        # To parse takes a while, and only random ignores an axis.
        settings = whole if own == cell else _parsed(config, given | own)
        trial = _plan_trial(config, settings, own)
        trials.setdefault(trial.name, trial)
    for name, found in parsed.items():  # 0.5 and 0.50 are told apart as texts only
        _require_once(f"sweep.axes {name}", tuple(shown_value(name, v) for v in found.values()))
    return list(trials.values())


def _require_once(setting: str, values: tuple[Any, ...]) -> None:
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise ValueError(
            f"{setting}={' '.join(map(str, values))} names {twice[0]} twice: name it once"
        )


def _parsed(config: Config, cell: dict[str, Any]) -> Config:
    try:
        return with_absolute_paths(override(config, cell))
    except ValueError as error:
        named = ", ".join(f"{name}={value}" for name, value in cell.items())
        raise ValueError(f"the trial {named}: {error}") from None


def _plan_trial(config: Config, parsed: Config, axes: Iterable[str]) -> Trial:
    """Return one trial of a sweep, given the settings of the grid's cell and its further axes."""
    flat = flatten(parsed)
    values = {name: flat[name] for name in axes}
    cell = f"{parsed.mask.policy}_epochs{parsed.train.epochs}_seed{parsed.seed}"
    parts = [name_part(name, value) for name, value in values.items()]
    name = "_".join([cell, *parts])
    folder = Path(config.output_dir)
    own = replace(
        parsed,
        output_dir=str(folder / TRIALS / name),
        resume="",
        # One fit and one store for all; workers do not see the driver's environment.
        data=replace(parsed.data, statistics=config.data.statistics or str(folder / "statistics")),
        tracking=replace(parsed.tracking, uri=store_uri(config)),
    )
    shown = {name: shown_value(name, value) for name, value in values.items()}
    return Trial(name=name, axes=shown, config=own)


def progress_of(run_dir: str) -> Progress:
    """Return the progress of a run's newest checkpoint; nothing done where there is none yet."""
    try:
        return read_progress(find_checkpoint(run_dir))
    except FileNotFoundError:
        return Progress()


def trial_status(trial: Trial) -> Status:
    """Tell from the trial's folder alone how far it has come."""
    folder = Path(trial.config.output_dir)
    if not folder.is_dir() or not (is_file(folder / "config.yaml") or has_checkpoints(folder)):
        return "new"
    if progress_of(str(folder)).is_finished(trial.config):
        return "finished"
    return "stopped" if is_marked_stopped(str(folder)) else "unfinished"


def mark_stopped(trial: Trial, why: str) -> None:
    """Note in a trial's folder that it was stopped on purpose, which a resumed sweep honours."""
    with written(Path(trial.config.output_dir) / STOPPED) as path:
        path.write_text(
            f"Stopped {why}. A resumed sweep leaves this trial as it is; without this file it "
            "would go on from its checkpoint.\n",
            encoding="utf-8",
        )


def resumable(trial: Trial) -> Config:
    """Return the trial's settings as they must be now: a folder that holds a run is resumed."""
    begun = trial_status(trial) != "new"
    return replace(trial.config, resume=trial.config.output_dir if begun else "")


def run_trial(
    trial: Trial,
    parent_run_id: str,
    data: TrainingData,
    listen: Callable[[Mapping[str, float]], None] | None = None,
) -> str:
    """Run one trial to its end; return '' or, where it failed, the reason in one line.

    A failure is logged and returned, not raised, because one trial must not take the others
    down. Only what is left of an attempt that was killed can hold a trial's folder, for the sweep
    holds all of them: it is waited for.
    """
    deadline_s = time.monotonic() + LET_GO_S
    try:
        while True:
            try:
                pretrain(resumable(trial), parent_run_id=parent_run_id, data=data, listen=listen)
                break
            except FolderInUseError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(ASK_EVERY_S)
    except Exception as error:
        is_users = isinstance(error, (ValueError, FileNotFoundError))  # says all by itself
        logger.error("trial %s failed: %s", trial.name, error, exc_info=not is_users)
        lines = str(error).strip().splitlines()
        return f"{type(error).__name__}: {lines[0] if lines else ''}"[:500]
    return ""
