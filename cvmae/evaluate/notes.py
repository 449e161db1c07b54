"""What a reader must know first: models trained or chosen otherwise than figures would tell."""

from collections.abc import Mapping, Sequence
from typing import Any

from meds.schema import held_out_split, tuning_split

from cvmae.config import Config
from cvmae.evaluate.contestants import Contestant, not_compared
from cvmae.evaluate.convergence import SCHEDULE_NOTE, History
from cvmae.evaluate.models import load
from cvmae.evaluate.sweeps import sweep_notes
from cvmae.statistics.code_statistics import CodeStatistics

__all__ = ["reading_notes"]


def reading_notes(
    contestants: Sequence[Contestant],
    reference: Contestant,
    statistics: CodeStatistics,
    histories: Mapping[str, Sequence[History]],
    config: Config,
) -> list[str]:
    """Return a sentence for each thing that the figures alone would hide.

    Args:
        contestants: All that are given.
        reference: The one that others are compared with here.
        statistics: That the errors are in.
        histories: Name -> history of each of its runs.
        config: Of the evaluation.
    """
    pretrained = [c for c in contestants if c.which == "last" and c.serves != "predictions"]
    trained = [contestant for contestant in pretrained if contestant.serves == "reconstruction"]
    notes = [
        *_chosen(config),
        *(f"{name}: {why}." for name, why in not_compared(contestants).items()),
        *sweep_notes(config.evaluate.checkpoints),
        *_unlike(pretrained, reference),
        *_elsewhere(trained, config),
        *_statistics(trained, statistics, reference, config),
        *_lengths(histories),
    ]
    schedules = {load(contestant, "cpu").config.optim.schedule for contestant in trained}
    if "cosine" in schedules and len({contestant.name for contestant in trained}) > 1:
        notes.append(SCHEDULE_NOTE)
    return list(dict.fromkeys(notes))


def _chosen(config: Config) -> list[str]:
    """Say where the subjects are those on which models were chosen."""
    if config.evaluate.split != tuning_split:
        return []
    return [
        f"Figures are of evaluate.split={tuning_split}, by whose error best weights, and settings "
        "of sweeps, are chosen: they are optimistic, most of all for whoever was chosen among "
        f"many. Claims rest on {held_out_split}."
    ]


def _unlike(trained: Sequence[Contestant], reference: Contestant) -> list[str]:
    """Say where models were not trained alike."""
    expected, notes = _circumstances(reference), []
    for contestant in trained:
        own = _circumstances(contestant)
        differing = [
            f"{name} {own[name]} and {value}" if isinstance(value, int) else name
            for name, value in expected.items()
            if own[name] != value
        ]
        if differing:
            notes.append(
                f"{contestant.name} and {reference.name} were not trained alike "
                f"({', '.join(differing)} differ), so the policy alone does not explain "
                "their difference."
            )
    return notes


def _circumstances(contestant: Contestant) -> dict[str, Any]:
    """Return what should be the same for models whose policies are compared."""
    loaded = load(contestant, "cpu")
    config = loaded.config
    return {
        "data.sequence_length": config.data.sequence_length,
        "data.clip_quantiles": config.data.clip_quantiles,
        "mask.ratio": config.mask.ratio,
        "model": config.model,
        "optim": config.optim,
        "train.batch_sequences": config.train.batch_sequences,
        "the number of steps": loaded.progress.global_step,
        "the training data": loaded.fitted.fingerprint,
    }


def _elsewhere(trained: Sequence[Contestant], config: Config) -> list[str]:
    """Say which models meet another share of hidden values, or other windows, than in training."""
    notes = []
    for contestant in trained:
        own = load(contestant, "cpu").config
        pairs = (
            ("mask.ratio", own.mask.ratio, "evaluate.mask_ratio", config.evaluate.mask_ratio),
            (
                "data.sequence_length",
                own.data.sequence_length,
                "evaluate.sequence_length",
                config.evaluate.sequence_length,
            ),
        )
        notes += [
            f"{contestant.name} was trained with {name}={value} and is evaluated with "
            f"{asked}={given}."
            for name, value, asked, given in pairs
            if value != given
        ]
    return notes


def _statistics(
    trained: Sequence[Contestant],
    statistics: CodeStatistics,
    reference: Contestant,
    config: Config,
) -> list[str]:
    """Say whose statistics the errors are in, where models have others."""
    others = [c.name for c in trained if load(c, "cpu").fitted.statistics.differences(statistics)]
    if not others:
        return []
    given = config.evaluate.statistics
    whose = f"evaluate.statistics={given}" if given else f"{reference.name} ({reference.path})"
    return [
        f"Errors are on the means, deviations and clipping of {whose}; other statistics were "
        f"fitted for {', '.join(dict.fromkeys(others))}, whose predictions are translated."
    ]


def _lengths(histories: Mapping[str, Sequence[History]]) -> list[str]:
    """Say whose runs are not equally long: the curve of a name ends with its shortest run."""
    return [
        f"Runs of {name} have {min(map(len, runs))} to {max(map(len, runs))} epochs: their "
        "learning curve ends with the shortest, their scores are of each run's end."
        for name, runs in histories.items()
        if len(set(map(len, runs))) > 1
    ]
