"""What fine-tuned runs have begun with: pretrained weights, and the settings that made them."""

from cvmae.checkpoint import CHECKPOINTS, Loaded, checkpoint_stamp, load_model
from cvmae.config import Config
from cvmae.train.pretrained import kept_stamp

__all__ = ["begun_with", "pretraining_of", "run_folder_of"]


def run_folder_of(path: str) -> str:
    """Return the run folder of a path, which may be that of one of its checkpoints."""
    path = path.rstrip("/")
    return path.rpartition(f"/{CHECKPOINTS}/")[0] or path


def begun_with(path: str, config: Config) -> str:
    """Return a hash of the weights that a run was fine-tuned from, '' where it has its own.

    Of a folder that does not keep it, that of what `finetune.checkpoint` has now, else this path.

    Args:
        path: Of the run or a checkpoint of it.
        config: Its settings.
    """
    pretrained = config.finetune.checkpoint
    if not pretrained or config.finetune.from_scratch:
        return ""
    return kept_stamp(run_folder_of(path)) or _stamp(pretrained) or pretrained


def pretraining_of(path: str, config: Config) -> Loaded | None:
    """Return the pretrained model that a run was fine-tuned from.

    None where there was none, and where it is not known: `finetune.checkpoint` is gone, or has
    other weights by now.

    Args:
        path: Of the run or a checkpoint of it.
        config: Its settings.
    """
    begun = begun_with(path, config)
    if not begun or begun != _stamp(config.finetune.checkpoint):
        return None
    try:
        return load_model(config.finetune.checkpoint)
    except (OSError, ValueError):  # it is damaged, which the fine-tuned model is none the worse for
        return None


def _stamp(path: str) -> str:
    """Return the hash of what a path stands for now, '' where there is nothing."""
    try:
        return checkpoint_stamp(path)
    except (OSError, ValueError):
        return ""
