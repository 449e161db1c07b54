"""DeepSpeed's own settings: ours in its words, and the rest from the user's file."""

import json
import logging
from pathlib import Path
from typing import Any

import torch

from cvmae.config import Config
from cvmae.storage.folders import is_file, join, local_copy, written

__all__ = ["deepspeed_config", "keep_config_file"]

logger = logging.getLogger("cvmae")

# Set from our own settings; a file that says them again would say it in vain.
OWNED = (
    "bf16",
    "fp16",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "scheduler",
    "torch_autocast",
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
)
OWNED_OF_ZERO = ("offload_optimizer", "offload_param", "stage")


def deepspeed_config(config: Config, *, bf16: bool) -> dict[str, Any]:
    """Return DeepSpeed's own settings: ours, and the rest from `deepspeed.config_file`.

    Raises:
        ValueError: The file is no JSON object, or says what our settings say.
        FileNotFoundError: There is no such file.
    """
    rest = _read(config.deepspeed.config_file) if config.deepspeed.config_file else {}
    zero: dict[str, Any] = {**rest.pop("zero_optimization", {}), "stage": config.deepspeed.stage}
    if config.deepspeed.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if config.deepspeed.offload == "parameters":
        zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "zero_force_ds_cpu_optimizer": False,  # torch's AdamW serves offloaded state, too
        **rest,
        # Batches are ours, so that sizes in samples mean nothing here.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": config.train.accumulation_steps,
        "gradient_clipping": config.optim.clip_norm or 0.0,
        "torch_autocast": {"enabled": bf16, "dtype": "bfloat16"},
        "zero_optimization": zero,
    }


def keep_config_file(config: Config) -> None:
    """Keep a copy of `deepspeed.config_file` in the run folder; warn where another was kept."""
    place = join(config.output_dir, "deepspeed.json")
    settings = _read(config.deepspeed.config_file) if config.deepspeed.config_file else {}
    before = None
    if is_file(place):
        with local_copy(place) as path:
            before = json.loads(path.read_text(encoding="utf-8"))
    if before is not None and before != settings:
        logger.warning(
            "deepspeed.config_file=%r says other than before in %s, which may change the updates "
            "from here on; what it said is replaced in deepspeed.json",
            *(config.deepspeed.config_file, config.output_dir),
        )
    if before != settings:
        with written(place) as path:
            path.write_text(json.dumps(settings, indent=1), encoding="utf-8")


def _read(path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"deepspeed.config_file={path!r} does not exist")
    try:
        settings: Any = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"deepspeed.config_file={path!r} is no JSON: {error}") from None
    if not isinstance(settings, dict):
        raise ValueError(f"deepspeed.config_file={path!r} holds no JSON object: write {{...}}")
    of_zero = settings.get("zero_optimization", {})
    twice = [name for name in OWNED if name in settings]
    twice += [f"zero_optimization.{name}" for name in OWNED_OF_ZERO if name in of_zero]
    if twice:
        raise ValueError(
            f"deepspeed.config_file={path!r} sets {', '.join(twice)}: these follow from train.*, "
            "optim.* and deepspeed.*; take them out of the file"
        )
    return settings
