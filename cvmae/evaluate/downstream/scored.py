"""Candidates scored on some labels, and again in resamples of the subjects."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from cvmae.arrays import Bools, Floats, Ints
from cvmae.evaluate.downstream.candidates import Candidate
from cvmae.evaluate.downstream.over_seeds import estimate, resample_labels
from cvmae.evaluate.downstream.results import Score
from cvmae.evaluate.downstream.scores import BOOLEAN_SCORES, NUMBER_SCORES, RANGE_OF

__all__ = ["NO_INTERVAL", "Outcomes", "Scored", "score_labels"]

# Shape letters: L labels, K probes of a candidate, S seeds of it, T resamples.

NO_INTERVAL = (float("nan"), float("nan"))
# Scores that need labels of both classes, or of several values.
NEED_SPREAD = {"auroc", "auprc", "r2", "rank_correlation"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcomes:
    """What came true, of all labels."""

    outcome_L: Floats  # 0 or 1, or numbers less their mean on train
    subject_id_L: Ints
    boolean: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """The labels that are scored, and every candidate's scores on them and in resamples."""

    candidates: list[Candidate]
    outcomes: Outcomes
    chosen_L: Bools  # labels that are scored
    undefined: str  # why scores that need a spread have none; '' where they have
    score_K: dict[tuple[int, str], Floats]  # by place of the candidate and name of the score
    draws_TK: dict[tuple[int, str], Floats]

    @property
    def num_subjects(self) -> int:
        """Return how many subjects have a label that is scored."""
        return len(np.unique(self.outcomes.subject_id_L[self.chosen_L]))

    def side(self, place: int, name: str, sign: float) -> tuple[Floats, Floats, float]:
        """Return a candidate as `estimate` takes it: the mean of each seed's probes."""
        score_K, draws_TK = self.score_K[place, name], self.draws_TK[place, name]
        seed_K = self.candidates[place].seed_K
        share_KS = (seed_K[:, None] == np.unique(seed_K)).astype(np.float64)
        if share_KS.shape[1] == len(seed_K):
            return score_K, draws_TK, sign
        share_KS /= share_KS.sum(axis=0)
        return score_K @ share_KS, draws_TK @ share_KS, sign

    def score(self, place: int, name: str) -> Score:
        """Return a candidate's score; NaN and why where there is none."""
        seeds = tuple(self.score_K[place, name].tolist())
        if self.undefined and name in NEED_SPREAD:
            return Score(
                value=float("nan"), interval=NO_INTERVAL, seeds=seeds, undefined=self.undefined
            )
        found = estimate([self.side(place, name, 1.0)], self.num_subjects)
        low, high = np.clip(found.interval, *RANGE_OF[name])  # NaN stays
        interval = float(low), float(high)
        return Score(value=found.value, interval=interval, seeds=seeds, undefined="")


def score_labels(
    candidates: Sequence[Candidate],
    outcomes: Outcomes,
    chosen_L: Bools,
    *,
    undefined: str,
    samples: int,
    seed: int,
) -> Scored:
    """Score every candidate on some labels, and again in resamples of their subjects.

    Args:
        candidates: With predictions of all labels.
        outcomes: Of all labels.
        chosen_L: Labels to score.
        undefined: Why there are no scores that need labels of two classes; '' where there are.
        samples: Resamples.
        seed: Of them.
    """
    outcome_L = outcomes.outcome_L[chosen_L]
    one_TL = np.ones((1, len(outcome_L)))
    names = BOOLEAN_SCORES if outcomes.boolean else NUMBER_SCORES
    functions, keys = [], []
    for place, candidate in enumerate(candidates):
        for name, score in names.items():
            own = [partial(score, outcome_L, p.predicted_L[chosen_L]) for p in candidate.probes]
            functions += own
            keys += [(place, name)] * len(own)
    drawn_TK = resample_labels(
        outcomes.subject_id_L[chosen_L], functions, samples=samples, seed=seed
    )
    as_it_is_K = np.concatenate([function(one_TL) for function in functions])
    columns = {key: [own == key for own in keys] for key in dict.fromkeys(keys)}
    return Scored(
        candidates=list(candidates),
        outcomes=outcomes,
        chosen_L=chosen_L,
        undefined=undefined,
        score_K={key: as_it_is_K[own] for key, own in columns.items()},
        draws_TK={key: drawn_TK[:, own] for key, own in columns.items()},
    )
