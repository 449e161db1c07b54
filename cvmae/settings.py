"""The settings of each room, with their meaning, their default and what is allowed."""

import re
from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "LAB_PATTERN",
    "MOST_CODES",
    "CheckpointConfig",
    "DataConfig",
    "DeepspeedConfig",
    "MaskConfig",
    "MaskTarget",
    "ModelConfig",
    "OptimConfig",
    "Policy",
    "ScalingConfig",
    "TrackingConfig",
    "TrainConfig",
    "at_least",
    "require",
]

MaskTarget = Literal["value", "measurement"]
Policy = Literal[
    "random",
    "variance",
    "cv",
    "cv_two_level",
    "robust_cv",
    "within_subject_cv",
    "entropy",
    "shuffled_cv",
    "inverse_cv",
    "table",
    "adaptive",
]

MOST_CODES = 65_535  # a code_index takes two bytes on its way to a batch

# Laboratory codes of both dialects of the MIMIC ETL, without specimen rows and without ICU
# chart events (item ids 22xxxx), which would leak duplicates of hidden laboratory values.
LAB_PATTERN = r"^LAB//(?!SPECIMEN_COLLECTED//|(RESULT//)?22\d{4}//)"


# Of a node of Ray; its key may have a prefix, as in ray.io/node-group=cpu.
LABEL = r"[\w.-]+(/[\w.-]+)?=[\w.-]+"


def require(condition: bool, setting: str, value: object, allowed: str) -> None:
    """Refuse a setting's value with what is allowed."""
    if not condition:
        raise ValueError(f"{setting}={value!r} is not allowed: give {allowed}")


def at_least(setting: str, value: float, bound: float) -> None:
    """Refuse a number below the bound."""
    require(value >= bound, setting, value, f"at least {bound:g}")


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
    """Parallel lanes of the order, fixed for a run: at most as many workers, which share them
    evenly where their number divides it."""

    def __post_init__(self) -> None:
        at_least("data.num_codes", self.num_codes, 1)
        require(
            self.num_codes <= MOST_CODES, "data.num_codes", self.num_codes, f"at most {MOST_CODES}"
        )
        at_least("data.min_count", self.min_count, 2)
        at_least("data.sequence_length", self.sequence_length, 2)
        at_least("data.unit_rows", self.unit_rows, 1)
        at_least("data.lanes", self.lanes, 1)
        if self.clip_quantiles is not None:
            low, high = self.clip_quantiles
            require(
                0 <= low < high <= 1,
                "data.clip_quantiles",
                self.clip_quantiles,
                "two quantiles, 0 <= low < high <= 1, or None",
            )


