"""The folder of a run, sweep or fine-tuning: what may be in it before, and which it holds."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Literal

from cvmae.checkpoint import CHECKPOINTS, SWEEP, TRIALS
from cvmae.config import Config, resolved_path, write_config
from cvmae.storage.folders import is_file, join, names, written
from cvmae.storage.output import absolute_output, output_folder, require_new
from cvmae.tracking.store import DATABASE
from cvmae.train.pretrained import KEPT_STAMP
from cvmae.train.weights_file import KEPT_WEIGHTS

__all__ = [
    "STOPPED",
    "Kind",
    "begin_folder",
    "is_marked_stopped",
    "run_folder",
    "with_absolute_paths",
]

Kind = Literal["run", "sweep", "fine-tuning"]

STOPPED = "stopped.txt"  # in the folder of a trial that a scheduler has stopped
# A config.yaml is left by other verbs, too; these files are written before it, and by no other.
MARKS: dict[Kind, str] = {"run": ".run", "sweep": SWEEP, "fine-tuning": ".fine-tuning"}
# What tells folders that have no such file yet; object storage knows no empty folders.
FOLDERS: dict[Kind, str] = {"run": CHECKPOINTS, "sweep": TRIALS}
VERBS: dict[Kind, str] = {"run": "pretrain", "sweep": "sweep", "fine-tuning": "finetune"}
# What a process leaves that is killed before its folder has a config.yaml, by which it would be
# continued: such a folder is as good as new, and its statistics are checked when they are read.
BEFORE_A_RUN = (
    "statistics",
    "deepspeed.json",
    KEPT_STAMP,
    KEPT_WEIGHTS,
    DATABASE,
    *MARKS.values(),
)


@contextmanager
def run_folder(
    config: Config, kind: Kind = "run", *, only_local: str = "", look: bool = False
) -> Iterator[Config]:
    """Hold a folder that is new or resumed; yield settings of absolute paths.

    Args:
        config: Settings, with paths as the user says them.
        kind: What the folder holds or will hold.
        only_local: See `output_folder`.
        look: Likewise.

    Raises:
        ValueError: `data.root` or `output_dir` is missing, the folder is not new or in use (see
            `output_folder`), or what shall be resumed is of another kind.
        FileNotFoundError: There is nothing to resume.
    """
    if not config.data.root:
        raise ValueError("data.root is empty: say --data.root FOLDER")
    config = with_absolute_paths(config)
    if config.resume:
        if config.resume != config.output_dir:
            raise ValueError(
                f"--resume {config.resume} continues in its own folder: leave out --output_dir"
            )
        _require_held(config.resume, kind)
    check = partial(_require_held if config.resume else _refuse_used, kind=kind)
    with output_folder(
        config.output_dir,
        VERBS[kind],
        data_root=config.data.root,
        check=check,
        only_local=only_local,
        look=look,
    ):
        yield config


def with_absolute_paths(config: Config) -> Config:
    """Return settings that mean the same files in every process."""
    return replace(
        config,
        output_dir=absolute_output(config.output_dir),
        resume=absolute_output(config.resume, "resume") if config.resume else "",
        data=replace(
            config.data,
            root=resolved_path(config.data.root),
            statistics=resolved_path(config.data.statistics),
            codes_file=resolved_path(config.data.codes_file),
        ),
        finetune=replace(
            config.finetune,
            checkpoint=resolved_path(config.finetune.checkpoint),
            labels=resolved_path(config.finetune.labels),
        ),
        mask=replace(config.mask, weights_file=resolved_path(config.mask.weights_file)),
        deepspeed=replace(
            config.deepspeed, config_file=resolved_path(config.deepspeed.config_file)
        ),
    )


def is_marked_stopped(folder: str) -> bool:
    """Tell whether the run of a folder was stopped on purpose by its sweep."""
    return is_file(join(folder, STOPPED))


def begin_folder(config: Config, kind: Kind = "run") -> None:
    """Write `config.yaml`, from which on the folder holds what it is of."""
    with written(join(config.output_dir, MARKS[kind])) as path:
        path.write_text(f"This folder holds a {kind}.\n", encoding="ascii")
    with written(join(config.output_dir, "config.yaml")) as path:
        write_config(config, path)


def _require_held(folder: str, kind: Kind) -> None:
    """Refuse to resume where nothing of the kind has begun."""
    if not is_file(join(folder, "config.yaml")):
        raise FileNotFoundError(
            f"--resume {folder}: no config.yaml there, so no {kind} has begun: give its settings "
            f"again with --output_dir {folder}"
        )
    if (held := _held(names(folder))) != kind:
        raise ValueError(f"--resume {folder}: it holds {_what(held, kind)}")


def _refuse_used(folder: str, kind: Kind) -> None:
    """Refuse an output folder in which there is something, with --resume where that helps."""

    def is_as_new(name: str) -> bool:
        is_empty = name in FOLDERS.values() and not names(join(folder, name))
        return name in BEFORE_A_RUN or is_empty

    def advice(found: Sequence[str]) -> str:
        held = _held(found)
        if held == kind:
            return (
                f": choose a new folder, or continue the {kind} that is there with --resume "
                f"{folder}"
            )
        return f" and holds {_what(held, kind)}: choose a new folder"

    require_new(folder, unfinished=is_as_new, advice=advice)


def _held(found: Sequence[str]) -> Kind | None:
    """Tell what a folder holds by the names in it."""
    if "config.yaml" not in found:
        return None
    for names_of in (MARKS, FOLDERS):
        for kind, name in names_of.items():
            if name in found:
                return kind
    return None


def _what(held: Kind | None, kind: Kind) -> str:
    return f"no {kind}" if held is None else f"a {held}, which `cvmae {VERBS[held]}` continues"
