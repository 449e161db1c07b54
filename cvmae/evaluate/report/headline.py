"""What the results say in sentences: a headline that is honest about who won."""

from collections.abc import Sequence
from dataclasses import dataclass

from cvmae.evaluate.methods import Method
from cvmae.evaluate.report import wording
from cvmae.evaluate.significance import Comparison

__all__ = ["Headline", "headline"]

LEVEL = 0.05  # of the Wilcoxon test after Bonferroni


@dataclass(frozen=True, kw_only=True)
class Headline:
    """A title and the sentences under it."""

    title: str
    sentences: tuple[str, ...]


def headline(
    methods: Sequence[Method],
    pairs: Sequence[Comparison],
    best: Comparison,
    codes: Sequence[str],
) -> Headline:
    """Return a title and sentences computed from the results, whoever won.

    The title compares the first pair (`cv` with `random` where both are there) on two counts:
    pooled R2 (does the interval of the difference exclude zero?) and codes (Wilcoxon after
    Bonferroni). Where the two disagree or one is open, it says so.

    Args:
        methods: All of them.
        pairs: Of models; empty where there is one model.
        best: The best model against the best baseline.
        codes: Of the vocabulary.
    """
    noun = wording.noun(codes)
    models = [method for method in methods if method.kind == "model"]
    title = _verdict(pairs[0], noun) if pairs else _single(models[0])
    evidence = [_evidence(pair, noun) for pair in pairs[:1]]
    by_name = {method.name: method for method in methods}
    context = _context(models, by_name[best.first], by_name[best.second], best, noun)
    return Headline(title=title, sentences=(*evidence, context, *_seeds(models)))


def _verdict(pair: Comparison, noun: str) -> str:
    """Say who won in one sentence."""
    first, second = pair.first, pair.second
    low, high = pair.pooled_interval
    pooled = int(low > 0) - int(high < 0)
    decided = pair.wilcoxon_p_bonferroni < LEVEL
    codes = (int(pair.wins > pair.losses) - int(pair.wins < pair.losses)) * decided
    count = f"{max(pair.wins, pair.losses)} of {pair.num_codes} {noun}"
    if pooled == codes == 0:
        return f"No clear difference between {first} and {second}"
    winner, loser = (first, second) if pooled + codes >= 0 else (second, first)
    if pooled == codes:
        return f"{winner} restores hidden values better than {loser}: on {count}, and pooled"
    if pooled and codes:
        by_values, by_codes = (first, second) if pooled > 0 else (second, first)
        return f"A split verdict: {by_values} is better pooled over values, {by_codes} on {count}"
    if pooled:
        return (
            f"{winner} is better than {loser} pooled over all values, "
            f"but {noun} one by one are undecided"
        )
    return f"{winner} is better than {loser} on {count}, but pooled over all values it is open"


def _single(model: Method) -> str:
    return (
        f"{model.name} restores hidden values with a pooled R2 of {wording.number(model.r2_pooled)}"
    )


def _evidence(pair: Comparison, noun: str) -> str:
    first, second = pair.first, pair.second
    undecided = pair.num_codes - pair.clear_wins - pair.clear_losses
    return (
        f"Pooled R2 of {first} minus {second}: {wording.signed(pair.pooled_difference)} "
        f"(95% interval {wording.spread(pair.pooled_interval)}, over resampled subjects). "
        f"{first} wins {pair.wins} of {pair.num_codes} {noun} (Wilcoxon "
        f"{wording.p_value(pair.wilcoxon_p_bonferroni)} after Bonferroni, Cohen's d "
        f"{wording.number(pair.cohens_d, 2)}); {noun} whose own interval excludes zero: "
        f"{pair.clear_wins} for {first}, {pair.clear_losses} for {second}, "
        f"{undecided} undecided."
    )


def _context(
    models: Sequence[Method], leader: Method, guess: Method, best: Comparison, noun: str
) -> str:
    """Say who leads, and how far a guess without training gets."""
    low, high = best.pooled_interval
    standing = "ahead of" if low > 0 else "behind" if high < 0 else "level with"
    leads = f"{leader.name} has the highest pooled R2 of the policies" if models[1:] else "It"
    return (
        f"{leads}{',' if models[1:] else ' is, at'} {wording.number(leader.r2_pooled)}"
        f"{', and is' if models[1:] else ','} {standing} {guess.name}, the best guess without "
        f"any training ({wording.number(guess.r2_pooled)}; difference "
        f"{wording.signed(best.pooled_difference)}, 95% interval "
        f"{wording.spread(best.pooled_interval)}). Code by code, {guess.name} does better on "
        f"{best.losses} of {best.num_codes} {noun}."
    )


def _seeds(models: Sequence[Method]) -> list[str]:
    """Say what the intervals cover, or how far seeds lie apart."""
    num_runs = [len(model.runs) for model in models]
    if models[1:] and min(num_runs) == 1:
        return [
            "One run a policy: intervals cover the choice of subjects, not the luck of training, "
            "so small differences need more seeds."
        ]
    if max(num_runs) > 1:
        spreads = [
            f"{model.name} {wording.spread(_range([run.r2_pooled for run in model.runs]))}"
            for model in models
        ]
        return [f"Pooled R2 over seeds: {', '.join(spreads)}."]
    return []


def _range(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)
