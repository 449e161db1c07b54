"""Every setting of every verb: one frozen tree, three presets, one parser.

A preset, a saved ``config.yaml``, the command line and a sweep's trial all become
``--dotted.name value`` tokens for the same parser, so that types, ranges and spelling are
checked alike everywhere.
"""

import contextlib
import difflib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import tyro
import yaml

from cvmae.settings import (
    CheckpointConfig,
    DataConfig,
    DeepspeedConfig,
    MaskConfig,
    ModelConfig,
    OptimConfig,
    ScalingConfig,
    TrackingConfig,
    TrainConfig,
    require,
)
from cvmae.settings_of_comparison import EvaluateConfig, SweepConfig
from cvmae.settings_of_use import FinetuneConfig, InferConfig

__all__ = [
    "PRESETS",
    "Config",
    "flatten",
    "override",
    "parse",
    "read_config",
    "resolved_path",
    "without_password",
    "write_config",
]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of cvmae; `--base PRESET|FILE` chooses the defaults."""

    output_dir: str = ""
    """New folder for everything that the run writes (shared by all nodes of a cluster)."""
    resume: str = ""
    """Folder of a run to continue; its own settings are the defaults. The same as --output_dir: the
    run begins if it has not yet."""
    resume_allow: tuple[str, ...] = ()
    """What may differ from the run that is continued: data, statistics, or names of settings."""
    seed: int = 0
    """Seed of initial weights, order and masks."""
    data: DataConfig = field(default_factory=DataConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    deepspeed: DeepspeedConfig = field(default_factory=DeepspeedConfig)
    scaling: ScalingConfig = field(default_factory=ScalingConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    infer: InferConfig = field(default_factory=InferConfig)

    def __post_init__(self) -> None:
        num_workers = self.scaling.num_workers
        require(0 <= self.seed < 2**32, "seed", self.seed, "a number from 0 to 2^32 - 1")
        if self.mask.target == "measurement":
            require(
                self.model.encoder_input == "visible_only",
                "model.encoder_input",
                self.model.encoder_input,
                "visible_only where mask.target is measurement: the encoder would read the codes "
                "and times that are to be restored",
            )
            require(
                self.train.visible_weight == 0,
                "train.visible_weight",
                self.train.visible_weight,
                "0 where mask.target is measurement: visible values are asked for by code and time",
            )
        require(
            self.train.strategy == "ddp" or num_workers > 0,
            "train.strategy",
            self.train.strategy,
            "ddp where scaling.num_workers is 0: DeepSpeed works among Ray's workers",
        )
        require(
            self.train.strategy == "ddp" or self.scaling.min_workers in (0, num_workers),
            "scaling.min_workers",
            self.scaling.min_workers,
            f"0 where train.strategy is deepspeed: it keeps its {num_workers} workers, and goes on "
            "with another number by --resume and --scaling.num_workers",
        )


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
        raise ValueError(f"settings are not allowed: {_reason(report.getvalue())}") from None


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return every setting under its dotted name, `tracking.uri` as `without_password` has it."""
    flat: dict[str, Any] = {}
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            flat |= flatten(value, f"{prefix}{item.name}.")
        else:
            flat[f"{prefix}{item.name}"] = value
    if "tracking.uri" in flat:  # what is written down and logged must not hold a password
        flat["tracking.uri"] = without_password(flat["tracking.uri"])
    return flat


def without_password(uri: str) -> str:
    """Return a URI as it may be written down and logged: without user, password and query.

    Passwords may hold the characters that end them: all up to the last `@` is left out, and where
    that follows a `?`, which begins a query or stands in a password, all but the scheme.

    Example:
        >>> without_password("postgresql+psycopg2://me:p/w@host/db?sslpassword=secret")
        'postgresql+psycopg2://host/db'
    """
    if re.match(r"(sqlite(\+\w+)?|file):///|file:(?!//)|[^:]*$", uri):  # a path, which has none
        return uri
    found = re.match(r"\w[\w+.-]*://", uri)
    scheme = found[0] if found else ""
    place, _, query = uri.removeprefix(scheme).partition("?")
    return scheme if "@" in query else scheme + place.rpartition("@")[2]


def write_config(config: Config, path: str | Path) -> None:
    """Write the resolved settings as YAML, one dotted name a line."""
    flat = {k: v for k, v in flatten(config).items() if k not in ("resume", "resume_allow")}
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
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is not valid YAML in UTF-8: {reason}") from None
    if not isinstance(flat, dict):
        raise ValueError(f"{path} holds no settings: expected lines like `mask.policy: cv`")
    known = flatten(Config())
    if unknown := [str(name) for name in flat if name not in known]:
        near = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0.8)
        hint = f", perhaps {near[0]}" if near else ""
        raise ValueError(
            f"{path}: {unknown[0]} is no setting of this version of cvmae{hint}: mend or remove "
            "the line, or use the version that wrote it"
        )
    try:
        return override(Config(), flat)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


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
        description=f"{Config.__doc__} Presets: {', '.join(PRESETS)} (default paper). `--dry_run` "
        "among the flags prints what would be asked for and written, and does nothing.",
    )


def _reason(report: str) -> str:
    """Return what a report of the parser says is wrong, without its title, frame and help."""
    parts = [list(lines) for said, lines in groupby(report.splitlines(), _says_something) if said]
    words = " ".join(parts[1] if len(parts) > 1 else parts[0] if parts else [])
    words = " ".join(re.sub("[\u2500-\u257f]", " ", words).split())  # the frame
    return re.sub(r"^Error parsing \w[\w.]*: ", "", words)


def _says_something(line: str) -> bool:
    return bool(re.search(r"\w", line))


def _tokens(changes: Mapping[str, Any]) -> Iterator[str]:
    for name, value in changes.items():
        if isinstance(value, str):
            yield f"--{name}={value}"  # in one piece: it may begin with a dash
        else:
            yield f"--{name}"
            yield from map(str, value if isinstance(value, (list, tuple)) else [value])
