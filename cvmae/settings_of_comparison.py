"""The settings of the verbs that compare models: `sweep` trains them, `evaluate` examines them."""

from dataclasses import dataclass
from typing import Literal

from cvmae.settings import Policy, at_least, require

__all__ = ["EvaluateConfig", "SweepConfig"]


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """The grid of a sweep: every policy x epochs x axes x seed."""

    policies: tuple[Policy, ...] = ("random", "variance", "cv")
    """Masking policies to compare."""
    epochs: tuple[int, ...] = ()
    """Lengths of training to compare; empty: train.epochs."""
    seeds: tuple[int, ...] = ()
    """Seeds of each cell of the grid; empty: seed."""
    axes: tuple[str, ...] = ()
    """Further settings to vary, each as NAME=VALUE,VALUE (optim.lr=1e-3,5e-4)."""
    scheduler: Literal["none", "asha"] = "none"
    """What stops trials early: nothing, or asha (on Ray: tuning error against that of other trials
    of the same policy and length); no claim about policies follows from a sweep with one."""
    max_trials: int = 0
    """Trials after which no other is begun, those of earlier attempts included; 0: no limit."""
    max_epochs: int = 0
    """Epochs, summed over trials, beyond which no other trial is begun; 0: no limit."""
    max_hours: float = 0.0
    """Hours of this attempt after which no other trial is begun; 0: no limit."""
    max_concurrent: int = 0
    """Trials at a time; 0: as many as the resources hold."""

    def __post_init__(self) -> None:
        require(len(self.policies) > 0, "sweep.policies", self.policies, "at least one policy")
        for name in ("max_trials", "max_epochs", "max_hours", "max_concurrent"):
            at_least(f"sweep.{name}", getattr(self, name), 0)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What is evaluated, on which split and which hidden values."""

    checkpoints: tuple[str, ...] = ()
    """Models as NAME=RUN_DIR (or a checkpoint), or LABEL=SWEEP_DIR; a repeated name means seeds."""
    split: Literal["held_out", "tuning"] = "held_out"
    """Split to evaluate on; look at held_out once."""
    seed: int = 20_250
    """Seed of the uniform evaluation mask, the same for every model."""
    mask_ratio: float = 0.25
    """Share of a subject's values that is hidden, whatever mask.ratio models were trained with."""
    sequence_length: int = 512
    """Longest window that models and baselines are shown, whatever they were trained with."""
    statistics: str = ""
    """Folder of fit_statistics that defines vocabulary, clipping and errors; empty: a model's."""
    min_scored: int = 100
    """Scored values that a code needs to enter macro averages and comparisons."""
    bootstrap_samples: int = 1000
    """Resamples of subjects for intervals."""
    leave_one_out: int = 100_000
    """Values that are hidden one at a time, at most: one of each subject and code; 0: none."""
    labels: str = ""
    """Folder of MEDS label sets, one a task, for probes of the frozen encoders; empty: none."""

    def __post_init__(self) -> None:
        for entry in self.checkpoints:
            name, separator, path = entry.partition("=")
            require(
                bool(name and separator and path), "evaluate.checkpoints", entry, "NAME=RUN_DIR"
            )
        ratio = self.mask_ratio
        require(0 < ratio < 1, "evaluate.mask_ratio", ratio, "a share between 0 and 1")
        at_least("evaluate.sequence_length", self.sequence_length, 2)
        at_least("evaluate.min_scored", self.min_scored, 2)
        at_least("evaluate.bootstrap_samples", self.bootstrap_samples, 1)
        at_least("evaluate.leave_one_out", self.leave_one_out, 0)
