"""Every setting of every verb: one frozen tree, three presets, one parser.

A preset, a saved ``config.yaml``, the command line and a sweep's trial all become
``--dotted.name value`` tokens for the same parser, so that types, ranges and spelling are
checked alike everywhere.
"""

import contextlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
import yaml

__all__ = [
    "PRESETS",
    "Config",
    "flatten",
    "override",
    "parse",
    "read_config",
    "resolved_path",
    "write_config",
]

Policy = Literal["random", "variance", "cv"]

# Laboratory codes of both dialects of the MIMIC ETL, without specimen rows and without ICU
# chart events (item ids 22xxxx), which would leak duplicates of hidden laboratory values.
LAB_PATTERN = r"^LAB//(?!SPECIMEN_COLLECTED//|(RESULT//)?22\d{4}//)"


def _require(condition: bool, setting: str, value: object, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{setting}={value!r} is not allowed: give {allowed}")


def _at_least(setting: str, value: float, bound: float) -> None:
    _require(value >= bound, setting, value, f"at least {bound:g}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which measurements the model sees, and how they are cut into sequences and steps."""

    root: str = ""
    """Folder of a MEDS data set (holds data/ and metadata/subject_splits.parquet)."""
    statistics: str = ""
    """Folder written by fit_statistics; empty: pretrain fits them itself."""
    code_pattern: str = LAB_PATTERN
    """Regular expression that a MEDS code must match to enter the vocabulary."""
    codes_file: str = ""
    """Text file that fixes the vocabulary: a line per entry, several codes to one by tabs."""
    num_codes: int = 100
    """Size of the vocabulary: the most frequent matching codes on train."""
    min_count: int = 25
    """Values a code needs on train to enter the vocabulary."""
    clip_quantiles: tuple[float, float] | None = (0.001, 0.999)
    """Train quantiles to which values are clipped before moments are taken; None: as published."""
    sequence_length: int = 512
    """Longest sequence; a longer subject is cut into windows of near-equal length."""
    crop: bool = False
    """Take one random window per subject and epoch instead of all windows."""
    unit_rows: int = 250_000
    """Rows that one read covers, about; a subject is never split."""
    lanes: int = 8
    """Parallel lanes of the order, fixed for a run; any number of workers that divides it works."""

    def __post_init__(self) -> None:
        _at_least("data.num_codes", self.num_codes, 1)
        _require(self.num_codes <= 65_535, "data.num_codes", self.num_codes, "at most 65535")
        _at_least("data.min_count", self.min_count, 2)
        _at_least("data.sequence_length", self.sequence_length, 2)
        _at_least("data.unit_rows", self.unit_rows, 1)
        _at_least("data.lanes", self.lanes, 1)
        if self.clip_quantiles is not None:
            low, high = self.clip_quantiles
            _require(
                0 <= low < high <= 1,
                "data.clip_quantiles",
                self.clip_quantiles,
                "two quantiles, 0 <= low < high <= 1, or None",
            )


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """Which values are hidden during pretraining."""

    policy: Policy = "cv"
    """How a code's mask weight follows from its statistics on train."""
    ratio: float = 0.25
    """Expected share of a sequence's values that is hidden."""

    def __post_init__(self) -> None:
        _require(0 < self.ratio < 1, "mask.ratio", self.ratio, "a share between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of the value-only masked autoencoder."""

    width: int = 256
    """Embedding dimension of encoder and decoder."""
    num_layers: int = 8
    """Encoder layers."""
    num_heads: int = 8
    """Attention heads."""
    num_decoder_layers: int = 2
    """Cross-attention decoder layers (depth not stated in the paper)."""
    encoder_input: Literal["visible_only"] = "visible_only"
    """What the encoder reads: visible measurements only (the paper's figure 3)."""

    def __post_init__(self) -> None:
        _at_least("model.num_heads", self.num_heads, 1)
        _at_least("model.width", self.width, 2 * self.num_heads)
        _require(
            self.width % (2 * self.num_heads) == 0,
            "model.width",
            self.width,
            f"a multiple of 2 x model.num_heads ({2 * self.num_heads})",
        )
        _at_least("model.num_layers", self.num_layers, 1)
        _at_least("model.num_decoder_layers", self.num_decoder_layers, 1)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW and its learning-rate schedule."""

    lr: float = 1e-4
    """Peak learning rate."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after warm-up: constant, or cosine down to zero at the last step."""
    warmup_steps: int = 0
    """Steps of linear warm-up; at most a tenth of the run is used."""
    weight_decay: float = 0.05
    """Decay of weight matrices (not of norms, biases and embeddings)."""
    clip_norm: float | None = 1.0
    """Largest gradient norm; None: no clipping (the paper states none)."""

    def __post_init__(self) -> None:
        _require(0 < self.lr < float("inf"), "optim.lr", self.lr, "a positive number")
        _at_least("optim.warmup_steps", self.warmup_steps, 0)
        _at_least("optim.weight_decay", self.weight_decay, 0)
        _require(
            self.clip_norm is None or self.clip_norm > 0,
            "optim.clip_norm",
            self.clip_norm,
            "a positive number or None",
        )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length and precision of a pretraining run."""

    epochs: int = 100
    """Passes over the sequences of train."""
    batch_sequences: int = 256
    """Sequences a step, over all workers (met within a few percent)."""
    accumulation_steps: int = 1
    """Micro-batches into which each worker cuts its share of a step, to save memory."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the model; auto: bf16 on a GPU, fp32 on a CPU."""
    num_threads: int = 1
    """CPU threads of each worker's model."""

    def __post_init__(self) -> None:
        _at_least("train.epochs", self.epochs, 1)
        _at_least("train.batch_sequences", self.batch_sequences, 1)
        _at_least("train.accumulation_steps", self.accumulation_steps, 1)
        _at_least("train.num_threads", self.num_threads, 1)


@dataclass(frozen=True, kw_only=True)
class ScalingConfig:
    """Where the work runs."""

    num_workers: int = 2
    """Training workers on Ray; 0: everything in the calling process, without Ray."""
    use_gpu: bool = False
    """Give each Ray worker a GPU (in the calling process a GPU is used where there is one)."""
    cpus_per_worker: float = 0.25
    """CPUs that Ray reserves for a worker; Ray Data needs at least one whole CPU beside them."""
    max_failures: int = 3
    """Times that lost workers are replaced before the run gives up."""

    def __post_init__(self) -> None:
        _at_least("scaling.num_workers", self.num_workers, 0)
        _require(
            self.cpus_per_worker > 0, "scaling.cpus_per_worker", self.cpus_per_worker, "above 0"
        )
        _at_least("scaling.max_failures", self.max_failures, 0)


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When checkpoints are written and how many are kept."""

    every_steps: int = 0
    """Steps between checkpoints within an epoch; 0: only at the end of each epoch."""
    keep: int = 2
    """Newest checkpoints kept beside `best`."""

    def __post_init__(self) -> None:
        _at_least("checkpoint.every_steps", self.every_steps, 0)
        _at_least("checkpoint.keep", self.keep, 1)


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where metrics go."""

    uri: str = ""
    """MLflow tracking URI; empty: MLFLOW_TRACKING_URI, else SQLite in the output folder."""
    experiment: str = "cvmae"
    """MLflow experiment."""


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """The grid of a sweep: every policy x epochs x seed."""

    policies: tuple[Policy, ...] = ("random", "variance", "cv")
    """Masking policies to compare."""
    epochs: tuple[int, ...] = ()
    """Lengths of training to compare; empty: train.epochs."""
    seeds: tuple[int, ...] = ()
    """Seeds of each cell of the grid; empty: seed."""
    max_concurrent: int = 0
    """Trials at a time; 0: as many as the resources hold."""

    def __post_init__(self) -> None:
        _require(len(self.policies) > 0, "sweep.policies", self.policies, "at least one policy")
        _at_least("sweep.max_concurrent", self.max_concurrent, 0)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What is evaluated, on which split and which hidden values."""

    checkpoints: tuple[str, ...] = ()
    """Models to compare as NAME=RUN_DIR (or a checkpoint); a repeated name means several seeds."""
    split: Literal["held_out", "tuning"] = "held_out"
    """Split to evaluate on; look at held_out once."""
    seed: int = 20_250
    """Seed of the uniform evaluation mask, the same for every model."""
    min_scored: int = 100
    """Scored values that a code needs to enter macro averages and comparisons."""
    bootstrap_samples: int = 1000
    """Resamples of subjects for intervals."""

    def __post_init__(self) -> None:
        for entry in self.checkpoints:
            name, separator, path = entry.partition("=")
            _require(
                bool(name and separator and path), "evaluate.checkpoints", entry, "NAME=RUN_DIR"
            )
        _at_least("evaluate.min_scored", self.min_scored, 2)
        _at_least("evaluate.bootstrap_samples", self.bootstrap_samples, 1)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of cvmae; `--base PRESET|FILE` chooses the defaults."""

    output_dir: str = ""
    """New folder for everything that the run writes (shared by all nodes of a cluster)."""
    resume: str = ""
    """Folder of a run to continue; its own settings are the defaults."""
    seed: int = 0
    """Seed of initial weights, order and masks."""
    data: DataConfig = field(default_factory=DataConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    scaling: ScalingConfig = field(default_factory=ScalingConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**32, "seed", self.seed, "a number from 0 to 2^32 - 1")


PRESETS: dict[str, Config] = {
    # For tests: seconds on a CPU.
    "tiny": Config(
        model=ModelConfig(width=32, num_layers=2, num_heads=2, num_decoder_layers=1),
        optim=OptimConfig(lr=1e-3, schedule="cosine", warmup_steps=50),
        train=TrainConfig(epochs=2, batch_sequences=16),
    ),
    # For a CPU: a quarter of an hour a policy on half a million measurements.
    "small": Config(
        model=ModelConfig(width=64, num_layers=4, num_heads=4, num_decoder_layers=1),
        optim=OptimConfig(lr=1e-3, schedule="cosine", warmup_steps=300),
        train=TrainConfig(epochs=20, batch_sequences=64),
    ),
    # As published, except the decoder's depth and the clipping of gradients, which the paper
    # does not state, and the clipping of values (data.clip_quantiles).
    "paper": Config(),
}

MARKERS = (tyro.conf.FlagConversionOff, tyro.conf.AvoidSubcommands)


def override(config: Config, changes: Mapping[str, Any]) -> Config:
    """Return a copy with dotted names changed, e.g. ``{"mask.policy": "random"}``.

    Raises:
        ValueError: A name or value is not allowed; the message says what is.
    """
    report = io.StringIO()
    try:
        with contextlib.redirect_stdout(report), contextlib.redirect_stderr(report):
            return parse(config, list(_tokens(changes)))
    except SystemExit:  # tyro ends the process; a worker must see an exception instead
        raise ValueError(f"invalid settings {dict(changes)}:\n{report.getvalue()}") from None


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return every setting under its dotted name, `tracking.uri` without user and password."""
    flat: dict[str, Any] = {}
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            flat |= flatten(value, f"{prefix}{item.name}.")
        else:
            flat[f"{prefix}{item.name}"] = value
    if "tracking.uri" in flat:  # what is written down and logged must not hold a password
        flat["tracking.uri"] = re.sub(r"//[^/@]*@", "//", flat["tracking.uri"])
    return flat


def write_config(config: Config, path: str | Path) -> None:
    """Write the resolved settings as YAML, one dotted name a line."""
    flat = {name: value for name, value in flatten(config).items() if name != "resume"}
    plain = {name: list(v) if isinstance(v, tuple) else v for name, v in flat.items()}
    Path(path).write_text(yaml.safe_dump(plain, sort_keys=False), encoding="utf-8")


def read_config(path: str | Path) -> Config:
    """Read settings that `write_config` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not YAML of dotted names, or a value is not allowed.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path} is neither a preset ({', '.join(PRESETS)}) nor a config.yaml of a run"
        )
    try:
        flat = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is not valid YAML: {reason}") from None
    if not isinstance(flat, dict):
        raise ValueError(f"{path} holds no settings: expected lines like `mask.policy: cv`")
    return override(Config(), flat)


def resolved_path(path: str) -> str:
    """Make a local path absolute (Ray workers run elsewhere); leave URIs alone."""
    return path if not path or "://" in path else str(Path(path).expanduser().resolve())


def parse(default: Config, tokens: Sequence[str]) -> Config:
    """Return `default` changed by command-line tokens; exits with a message on wrong ones."""
    return tyro.cli(
        Config,
        default=default,
        args=list(tokens),
        config=MARKERS,
        use_underscores=True,
        description=f"{Config.__doc__} Presets: {', '.join(PRESETS)} (default paper).",
    )


def _tokens(changes: Mapping[str, Any]) -> Iterator[str]:
    for name, value in changes.items():
        if isinstance(value, str):
            yield f"--{name}={value}"  # in one piece: it may begin with a dash
        else:
            yield f"--{name}"
            yield from map(str, value if isinstance(value, (list, tuple)) else [value])
