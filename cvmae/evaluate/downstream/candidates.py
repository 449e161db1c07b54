"""Every way to predict a task: features of each model, of untrained ones and by hand, fitted."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from meds.schema import train_split, tuning_split

from cvmae.arrays import Bools, Float32s, Floats, Ints
from cvmae.checkpoint import Loaded
from cvmae.evaluate.contestants import HAND_MADE, UNTRAINED, Contestant, of_reference
from cvmae.evaluate.downstream.hand_features import hand_features
from cvmae.evaluate.downstream.probes import Learner, Probe, fit_boosting, fit_linear
from cvmae.evaluate.downstream.results import MethodKind
from cvmae.evaluate.models import load
from cvmae.infer.embed import POOLINGS, Embeddings, Pooling, embed_tasks, untrained
from cvmae.meds.dataset import Dataset
from cvmae.meds.labels import Labels
from cvmae.settings import ScalingConfig
from cvmae.statistics.code_statistics import CodeStatistics

__all__ = ["Candidate", "Reading", "add_finetuned", "fit_candidates"]

# Shape letters: L labels, D features, K probes of a candidate.

PUBLISHED: Pooling = "mean"  # features of the paper's probes
BY_HAND, BESIDE = "hand-made", "mean + hand-made"
FINETUNED = "learnt with labels"
MOST_UNTRAINED = 3  # seeds

logger = logging.getLogger("cvmae")


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """How a data set is read."""

    dataset: Dataset
    statistics: CodeStatistics  # scale and clipping of hand-made features
    scaling: ScalingConfig
    unit_rows: int
    device: str  # where models are, in this process


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """One way to predict; several probes are seeds of it, but for those of one pretraining."""

    method: str
    kind: MethodKind
    features: str
    learner: Learner
    probes: list[Probe] = field(default_factory=list)

    @property
    def tuning_loss(self) -> float:
        """Return the mean over seeds."""
        return float(np.mean([probe.tuning_loss for probe in self.probes]))

    @property
    def num_seeds(self) -> int | None:
        """Return how many runs there are that share no training; None: nothing is random."""
        return None if self.kind == "hand-made" else len(set(self.seed_K.tolist()))

    @property
    def seed_K(self) -> Ints:
        """Return of which seed each probe is: fine-tunings of one pretraining are of one."""
        began = [probe.begun_with or f"own {k}" for k, probe in enumerate(self.probes)]
        number = {name: n for n, name in enumerate(dict.fromkeys(began))}
        return np.array([number[name] for name in began])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fit:
    """What every probe of a task is fitted to."""

    outcome_L: Floats
    train_L: Bools
    tuning_L: Bools
    boolean: bool

    def linear(self, features_LD: Float32s) -> Probe:
        return fit_linear(
            features_LD, self.outcome_L, self.train_L, self.tuning_L, boolean=self.boolean
        )

    def boosting(self, features_LD: Float32s, seed: int) -> Probe:
        return fit_boosting(
            features_LD,
            self.outcome_L,
            self.train_L,
            self.tuning_L,
            boolean=self.boolean,
            seed=seed,
        )


def fit_candidates(
    labels: Labels,
    outcome_L: Floats,
    within: Mapping[str, Bools],
    contestants: Sequence[Contestant],
    reading: Reading,
    *,
    seed: int,
) -> list[Candidate]:
    """Fit every probe of a task: of each model, of an untrained one, and on hand-made features.

    Args:
        labels: Of the task.
        outcome_L: What is fitted: the labels' values, numbers less their mean on train.
        within: Which labels are of each split.
        contestants: The models with an encoder to read; repeated names are seeds. The untrained
            model has the settings of the first that restores values, if one does.
        reading: How the data set is read.
        seed: Of what is random in trees.
    """
    fit = _Fit(
        outcome_L=outcome_L,
        train_L=within[train_split],
        tuning_L=within[tuning_split],
        boolean=labels.kind == "boolean",
    )
    hand_LD = hand_features(
        reading.dataset,
        labels,
        reading.statistics,
        scaling=reading.scaling,
        unit_rows=reading.unit_rows,
    )
    found: dict[tuple[str, str], Candidate] = {}
    trees = fit.boosting(hand_LD, seed)
    for probe in (fit.linear(hand_LD), trees):
        key = (HAND_MADE, probe.learner)
        found[key] = _candidate(HAND_MADE, "hand-made", BY_HAND, probe)
    base = load(of_reference(contestants)[0], reading.device)
    names = [contestant.name for contestant in contestants]
    num_untrained = min(MOST_UNTRAINED, max(map(names.count, names)))
    asked: list[tuple[str, MethodKind, str, str, Loaded]] = [
        (c.name, "model", c.path, c.stamp, load(c, reading.device)) for c in contestants
    ]
    asked += [(UNTRAINED, "untrained", "", "", untrained(base, n)) for n in range(num_untrained)]
    embedded = _embed([model for *_, model in asked], labels, reading)
    for (method, kind, path, stamp, _), own in zip(asked, embedded, strict=True):
        logger.info("probes of %s (%s)", method, labels.name)
        for features, features_LD in _features(own, hand_LD).items():
            probe = replace(fit.linear(features_LD), checkpoint=path, stamp=stamp)
            _add_seed(found, method, kind, features, probe)
    return list(found.values())


def add_finetuned(candidates: list[Candidate], runs: Sequence[tuple[str, Probe]]) -> None:
    """Add what fine-tuned runs have predicted; runs of one name are its seeds."""
    found: dict[tuple[str, str], Candidate] = {}
    for name, probe in runs:
        _add_seed(found, name, "fine-tuned", FINETUNED, probe)
    candidates += found.values()


def _embed(models: Sequence[Loaded], labels: Labels, reading: Reading) -> list[Embeddings]:
    """Embed the labels by every model, in one pass over the data for all that are asked alike."""
    # A model that was not told codes cannot be asked for them.
    asked = [POOLINGS if model.model.target == "value" else (PUBLISHED,) for model in models]
    embedded: dict[int, Embeddings] = {}
    for poolings in dict.fromkeys(asked):
        own = [place for place, wanted in enumerate(asked) if wanted == poolings]
        found = embed_tasks(
            [models[place] for place in own],
            reading.dataset,
            [labels],
            poolings=poolings,
            scaling=reading.scaling,
            unit_rows=reading.unit_rows,
        )
        embedded |= {place: task for place, (task,) in zip(own, found, strict=True)}
    return [embedded[place] for place in range(len(models))]


def _add_seed(
    found: dict[tuple[str, str], Candidate],
    method: str,
    kind: MethodKind,
    features: str,
    probe: Probe,
) -> None:
    """Add the probe of one run as a seed of its method."""
    if (method, features) in found:
        found[method, features].probes.append(probe)
    else:
        found[method, features] = _candidate(method, kind, features, probe)


def _features(embedded: Embeddings, hand_LD: Float32s) -> dict[str, Float32s]:
    """Return features by name; the last one says which labels have no row before them."""
    without_L1 = ~embedded.has_rows_L[:, None]
    features = {str(name): own_LD for name, own_LD in embedded.embedding_LD.items()}
    features[BESIDE] = np.concatenate([features[PUBLISHED], hand_LD], axis=1)
    return {
        name: np.concatenate([features_LD, without_L1], axis=1, dtype=np.float32)
        for name, features_LD in features.items()
    }


def _candidate(method: str, kind: MethodKind, features: str, probe: Probe) -> Candidate:
    return Candidate(
        method=method, kind=kind, features=features, learner=probe.learner, probes=[probe]
    )
