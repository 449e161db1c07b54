"""Scores by subgroup, from which nothing follows about fewer than `SMALLEST_CELL` subjects.

Each subject is in one group of a kind: groups that overlap would tell by their sum how many do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cvmae.arrays import Bools, Ints
from cvmae.evaluate.downstream.candidates import Candidate
from cvmae.evaluate.downstream.results import Score, Subgroup
from cvmae.evaluate.downstream.rows import COMPARED, best_places
from cvmae.evaluate.downstream.scored import NO_INTERVAL, Scored, score_labels
from cvmae.evaluate.downstream.subject_groups import UNKNOWN, Groups
from cvmae.evaluate.small_cells import SMALLEST_CELL, hidden

__all__ = ["subgroups"]

# Shape letters: L labels, G groups of a kind, 2 subjects with a negative and a positive label.

DIGITS = 3  # of scores: a ratio of counts tells the counts if it is given exactly
TOO_FEW = f"fewer than {SMALLEST_CELL} subjects are positive or fewer are negative"


@dataclass(frozen=True, kw_only=True, eq=False)
class _Group:
    """A group of labels that are scored."""

    level: str
    own_L: Bools
    num_subjects: int
    class_2: Ints


def subgroups(scored: Scored, groups: Groups, *, samples: int, seed: int) -> tuple[Subgroup, ...]:
    """Score what each method has chosen by subgroup; groups of few subjects are not shown.

    They have no name either, which may be that of a person; nor has a kind of code that few have.
    Where the others' numbers would tell how few, the smallest of these have no number.

    Args:
        scored: All labels that are scored.
        groups: Level of every label, by kind; a subject's labels are of one level.
        samples: Resamples of each group's subjects.
        seed: Of them.
    """
    found: list[Subgroup] = []
    num_rare = 0
    for kind, level_L in groups.items():
        own = _groups(scored, level_L)
        if sum(group.num_subjects for group in own if group.level != UNKNOWN) < SMALLEST_CELL:
            num_rare += 1
        else:
            found += _of_kind(scored, kind, own, samples=samples, seed=seed)
    if num_rare:
        found.append(_not_shown("kinds of group", f"{num_rare} of fewer than {SMALLEST_CELL}"))
    return tuple(found)


def _groups(scored: Scored, level_L: npt.NDArray[np.object_]) -> list[_Group]:
    found = []
    for level in sorted(set(level_L[scored.chosen_L])):
        own_L = scored.chosen_L & (level_L == level)
        subject_L, outcome_L = scored.outcomes.subject_id_L[own_L], scored.outcomes.outcome_L[own_L]
        class_2 = [len(np.unique(subject_L[(outcome_L > 0) == side])) for side in (False, True)]
        found.append(
            _Group(
                level=level,
                own_L=own_L,
                num_subjects=len(np.unique(subject_L)),
                class_2=np.array(class_2),
            )
        )
    return found


def _of_kind(
    scored: Scored, kind: str, own: Sequence[_Group], *, samples: int, seed: int
) -> list[Subgroup]:
    boolean = scored.outcomes.boolean
    size_G = np.array([group.num_subjects for group in own])
    class_G2 = np.array([group.class_2 for group in own])
    unsized_G = hidden(size_G[:, None])
    # Without its size a group has no positives either: they would say that it is at least as large.
    unclassed_G = hidden(class_G2, unsized_G) if boolean else unsized_G
    found = []
    for place, group in enumerate(own):
        if group.num_subjects < SMALLEST_CELL:
            continue
        row = Subgroup(
            kind=kind,
            level=group.level,
            suppressed=False,
            num_labels=int(group.own_L.sum()),
            num_subjects=group.num_subjects,
            num_positives=_num_positives(scored, group) if boolean else None,
            scores=_scores(scored, group, samples=samples, seed=seed),
        )
        if unclassed_G[place]:
            row = replace(row, num_positives=None)
        if unsized_G[place]:
            row = replace(row, num_labels=None, num_subjects=None)
        found.append(row)
    if num_small := len(own) - len(found):
        noun = "level" if num_small == 1 else "levels"
        found.append(_not_shown(kind, f"{num_small} {noun} of fewer than {SMALLEST_CELL} subjects"))
    return found


def _num_positives(scored: Scored, group: _Group) -> int:
    return int(scored.outcomes.outcome_L[group.own_L].sum())


def _not_shown(kind: str, level: str) -> Subgroup:
    return Subgroup(
        kind=kind,
        level=level,
        suppressed=True,
        num_labels=None,
        num_subjects=None,
        num_positives=None,
        scores={},
    )


def _scores(scored: Scored, group: _Group, *, samples: int, seed: int) -> dict[str, Score]:
    """Return the score of what each method has chosen, rounded; none where a class is small."""
    shown = [scored.candidates[place] for place in best_places(scored.candidates).values()]
    if scored.outcomes.boolean and group.class_2.min() < SMALLEST_CELL:
        return {candidate.method: _undefined(candidate) for candidate in shown}
    is_alike = len(np.unique(scored.outcomes.outcome_L[group.own_L])) < 2
    part = score_labels(
        shown,
        scored.outcomes,
        group.own_L,
        undefined="its labels are of one value" if is_alike else "",
        samples=samples,
        seed=seed,
    )
    name = COMPARED[scored.outcomes.boolean][0]
    return {
        candidate.method: _rounded(part.score(place, name)) for place, candidate in enumerate(shown)
    }


def _undefined(candidate: Candidate) -> Score:
    seeds = (float("nan"),) * len(candidate.probes)
    return Score(value=float("nan"), interval=NO_INTERVAL, seeds=seeds, undefined=TOO_FEW)


def _rounded(score: Score) -> Score:
    low, high = (round(end, DIGITS) for end in score.interval)
    return replace(
        score,
        value=round(score.value, DIGITS),
        interval=(low, high),
        seeds=tuple(round(seed, DIGITS) for seed in score.seeds),
    )
