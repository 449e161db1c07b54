"""One folder that can resume, be evaluated, be exported; nothing in it is unpickled.

A run folder, here or on object storage, holds ``config.yaml``, ``statistics/`` and
``checkpoints/step_XXXXXXXX``: the newest and the one with the least tuning error. A checkpoint is
written whole (`cvmae.storage.folders`), its ``manifest.json`` last, which names the size and the
hash of every file. One that does not agree with it is passed over, and the one before counts.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cvmae.batches.code_metrics import CodeMetrics
from cvmae.config import Config, read_config, write_config
from cvmae.model.kind import misshapen, model_of
from cvmae.model.vomae import VOMAE
from cvmae.statistics.code_statistics import CodeStatistics
from cvmae.statistics.fitted import FittedData
from cvmae.statistics.residuals import Residuals
from cvmae.storage.folders import (
    exists,
    is_file,
    join,
    local_copy,
    names,
    remove_aside,
    remove_folder,
    written,
)
from cvmae.storage.manifest import MANIFEST, damage, incomplete, write_manifest
from cvmae.storage.places import is_remote

__all__ = [
    "CHECKPOINTS",
    "Loaded",
    "Progress",
    "checkpoint_folder",
    "checkpoint_stamp",
    "clear_rubbish",
    "find_checkpoint",
    "has_checkpoints",
    "load_model",
    "load_state",
    "open_checkpoint",
    "read_progress",
    "save_checkpoint",
    "write_model",
]

logger = logging.getLogger("cvmae")

Which = Literal["last", "best"]

CONFIG, PROGRESS, STATISTICS = "config.yaml", "progress.json", "statistics"
MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
RESIDUALS = "residuals.parquet"  # of models that `export` has calibrated
FORMAT = "cvmae checkpoint 1"
CHECKPOINTS = "checkpoints"  # the folder of a run in which each has one of its own
SWEEP, TRIALS = ".sweep", "trials"  # what marks the folder of a sweep, and where its runs are
COST = "tuning_cost"  # what the best epoch has least of, where that is not the tuning error
STEP_FOLDER = re.compile(r"step_\d{8}")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands: the step that comes next, and the history of its epochs."""

    epoch: int = 0
    step: int = 0  # in the epoch
    global_step: int = 0
    error_sum: float = 0.0  # over the steps of the epoch so far, all ranks
    num_hidden: float = 0.0  # or the sum of the weights of their errors
    code_sums: tuple[tuple[int, ...], ...] = ()  # `CodeSums` of the epoch so far
    history: tuple[dict[str, float], ...] = field(default=())  # one entry a finished epoch
    last_codes: dict[str, list[float]] | None = None  # `CodeMetrics` of the last finished epoch

    @property
    def code_metrics(self) -> CodeMetrics | None:
        """What the last finished epoch has shown of each code; None before the first."""
        return CodeMetrics.of(self.last_codes) if self.last_codes else None

    def is_finished(self, config: Config) -> bool:
        """Tell whether all epochs are done."""
        return self.epoch >= config.train.epochs


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model ready to be used, with all that was fitted before it."""

    model: VOMAE
    config: Config
    fitted: FittedData
    progress: Progress
    residuals: Residuals | None = None  # by which what it imputes has intervals


def save_checkpoint(
    run_folder: str | Path,
    *,
    config: Config,
    fitted: FittedData,
    progress: Progress,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
) -> str:
    """Write a checkpoint, drop old ones, and return its folder.

    The newest `checkpoint.keep` stay, and the best; while one is written, it comes on top.

    Raises:
        OSError: It cannot be written; nothing is left of it, and earlier ones are as they were.
    """
    target = checkpoint_folder(run_folder, progress)
    try:
        with written(target, last=MANIFEST) as aside:
            aside.mkdir()
            write_model(aside, config=config, fitted=fitted, progress=progress, model=model)
            save_file({name: t.contiguous() for name, t in optimizer.items()}, aside / OPTIMIZER)
            write_manifest(aside, FORMAT)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"the checkpoint {target} cannot be written ({error}); earlier ones are as they were"
        ) from error
    try:
        _drop_old(run_folder, progress, config.checkpoint.keep)
    except (OSError, ValueError) as error:
        logger.warning("old checkpoints in %s are not all removed (%s)", run_folder, error)
    return target


def write_model(
    folder: Path,
    *,
    config: Config,
    fitted: FittedData,
    progress: Progress,
    model: Mapping[str, Tensor],
    residuals: Residuals | None = None,
) -> None:
    """Write into a folder all that `load_model` reads but the manifest, which comes last."""
    save_file({name: t.contiguous() for name, t in model.items()}, folder / MODEL)
    write_config(config, folder / CONFIG)
    (folder / PROGRESS).write_text(json.dumps(asdict(progress), indent=1), encoding="utf-8")
    fitted.write(folder / STATISTICS)
    if residuals:
        residuals.write(folder / RESIDUALS)


def checkpoint_folder(run_folder: str | Path, progress: Progress) -> str:
    """Return where a run's checkpoint at some progress is."""
    return join(run_folder, CHECKPOINTS, _name(progress.global_step))