_MASK_RANGES = {"two_level_quantile": 1, "sharpness": 10, "uniform_share": 1, "anneal_from": 10}


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """Which values are hidden during pretraining."""

    policy: Policy = "cv"
    """What a code's mask weight follows from: statistics of train, a file, or training errors."""
    ratio: float = 0.25
    """Expected share of a sequence's values that is hidden."""
    target: MaskTarget = "value"
    """What is hidden of a measurement: its value, or its code and time as well (such runs are
    compared by probes: their tuning error is that of a harder question)."""
    two_level_quantile: float = 0.75
    """Quantile of the codes' CVs above which policy cv_two_level hides a code more often."""
    two_level_chances: tuple[float, float] = (0.8, 0.2)
    """How often cv_two_level hides the codes above that quantile, and the others."""
    two_level_ratio: Literal["matched", "published"] = "matched"
    """What these chances are: matched: weights at mask.ratio, like those of every policy;
    published: chances of independent draws, and mask.ratio is not used in training."""
    weights_file: str = ""
    """Weights of policy table: CSV with the header code,weight, or parquet with these columns."""
    sharpness: float = 1.0
    """Power to which weights are raised: 1 as the policy says, 0 as random does."""
    uniform_share: float = 0.0
    """Share of equal weights mixed into the policy's, whose mean over train counts as 1."""
    anneal_epochs: int = 0
    """First epochs over which sharpness moves linearly from mask.anneal_from to mask.sharpness,
    which the epoch after them has first: fewer than train.epochs."""
    anneal_from: float = 0.0
    """Sharpness of the first epoch, where mask.anneal_epochs is above 0."""

    def __post_init__(self) -> None:
        require(0 < self.ratio < 1, "mask.ratio", self.ratio, "a share between 0 and 1")
        for name, most in _MASK_RANGES.items():
            value = getattr(self, name)
            require(0 <= value <= most, f"mask.{name}", value, f"a number from 0 to {most}")
        chances = self.two_level_chances
        require(min(chances) > 0, "mask.two_level_chances", chances, "two chances above 0")
        require(max(chances) < 1, "mask.two_level_chances", chances, "two chances below 1")
        require(
            bool(self.weights_file) or self.policy != "table",
            "mask.weights_file",
            self.weights_file,
            "a file of weights, which mask.policy table takes them from",
        )
        at_least("mask.anneal_epochs", self.anneal_epochs, 0)
        is_plain = (self.sharpness, self.uniform_share, self.anneal_epochs) == (1, 0, 0)
        require(
            is_plain or not self.draws_independently,
            "mask.two_level_ratio",
            self.two_level_ratio,
            "matched where mask.sharpness, mask.uniform_share or mask.anneal_epochs are set, "
            "which change weights, not chances",
        )

    @property
    def draws_independently(self) -> bool:
        """Tell whether each value is drawn on its own, by its code's chance to be hidden."""
        return self.policy == "cv_two_level" and self.two_level_ratio == "published"


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
    encoder_input: Literal["visible_only", "masked_value"] = "visible_only"
    """What the encoder reads: visible measurements only (the paper's figure 3), or all, hidden
    values replaced by a learned token (the published code)."""

    def __post_init__(self) -> None:
        at_least("model.num_heads", self.num_heads, 1)
        at_least("model.width", self.width, 2 * self.num_heads)
        require(
            self.width % (2 * self.num_heads) == 0,
            "model.width",
            self.width,
            f"a multiple of 2 x model.num_heads ({2 * self.num_heads})",
        )
        at_least("model.num_layers", self.num_layers, 1)
        at_least("model.num_decoder_layers", self.num_decoder_layers, 1)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW and its learning-rate schedule."""

    lr: float = 1e-4
    """Peak learning rate, at 256 sequences a step where `lr_scaling` is not none."""
    lr_scaling: Literal["none", "sqrt", "linear"] = "none"
    """How the learning rate follows train.batch_sequences / 256: not at all, as its square root
    (the rule for Adam), or in proportion."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after warm-up: constant, or cosine down to zero at the last step."""
    warmup_steps: int = 0
    """Steps of linear warm-up; at most a tenth of the run is used."""
    weight_decay: float = 0.05
    """Decay of weight matrices (not of norms, biases and embeddings)."""
    clip_norm: float | None = 1.0
    """Largest gradient norm; None: no clipping (the paper states none)."""

    def __post_init__(self) -> None:
        require(0 < self.lr < float("inf"), "optim.lr", self.lr, "a positive number")
        at_least("optim.warmup_steps", self.warmup_steps, 0)
        at_least("optim.weight_decay", self.weight_decay, 0)
        norm = self.clip_norm
        require(norm is None or norm > 0, "optim.clip_norm", norm, "a positive number or None")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length and precision of a pretraining run."""

    strategy: Literal["ddp", "deepspeed"] = "ddp"
    """How ranks share the work: DDP keeps all state on each, DeepSpeed partitions it (ZeRO)."""
    epochs: int = 100
    """Passes over the sequences of train."""
    batch_sequences: int = 256
    """Sequences a step, over all workers (met within a few percent)."""
    accumulation_steps: int = 1
    """Micro-batches into which each worker cuts its share of a step, to save memory."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the model; auto: bf16 on a GPU, fp32 on a CPU."""
    activation_checkpointing: bool = False
    """Compute each layer's activations again in backward: less memory, a third more work."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile layers and replay steps as CUDA graphs; auto: on GPUs in bf16 under ddp."""
    num_threads: int = 1
    """CPU threads of each worker's model."""
    loss_weighting: Literal["none", "inclusion"] = "none"
    """How much a hidden value's error counts: as any other's, or by the inverse of its chance to
    be hidden (chances below 0.01 as 0.01, so that none counts more than 100 times another)."""
    visible_weight: float = 0.0
    """Weight in the loss of the mean squared error of visible values, which the decoder is then
    asked for as well; that of hidden values weighs 1."""

    def __post_init__(self) -> None:
        at_least("train.epochs", self.epochs, 1)
        at_least("train.batch_sequences", self.batch_sequences, 1)
        at_least("train.accumulation_steps", self.accumulation_steps, 1)
        at_least("train.num_threads", self.num_threads, 1)
        require(
            0 <= self.visible_weight < float("inf"),
            "train.visible_weight",
            self.visible_weight,
            "0 or a positive number",
        )


