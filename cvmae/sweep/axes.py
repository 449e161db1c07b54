"""Axes of a sweep beside policy, epochs and seed: any setting by its dotted name, with values."""

import difflib
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from cvmae.config import Config, flatten
from cvmae.statistics.fitted import SETTINGS
from cvmae.storage.safe_names import marked

__all__ = [
    "IGNORED_BY_RANDOM",
    "axes_of",
    "name_part",
    "read_axes",
    "short_name",
    "shown_value",
    "trial_label",
]

# Setting (a pattern) -> what to do instead of varying it here.
REFUSED: dict[str, str] = {
    r"mask\.policy": "give --sweep.policies, which names the trials' policies",
    r"train\.epochs": "give --sweep.epochs, which names the trials' lengths",
    r"seed": "give --sweep.seeds, which names the trials' seeds",
    "|".join(map(re.escape, ("data.root", "data.statistics", "data.codes_file", *SETTINGS))): (
        "the data set is opened and its statistics are fitted once for all trials: run a sweep for "
        "each value"
    ),
    r"output_dir|resume|resume_allow|(scaling|checkpoint|tracking)\..*|train\.num_threads": (
        "all trials of a sweep share it: give it once, as a flag of its own"
    ),
    r"(sweep|evaluate|infer|finetune)\..*": "it changes nothing in a trial: leave it out",
}
# Settings of weights, which policy random does not use: its trials are the same bit for bit.
IGNORED_BY_RANDOM = re.compile(
    r"mask\.(sharpness|uniform_share|anneal_epochs|anneal_from|two_level_\w+|weights_file)"
)
PLACES = re.compile(r".*_file")  # settings that name a file, of which readers see the last part
LONGEST = 40  # characters of a value in the name of a folder


def read_axes(config: Config) -> dict[str, tuple[str, ...]]:
    """Return the values of each further axis as they were given, by setting.

    Raises:
        ValueError: An entry is no NAME=VALUE,VALUE, or its setting is unknown, named twice or one
            that cannot differ between the trials of a sweep.
    """
    axes: dict[str, tuple[str, ...]] = {}
    for entry in config.sweep.axes:
        name, separator, given = entry.partition("=")
        values = tuple(value.strip() for value in given.split(","))
        if not (name and separator and all(values)):
            raise ValueError(
                f"sweep.axes={entry!r} is not allowed: give NAME=VALUE,VALUE, for example "
                "optim.lr=1e-3,5e-4"
            )
        _require_axis(name, config)
        if name in axes:
            raise ValueError(f"sweep.axes names {name} twice: give all its values in one entry")
        axes[name] = values
    return axes


def short_name(setting: str) -> str:
    """Return the last part of a setting's name, which no other axis can have.

    Example:
        >>> short_name("optim.lr")
        'lr'
    """
    return setting.rpartition(".")[2]


def axes_of(policy: str, axes: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the axes that make a difference under a policy.

    Example:
        >>> axes_of("random", {"mask.sharpness": 0.5, "optim.lr": 0.1})
        {'optim.lr': 0.1}
    """
    return {
        name: value
        for name, value in axes.items()
        if policy != "random" or not IGNORED_BY_RANDOM.fullmatch(name)
    }


def trial_label(policy: str, axes: Mapping[str, Any]) -> str:
    """Return what trials that differ in their seed and length only have in common.

    Example:
        >>> trial_label("cv", {"optim.lr": 0.001})
        'cv lr 0.001'
    """
    return " ".join([policy, *(f"{short_name(name)} {value}" for name, value in axes.items())])


def shown_value(setting: str, value: Any) -> Any:
    """Return a setting's value as readers see it: of a file its name, not where it lies.

    Example:
        >>> shown_value("mask.weights_file", "/shared/w.csv"), shown_value("optim.lr", 0.1)
        ('w.csv', 0.1)
    """
    return PurePath(value).name if PLACES.fullmatch(setting) else value


def name_part(setting: str, value: object) -> str:
    """Return what an axis adds to a trial's name, safe for every file system.

    Example:
        >>> name_part("optim.lr", 0.001), name_part("deepspeed.config_file", "/a b/c.json")
        ('lr0.001', 'config_filec.json-37e730')
    """
    text = str(value)
    safe = re.sub(r"[^A-Za-z0-9_.+-]+", "-", str(shown_value(setting, value)))[:LONGEST]
    return short_name(setting) + marked(safe, text)


def _require_axis(name: str, config: Config) -> None:
    """Refuse a setting that cannot be an axis, and say what to do."""
    known = flatten(config)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f": perhaps {near[0]}" if near else "; --help lists them"
        raise ValueError(f"sweep.axes: {name} is no setting{hint}")
    for pattern, advice in REFUSED.items():
        if re.fullmatch(pattern, name):
            raise ValueError(f"sweep.axes: {name} cannot be an axis: {advice}")
    if isinstance(known[name], tuple):
        raise ValueError(
            f"sweep.axes: {name} cannot be an axis: it is a list, and the comma parts an axis' "
            "values: run a sweep for each of its values, and read their summaries together"
        )