def find_checkpoint(path: str | Path, which: Which = "last") -> Path:
    """Return the checkpoint that a run folder or a checkpoint folder of this machine stands for.

    Sizes of files are checked, what is in them is not: `open_checkpoint` does that, anywhere.

    Raises:
        FileNotFoundError: There is none that is whole; the message says what was looked for.
        ValueError: `path` is a checkpoint that is not whole.
    """
    return Path(_first_whole(path, which))


@contextmanager
def open_checkpoint(path: str | Path, which: Which = "last") -> Iterator[Path]:
    """Yield a folder of this machine with the checkpoint that a path stands for, wholly checked.

    Raises:
        FileNotFoundError: There is none that is whole and sound.
        ValueError: `path` is a checkpoint that is damaged or foreign.
    """
    passed: dict[str, str] = {}
    for folder in _whole_checkpoints(path, which, passed):
        with local_copy(folder) as copy:
            flaw = damage(copy) or _misfit(copy, path)
            if not flaw:
                _tell_passed(passed, folder)
                yield copy
                return
        _pass_over(folder, flaw, path, passed)


def checkpoint_stamp(path: str | Path, which: Which = "last", given: str = "") -> str:
    """Return a hash that changes with what is in the checkpoint that a path stands for.

    Args:
        path: Of a run or a checkpoint.
        which: Of a run's checkpoints.
        given: What messages call the path, where not by itself: the setting, too.

    Raises:
        FileNotFoundError: There is none that is whole.
        ValueError: `path` is a checkpoint that is not whole.
    """
    with local_copy(join(_first_whole(path, which, given), MANIFEST)) as manifest:
        return hashlib.sha256(manifest.read_bytes()).hexdigest()


def has_checkpoints(run_folder: str | Path) -> bool:
    """Tell whether a run has come as far as a checkpoint, sound or not."""
    folder = join(run_folder, CHECKPOINTS)
    steps = _steps(run_folder)
    if is_remote(folder):  # one that a killed process was sending is none yet
        return any(is_file(join(folder, step, MANIFEST)) for step in steps)
    return bool(steps)


def load_model(
    path: str | Path, device: torch.device | str = "cpu", which: Which = "last"
) -> Loaded:
    """Load a model for use (evaluation mode), from a run folder or a checkpoint folder.

    Raises:
        FileNotFoundError: There is no whole checkpoint.
        ValueError: `path` is a checkpoint that is damaged.
    """
    with open_checkpoint(path, which) as folder:
        config = read_config(folder / CONFIG)
        fitted = FittedData.read(folder / STATISTICS)
        progress = read_progress(folder)
        has_residuals = (folder / RESIDUALS).is_file()
        residuals = Residuals.read(folder / RESIDUALS) if has_residuals else None
        model = model_of(config, fitted.statistics.num_codes)
        model.load_state_dict(load_file(folder / MODEL, device="cpu"))
    return Loaded(
        model=model.to(device).eval(),
        config=config,
        fitted=fitted,
        progress=progress,
        residuals=residuals,
    )


def load_state(path: str | Path) -> tuple[Progress, dict[str, Tensor], dict[str, Tensor]]:
    """Return progress, weights and optimiser state of a run or a checkpoint, for resuming.

    Raises:
        FileNotFoundError: There is no whole checkpoint.
        ValueError: `path` is a checkpoint that is damaged.
    """
    with open_checkpoint(path) as folder:
        model = load_file(folder / MODEL, device="cpu")
        try:
            optimizer = load_file(folder / OPTIMIZER, device="cpu")
        except SafetensorError as error:
            raise ValueError(f"{path}: {OPTIMIZER} is no safetensors ({error})") from None
        return read_progress(folder), model, optimizer


def read_progress(path: str | Path) -> Progress:
    """Return how far a run, or the run at a checkpoint, has come.

    Raises:
        FileNotFoundError: There is no whole checkpoint.
        ValueError: The file is damaged.
    """
    return _progress_at(_first_whole(path, "last"))


def clear_rubbish(run_folder: str | Path) -> None:
    """Remove what a killed process left half written; only the run's one writer may call it."""
    remove_aside(run_folder)
    remove_aside(join(run_folder, CHECKPOINTS))