@dataclass(frozen=True, kw_only=True)
class DeepspeedConfig:
    """What `train.strategy deepspeed` partitions and where it keeps it."""

    stage: Literal[1, 2, 3] = 1
    """ZeRO stage: 1 partitions optimiser state, 2 gradients, too, 3 parameters, too."""
    offload: Literal["none", "optimizer", "parameters"] = "none"
    """What is kept in the host's memory: nothing, optimiser state, or parameters as well."""
    config_file: str = ""
    """JSON file of further DeepSpeed settings; those above and the optimiser's are not in it."""

    def __post_init__(self) -> None:
        require(
            self.offload != "parameters" or self.stage == 3,
            "deepspeed.offload",
            self.offload,
            "none or optimizer; parameters can be offloaded at deepspeed.stage 3 only",
        )


@dataclass(frozen=True, kw_only=True)
class ScalingConfig:
    """Where the work runs."""

    num_workers: int = 2
    """Training workers on Ray; 0: everything in the calling process, without Ray."""
    min_workers: int = 0
    """Workers with which a run goes on after a node is lost, growing again when it can; 0: it
    waits for all."""
    use_gpu: bool = False
    """Give each Ray worker a GPU (in the calling process a GPU is used where there is one)."""
    cpus_per_worker: float = 0.25
    """CPUs that Ray reserves for a worker; Ray Data needs at least one whole CPU beside them."""
    max_failures: int = 3
    """Times that lost workers are replaced before the run gives up."""
    placement: Literal["pack", "spread"] = "pack"
    """Where Ray puts workers while there is a choice: on few nodes, or on many."""
    worker_labels: tuple[str, ...] = ()
    """Labels, each as KEY=VALUE, of the nodes that workers run on (those of `ray start --labels`);
    empty: any node."""
    data_labels: tuple[str, ...] = ()
    """Likewise of the nodes on which Ray Data reads."""

    def __post_init__(self) -> None:
        at_least("scaling.num_workers", self.num_workers, 0)
        least, most = self.min_workers, self.num_workers
        allowed = f"0 to scaling.num_workers ({most})"
        require(0 <= least <= most, "scaling.min_workers", least, allowed)
        require(
            self.cpus_per_worker > 0, "scaling.cpus_per_worker", self.cpus_per_worker, "above 0"
        )
        at_least("scaling.max_failures", self.max_failures, 0)
        for name in ("worker_labels", "data_labels"):
            labels = getattr(self, name)
            keys = [label.partition("=")[0] for label in labels]
            for label in labels:
                require(
                    bool(re.fullmatch(LABEL, label)) and keys.count(label.partition("=")[0]) == 1,
                    f"scaling.{name}",
                    label,
                    "each KEY=VALUE of letters, digits and ._-/, and a key once",
                )


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When checkpoints are written and how many are kept."""

    every_steps: int = 0
    """Steps between checkpoints within an epoch; 0: only at the end of each epoch."""
    keep: int = 2
    """Newest checkpoints kept, beside the one of least tuning error."""

    def __post_init__(self) -> None:
        at_least("checkpoint.every_steps", self.every_steps, 0)
        at_least("checkpoint.keep", self.keep, 1)


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where metrics go."""

    uri: str = field(default="", repr=False)  # it may hold a password
    """MLflow tracking URI; empty: MLFLOW_TRACKING_URI, else SQLite in the output folder. With
    scaling.num_workers=0 metrics go to metrics.parquet there only, without MLflow."""
    experiment: str = "cvmae"
    """MLflow experiment."""
