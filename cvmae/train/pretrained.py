"""The checkpoint that a fine-tuning begins with: the same one until it has one of its own."""

import logging

from cvmae.checkpoint import Loaded, checkpoint_stamp, load_model
from cvmae.config import Config
from cvmae.storage.folders import is_file, join, local_copy, written

__all__ = ["KEPT_STAMP", "keep_stamp", "kept_stamp", "load_pretrained"]

KEPT_STAMP = "pretrained.sha256"

logger = logging.getLogger("cvmae")


def load_pretrained(config: Config) -> tuple[Loaded, str]:
    """Load `finetune.checkpoint`; return it with a hash that changes with what is in it.

    Raises:
        FileNotFoundError: There is no whole checkpoint.
        ValueError: It is damaged or was replaced meanwhile, or what is resumed was begun with
            another.
    """
    path = config.finetune.checkpoint
    stamp = checkpoint_stamp(path, given=f"finetune.checkpoint={path}")
    loaded = load_model(path)
    if checkpoint_stamp(path) != stamp:
        raise ValueError(
            f"finetune.checkpoint={path}: another checkpoint was written there meanwhile; wait for "
            "the run to end, or give one checkpoint of it (checkpoints/step_*)"
        )
    kept = kept_stamp(config.output_dir) if config.resume else stamp
    if not kept:
        logger.warning(
            "%s does not say which weights it was begun with: it begins with those that "
            "finetune.checkpoint has now",
            config.output_dir,
        )
    elif kept != stamp:
        raise ValueError(
            f"cannot resume {config.output_dir}: it has no checkpoint yet, and finetune.checkpoint="
            f"{path} is not what it was begun with: give the checkpoint that was used "
            "(checkpoints/step_* of its run), or start a new fine-tuning in a new folder"
        )
    return loaded, stamp


def keep_stamp(folder: str, stamp: str) -> None:
    """Note in the folder of a fine-tuning what it begins with."""
    with written(join(folder, KEPT_STAMP)) as aside:
        aside.write_text(stamp + "\n", encoding="ascii")


def kept_stamp(folder: str) -> str:
    """Return the hash of what a fine-tuning was begun with, '' where its folder does not say."""
    if not is_file(join(folder, KEPT_STAMP)):
        return ""
    with local_copy(join(folder, KEPT_STAMP)) as copy:
        return copy.read_text("ascii").strip()
