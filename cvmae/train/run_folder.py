"""The folder of a pretraining or a sweep: what may be in it before, and which of both it holds."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from cvmae.checkpoint import CHECKPOINTS
from cvmae.config import Config, resolved_path, write_config
from cvmae.storage.folders import is_file, join, make_folder, names, written

__all__ = ["TRIALS", "Kind", "begin_folder", "prepare_run_folder"]

Kind = Literal["run", "sweep"]

TRIALS = "trials"  # the folder of a sweep's runs
# A config.yaml is left by other verbs, too; these folders are made before it, and by no other.
MARKS: dict[Kind, str] = {"run": CHECKPOINTS, "sweep": TRIALS}
JOBS: dict[Kind, str] = {"run": "jobs/pretrain.py", "sweep": "jobs/sweep.py"}
# What a process leaves that is killed before its folder has a config.yaml, by which it would be
# continued: such a folder is as good as new, and its statistics are checked when they are read.
BEFORE_A_RUN = r"\.writing_.*|statistics|deepspeed\.json"


def prepare_run_folder(config: Config, kind: Kind = "run") -> Config:
    """Make paths absolute and refuse a folder that another run or sweep has written to.

    Raises:
        ValueError: `data.root` or `output_dir` is missing, the folder is not new, or what shall
            be resumed is of the other kind.
        FileNotFoundError: There is nothing to resume.
    """
    for setting, value in (("data.root", config.data.root), ("output_dir", config.output_dir)):
        if not value:
            raise ValueError(f"{setting} is empty: say --{setting} FOLDER")
    config = replace(
        config,
        output_dir=resolved_path(config.output_dir.removeprefix("file://")).rstrip("/"),
        resume=resolved_path(config.resume.removeprefix("file://")).rstrip("/"),
        data=replace(
            config.data,
            root=resolved_path(config.data.root),
            statistics=resolved_path(config.data.statistics),
            codes_file=resolved_path(config.data.codes_file),
        ),
        deepspeed=replace(
            config.deepspeed, config_file=resolved_path(config.deepspeed.config_file)
        ),
    )
    folder = config.output_dir
    if config.resume:
        if config.resume != config.output_dir:
            raise ValueError(
                f"--resume {config.resume} continues in its own folder: leave out --output_dir"
            )
        if not is_file(join(folder, "config.yaml")):
            raise FileNotFoundError(f"--resume {folder}: no config.yaml there, so no {kind}")
        if (held := _held(names(folder))) != kind:
            raise ValueError(f"--resume {folder}: it holds {_what(held, kind)}")
    else:
        _refuse_used(folder, kind)
    make_folder(folder)
    return config


def begin_folder(config: Config, kind: Kind = "run") -> None:
    """Write `config.yaml`, from which on the folder holds a run or a sweep."""
    make_folder(join(config.output_dir, MARKS[kind]))
    with written(join(config.output_dir, "config.yaml")) as path:
        write_config(config, path)


def _refuse_used(folder: str, kind: Kind) -> None:
    """Refuse an output folder in which there is something, with --resume where that helps."""
    found = names(folder)
    if all(_is_as_new(folder, name) for name in found):
        return
    held = _held(found)
    if held == kind:
        raise ValueError(
            f"output_dir={folder} is not empty: choose a new folder, or continue the {kind} that "
            f"is there with --resume {folder}"
        )
    raise ValueError(
        f"output_dir={folder} is not empty and holds {_what(held, kind)}: choose a new folder"
    )


def _is_as_new(folder: str, name: str) -> bool:
    is_mark = name in MARKS.values()
    return bool(re.fullmatch(BEFORE_A_RUN, name)) or (is_mark and not names(join(folder, name)))


def _held(found: Sequence[str]) -> Kind | None:
    """Tell what a folder holds by the names in it."""
    held = (kind for kind, mark in MARKS.items() if mark in found and "config.yaml" in found)
    return next(held, None)


def _what(held: Kind | None, kind: Kind) -> str:
    return f"no {kind}" if held is None else f"a {held}, which {JOBS[held]} continues"
