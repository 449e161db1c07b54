"""Which settings tell a run from others in a list, and what its page begins with."""

from collections.abc import Mapping, Sequence
from typing import Any

from cvmae.config import PRESETS, Config, flatten
from cvmae.runtime.tables import counted

__all__ = ["GROUP", "describe_run", "told_params"]

GROUP = "masking"

# Always there, so that runs can be sorted and filtered by them.
ALWAYS = ("mask.policy", "seed", "train.epochs")
# Where things lie, and what other verbs do, says nothing of a run.
SILENT = (
    "output_dir",
    "resume",
    "data.root",
    "data.statistics",
    "tracking.",
    "sweep.",
    "evaluate.",
    "finetune.",
)
PRESET_SECTIONS = ("model.", "optim.", "train.")  # what a preset sets


def told_params(config: Config) -> dict[str, Any]:
    """Return the nearest preset, what differs from it, and all that a sweep varies.

    Beside them stands in a word what the seeds of a sweep share, over which MLflow's page averages.

    Some 60 settings are the same in every run of a list and hide those that are not; all of them
    are in ``config.yaml``, which is kept beside the run.

    Example:
        >>> from cvmae.config import override
        >>> list(told_params(override(PRESETS["small"], {"optim.lr": 5e-4})))
        ['preset', 'masking', 'mask.policy', 'seed', 'train.epochs', 'optim.lr']
    """
    flat = flatten(config)
    presets = {name: flatten(preset) for name, preset in PRESETS.items()}
    nearest = min(presets, key=lambda name: _distance(flat, presets[name]))
    axes = [axis.partition("=")[0] for axis in getattr(config.sweep, "axes", ())]
    differing = [
        name
        for name, value in flat.items()
        if value != presets[nearest][name] and not name.startswith(SILENT)
    ]
    names = dict.fromkeys([*ALWAYS, *axes, *differing])
    first = {"preset": nearest, GROUP: _group(config, flat, axes)}
    return first | {name: flat[name] for name in names if name in flat}


def describe_run(config: Config, dataset: Mapping[str, str]) -> str:
    """Return what a person reads first on the page of a run, in Markdown."""
    return (
        f"Pretraining with **{config.mask.policy}** masking, "
        f"{counted(config.train.epochs, 'epoch')}, seed "
        f"{config.seed}, on {dataset['name']}.\n\nAll settings are in `config.yaml` among the "
        f"artifacts; checkpoints are in `{config.output_dir}`."
    )


def _group(config: Config, flat: Mapping[str, Any], axes: Sequence[str]) -> str:
    parts: list[str] = [config.mask.policy]
    if len(config.sweep.epochs) > 1:
        parts.append(counted(config.train.epochs, "epoch"))
    parts += [f"{axis.rpartition('.')[2]} {flat[axis]}" for axis in axes if axis in flat]
    return " ".join(parts)


def _distance(flat: Mapping[str, Any], preset: Mapping[str, Any]) -> int:
    return sum(flat[name] != preset[name] for name in flat if name.startswith(PRESET_SECTIONS))
