"""One folder that can resume, be evaluated, be exported; nothing in it is unpickled.

A run folder holds ``config.yaml``, ``statistics/``, ``checkpoints/step_XXXXXXXX`` (the newest is
*last*) and ``checkpoints/best``. A checkpoint is written aside and renamed, so that a folder of
that name is always whole.
"""

import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cvmae.config import Config, flatten, read_config, write_config
from cvmae.data.fit_statistics import FittedData
from cvmae.model.vomae import VOMAE, build_model

__all__ = [
    "Loaded",
    "Progress",
    "check_same_run",
    "clear_rubbish",
    "find_checkpoint",
    "has_checkpoints",
    "load_model",
    "load_state",
    "read_progress",
    "save_checkpoint",
]

logger = logging.getLogger("cvmae")

FILES = ("config.yaml", "progress.json", "model.safetensors", "optimizer.safetensors")
STEP_FOLDER = re.compile(r"step_(\d{8})")
# Settings that may differ when a run is resumed: they change neither data, model nor updates.
FREE_ON_RESUME = re.compile(
    r"output_dir|resume|data\.(root|statistics)|train\.num_threads|(scaling|checkpoint|tracking|sweep)\..*|evaluate\.(?!seed$).*"
)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands: the step that comes next, and the history of its epochs."""

    epoch: int = 0
    step: int = 0  # in the epoch
    global_step: int = 0
    error_sum: float = 0.0  # over the steps of the epoch so far, all ranks
    num_hidden: float = 0.0
    best_mse: float = float("inf")
    history: tuple[dict[str, float], ...] = field(default=())  # one entry a finished epoch

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


def save_checkpoint(
    run_folder: str | Path,
    *,
    config: Config,
    fitted: FittedData,
    progress: Progress,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    is_best: bool = False,
) -> Path:
    """Write a checkpoint, drop those beyond ``checkpoint.keep``, and return its folder."""
    folder = Path(run_folder) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step_{progress.global_step:08d}"
    aside = folder / f".writing_{uuid.uuid4().hex}"
    try:
        aside.mkdir()
        save_file({name: t.contiguous() for name, t in model.items()}, aside / FILES[2])
        save_file({name: t.contiguous() for name, t in optimizer.items()}, aside / FILES[3])
        write_config(config, aside / FILES[0])
        (aside / FILES[1]).write_text(json.dumps(asdict(progress), indent=1), encoding="utf-8")
        fitted.write(aside / "statistics")
        if is_best:
            # Before the checkpoint itself: a run that is killed in between comes here again
            # from the checkpoint before, and writes the same once more.
            copy = folder / f".writing_{uuid.uuid4().hex}"
            shutil.copytree(aside, copy)
            _replace(copy, folder / "best")
        _replace(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    for old in _step_folders(folder)[: -config.checkpoint.keep]:
        if old != target:
            shutil.rmtree(old)
    return target


def find_checkpoint(path: str | Path, which: Literal["last", "best"] = "last") -> Path:
    """Return the checkpoint that a run folder or a checkpoint folder stands for.

    Raises:
        FileNotFoundError: There is none; the message says what was looked for.
    """
    given = Path(path)
    if (given / "model.safetensors").is_file():
        _check_whole(given)
        return given
    folder = given / "checkpoints"
    if which == "best" and (folder / "best").is_dir():
        return folder / "best"
    for step in reversed(_step_folders(folder)):
        if not (missing := _missing(step)):
            return step
        logger.warning("%s is passed over: %s missing", step, ", ".join(missing))
    raise FileNotFoundError(
        f"{path} holds no whole checkpoint: expected a run folder with checkpoints/step_*, or one "
        f"checkpoint with {', '.join(FILES)}"
    )


def has_checkpoints(run_folder: str | Path) -> bool:
    """Tell whether a run has come as far as a checkpoint, whole or not."""
    return bool(_step_folders(Path(run_folder) / "checkpoints"))


def load_model(
    path: str | Path,
    device: torch.device | str = "cpu",
    which: Literal["last", "best"] = "last",
) -> Loaded:
    """Load a model for use (evaluation mode), from a run folder or a checkpoint folder.

    Raises:
        FileNotFoundError: There is no whole checkpoint.
        ValueError: Weights do not fit the settings beside them.
    """
    folder = find_checkpoint(path, which)
    config, fitted, progress = _read_context(folder)
    model = build_model(config.model, fitted.statistics.num_codes, seed=config.seed)
    weights = _read_tensors(folder / "model.safetensors")
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{folder}: weights do not fit its config.yaml: {error}") from None
    return Loaded(model=model.to(device).eval(), config=config, fitted=fitted, progress=progress)


def load_state(folder: str | Path) -> tuple[Progress, dict[str, Tensor], dict[str, Tensor]]:
    """Return progress, weights and optimiser state of a checkpoint, for resuming."""
    _check_whole(Path(folder))
    model = _read_tensors(Path(folder) / "model.safetensors")
    optimizer = _read_tensors(Path(folder) / "optimizer.safetensors")
    return read_progress(Path(folder)), model, optimizer


def read_progress(folder: Path) -> Progress:
    """Return how far the run was at a checkpoint.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        values: dict[str, Any] = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
        progress = Progress(**values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder / 'progress.json'} is damaged ({error})") from None
    return replace(progress, history=tuple(progress.history))