def _misfit(folder: Path, path: str | Path) -> str:
    """Say whether weights are of another model than the run's, or than the settings beside them."""
    config = join(path, CONFIG)
    if not is_file(config):
        config = str(folder / CONFIG)
    with local_copy(config) as file:
        settings = read_config(file)
    statistics = CodeStatistics.read(folder / STATISTICS / "code_statistics.parquet")
    return misshapen(folder / MODEL, settings, statistics.num_codes)


def _first_whole(path: str | Path, which: Which, given: str = "") -> str:
    passed: dict[str, str] = {}
    folder = next(_whole_checkpoints(path, which, passed, given))
    _tell_passed(passed, folder)
    return folder


def _whole_checkpoints(
    path: str | Path, which: Which, passed: dict[str, str], given: str = ""
) -> Iterator[str]:
    """Yield complete checkpoints, the wanted one first and then from the newest to the oldest.

    Those that are not complete are put into `passed`, with the reason.
    """
    steps = [] if _is_checkpoint(path) else _steps(path)
    folders = [join(path, CHECKPOINTS, step) for step in reversed(steps)] or [str(path)]
    if which == "best" and steps:
        best = _best(_progress_at(next(_whole_checkpoints(path, "last", {}))), steps)
        folders.sort(key=lambda folder: not folder.endswith(best or "none"))
    for folder in folders if steps or _is_checkpoint(path) else []:
        if flaw := incomplete(folder, FORMAT):
            _pass_over(folder, flaw, path, passed)
        else:
            yield folder
    _tell_passed(passed)
    raise FileNotFoundError(f"{given or path}{_why_none(path)}")


def _why_none(path: str | Path) -> str:
    if not exists(path):
        return ": there is no such folder: give a run folder, or one checkpoint of it"
    if is_file(path):
        return " is a file: give a run folder, or one checkpoint of it"
    why = (
        " holds no whole checkpoint: expected a run folder with checkpoints/step_*, or one "
        f"checkpoint with {MANIFEST} and what it lists"
    )
    if is_file(join(path, SWEEP)) or names(join(path, TRIALS)):
        return f"{why}; this is a sweep, a folder of runs: take one of {TRIALS}/ in it"
    children = (name for name in names(path) if not is_file(join(path, name)))
    run = next((name for name in children if _steps(join(path, name))), "")
    return f"{why}; this is a folder of runs: take one of them, such as {run}" if run else why


def _pass_over(folder: str, flaw: str, path: str | Path, passed: dict[str, str]) -> None:
    if _is_checkpoint(path):
        raise ValueError(f"{folder} is no whole checkpoint: {flaw}")
    passed[folder] = flaw


def _tell_passed(passed: Mapping[str, str], taken: str = "") -> None:
    instead = f"; {Path(taken).name} is taken instead" if taken else ""
    for folder, flaw in passed.items():
        logger.warning("%s is passed over: %s%s", folder, flaw, instead)


def _is_checkpoint(path: str | Path) -> bool:
    return bool(STEP_FOLDER.fullmatch(Path(path).name)) or is_file(join(path, MODEL))


def _steps(run_folder: str | Path) -> list[str]:
    """Return the names of a run's checkpoints in order, whole or not."""
    return [name for name in names(join(run_folder, CHECKPOINTS)) if STEP_FOLDER.fullmatch(name)]


def _name(global_step: float) -> str:
    return f"step_{int(global_step):08d}"


def _best(progress: Progress, steps: Sequence[str]) -> str:
    """Return the step of the epoch that tuning speaks for most, of those that are there."""
    epochs = [epoch for epoch in progress.history if _name(epoch["step"]) in steps]
    return _name(min(epochs, key=_cost)["step"]) if epochs else ""


def _cost(epoch: Mapping[str, float]) -> float:
    return epoch[COST] if COST in epoch else epoch["tuning_mse"]


def _progress_at(folder: str | Path) -> Progress:
    with local_copy(join(folder, PROGRESS)) as path:
        content = path.read_bytes()
    try:
        values: dict[str, Any] = json.loads(content)
        progress = Progress(**values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{join(folder, PROGRESS)} is damaged ({error})") from None
    sums = tuple(map(tuple, progress.code_sums))
    return replace(progress, history=tuple(progress.history), code_sums=sums)


def _drop_old(run_folder: str | Path, progress: Progress, keep: int) -> None:
    """Remove what is neither among the newest nor the best, nor before the step just written.

    What lies behind it is damaged, or the run would have gone on from there. What has no manifest
    was broken off in an upload and counts for nothing.
    """
    steps = _steps(run_folder)
    past = [
        step
        for step in steps
        if step <= _name(progress.global_step)
        and is_file(join(run_folder, CHECKPOINTS, step, MANIFEST))
    ]
    for step in set(steps) - {*past[-keep:], _best(progress, past)}:
        remove_folder(join(run_folder, CHECKPOINTS, step))
