"""Fitted probes -> scores with intervals, and differences."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from cvmae.arrays import Floats
from cvmae.evaluate.contestants import HAND_MADE, UNTRAINED
from cvmae.evaluate.downstream.candidates import Candidate
from cvmae.evaluate.downstream.over_seeds import are_enough, estimate, verdict
from cvmae.evaluate.downstream.results import Difference, ProbeRow, Score
from cvmae.evaluate.downstream.scored import NO_INTERVAL, Scored
from cvmae.evaluate.downstream.scores import CalibrationBin, calibration_curve, calibration_line
from cvmae.evaluate.multiplicity import benjamini_hochberg
from cvmae.evaluate.small_cells import SMALLEST_CELL

__all__ = ["COMPARED", "best_places", "differences", "probe_rows"]

# Shape letters: L labels.

MOST_BINS = 10  # of a curve of calibration
COMPARED = {True: ("auroc", "auprc"), False: ("r2", "rank_correlation")}


def probe_rows(scored: Scored) -> tuple[ProbeRow, ...]:
    """Return a row for each candidate, in order."""
    best = set(best_places(scored.candidates).values())
    return tuple(
        _probe_row(scored, place, is_chosen=place in best)
        for place in range(len(scored.candidates))
    )


def differences(scored: Scored, names: Sequence[str], reference: str) -> tuple[Difference, ...]:
    """Compare ways to predict: each model with the reference, untrained ones and hand-made ones.

    With the same features on both sides, and with those that each side has chosen on tuning. What
    is said of them is adjusted for how many they are, by false discovery rate: none of these pairs
    is of the family that claims of the evaluation rest on.

    Args:
        scored: All candidates.
        names: Of the models.
        reference: One of them.
    """
    if scored.undefined:
        return ()
    found = [
        _difference(scored, first, second, score)
        for first, second in _pairs(scored.candidates, names, reference)
        for score in COMPARED[scored.outcomes.boolean]
    ]
    adjusted = benjamini_hochberg([difference.p for difference in found])
    return tuple(
        replace(difference, p_adjusted=float(p), verdict=verdict(difference.value, float(p)))
        for difference, p in zip(found, adjusted, strict=True)
    )


def _probe_row(scored: Scored, place: int, *, is_chosen: bool) -> ProbeRow:
    candidate = scored.candidates[place]
    scores = {name: scored.score(place, name) for own, name in scored.score_K if own == place}
    curve: tuple[CalibrationBin, ...] = ()
    if scored.outcomes.boolean:
        outcome_L = scored.outcomes.outcome_L[scored.chosen_L]
        predictions = [probe.predicted_L[scored.chosen_L] for probe in candidate.probes]
        scores |= _calibration(outcome_L, predictions)
        num_seeds = len(predictions)
        curve = calibration_curve(
            np.tile(outcome_L, num_seeds),
            np.concatenate(predictions),
            np.tile(scored.outcomes.subject_id_L[scored.chosen_L], num_seeds),
            smallest=SMALLEST_CELL,
            most=min(MOST_BINS, len(outcome_L) // SMALLEST_CELL),  # more seeds make no more bins
        )
    return ProbeRow(
        method=candidate.method,
        kind=candidate.kind,
        features=candidate.features,
        learner=candidate.learner,
        chosen=is_chosen,
        strengths=tuple(probe.strength for probe in candidate.probes),
        tuning_loss=candidate.tuning_loss,
        scores=scores,
        calibration=curve,
        checkpoints=tuple(probe.checkpoint for probe in candidate.probes if probe.checkpoint),
        stamps=tuple(probe.stamp for probe in candidate.probes if probe.checkpoint),
    )


def best_places(candidates: Sequence[Candidate]) -> dict[str, int]:
    """Return which candidate of each method is best on tuning; of hand-made ones, the linear."""
    best: dict[str, int] = {}
    for place, candidate in enumerate(candidates):
        if candidate.learner == "gradient boosting":
            continue
        now = best.get(candidate.method)
        if now is None or candidate.tuning_loss < candidates[now].tuning_loss:
            best[candidate.method] = place
    return best


def _pairs(
    candidates: Sequence[Candidate], names: Sequence[str], reference: str
) -> Iterator[tuple[int, int]]:
    """Yield places of what is compared, each pair once."""
    best = best_places(candidates)
    alike: dict[str, dict[str, int]] = {}  # features -> method -> place
    for place, candidate in enumerate(candidates):
        if candidate.kind != "hand-made":
            alike.setdefault(candidate.features, {})[candidate.method] = place
    pairs = []
    for place_of in (*alike.values(), best):
        own = [name for name in names if name in place_of]
        base = reference if reference in place_of else (own or [""])[0]  # of fine-tuned ones
        pairs += [(place_of[name], place_of[base]) for name in own if name != base]
        pairs += [(place_of[name], place_of[UNTRAINED]) for name in own if UNTRAINED in place_of]
    pairs += [(best[name], best[HAND_MADE]) for name in names]
    yield from dict.fromkeys(pairs)


def _difference(scored: Scored, first: int, second: int, score: str) -> Difference:
    one, other = scored.candidates[first], scored.candidates[second]
    sides = [scored.side(first, score, 1.0), scored.side(second, score, -1.0)]
    found = estimate(sides, scored.num_subjects)
    num_seeds = (one.num_seeds, other.num_seeds)
    p = found.p if are_enough(num_seeds) else float("nan")
    return Difference(
        first=one.method,
        second=other.method,
        first_features=one.features,
        second_features=other.features,
        score=score,
        value=found.value,
        interval=found.interval,
        num_seeds=num_seeds,
        p=p,
        p_adjusted=p,  # until `differences` knows how many there are
        verdict=verdict(found.value, p),
    )


def _calibration(outcome_L: Floats, predictions: Sequence[Floats]) -> dict[str, Score]:
    lines = np.array([calibration_line(outcome_L, chance_L) for chance_L in predictions])
    reason = "labels of one class, or predictions that are alike or separate them"
    return {
        name: Score(
            value=float(values.mean()),
            interval=NO_INTERVAL,
            seeds=tuple(values.tolist()),
            undefined="" if np.isfinite(values).all() else reason,
        )
        for name, values in zip(
            ("calibration_slope", "calibration_intercept"), lines.T, strict=True
        )
    }