def check_same_run(folder: str | Path, config: Config, fitted: FittedData) -> None:
    """Refuse to resume with settings or data that would make it another run.

    Raises:
        ValueError: Something differs that changes data, model or updates; the message lists it.
    """
    own = FittedData.read(Path(folder) / "statistics")
    differences = own.statistics.differences(fitted.statistics)
    differences += [
        name for name in ("fingerprint", "settings") if getattr(own, name) != getattr(fitted, name)
    ]
    if differences:
        raise ValueError(
            f"cannot resume {folder} with other data or statistics ({', '.join(differences)} "
            "differ): give the data set and data.statistics that it was trained with, or start a "
            "new run with --base CONFIG --output_dir NEW"
        )
    saved, given = flatten(read_config(Path(folder) / "config.yaml")), flatten(config)
    # With these two the learning rate of a step does not depend on how many are to come.
    lasting = config.optim.schedule == "constant" and config.optim.warmup_steps == 0
    free = ["train.epochs"] if lasting else []
    changed = [
        f"{name}: {saved[name]!r} -> {given[name]!r}"
        for name in given
        if saved[name] != given[name] and name not in free and not FREE_ON_RESUME.fullmatch(name)
    ]
    if changed:
        raise ValueError(
            f"cannot resume {folder} with other settings ({'; '.join(changed)}): leave them out, "
            "or start a new run with --base CONFIG --output_dir NEW"
        )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path, device="cpu")
    except SafetensorError as error:
        raise ValueError(
            f"{path} is damaged ({error}): remove its folder, and the checkpoint before it counts"
        ) from None


def _read_context(folder: Path) -> tuple[Config, FittedData, Progress]:
    config = read_config(folder / "config.yaml")
    return config, FittedData.read(folder / "statistics"), read_progress(folder)


def clear_rubbish(run_folder: str | Path) -> None:
    """Remove what a killed process left half written; only the run's one writer may call it."""
    for pattern in (".writing_*", ".old_*"):
        for folder in (Path(run_folder) / "checkpoints").glob(pattern):
            shutil.rmtree(folder, ignore_errors=True)


def _missing(folder: Path) -> list[str]:
    return [name for name in (*FILES, "statistics") if not (folder / name).exists()]


def _check_whole(folder: Path) -> None:
    if missing := _missing(folder):
        raise FileNotFoundError(f"{folder} is no whole checkpoint: {', '.join(missing)} missing")


def _step_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if STEP_FOLDER.fullmatch(path.name))


def _replace(aside: Path, target: Path) -> None:
    """Rename a whole folder into place; one that stood there goes away first."""
    if target.exists():
        old = target.with_name(f".old_{uuid.uuid4().hex}")
        os.rename(target, old)
        os.rename(aside, target)
        shutil.rmtree(old)
    else:
        os.rename(aside, target)
