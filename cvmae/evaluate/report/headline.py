"""What the results say in sentences: a headline that is honest about who won."""

from collections.abc import Sequence
from dataclasses import dataclass

from cvmae.evaluate.methods import Method
from cvmae.evaluate.report import wording
from cvmae.evaluate.seeds import MIN_SEEDS, SeedSpread
from cvmae.evaluate.significance import Comparison

__all__ = ["Headline", "headline"]


@dataclass(frozen=True, kw_only=True)
class Headline:
    """A title and the sentences under it."""

    title: str
    sentences: tuple[str, ...]


def headline(
    methods: Sequence[Method],
    pairs: Sequence[Comparison],
    against_interpolation: Sequence[Comparison],
    seeds: Sequence[SeedSpread],
    *,
    reference: str,
    codes: Sequence[str],
) -> Headline:
    """Return a title and sentences computed from the results, whoever won.

    The title says of every model how it compares with the reference, by the adjusted p of pooled
    R2; of models with too few seeds it says that nothing is decided.

    Args:
        methods: All of them.
        pairs: Of models; empty where there is one model.
        against_interpolation: Models against linear interpolation.
        seeds: What seeds alone make.
        reference: The model that others are compared with.
        codes: Of the vocabulary.
    """
    noun = wording.noun(codes)
    models = [method for method in methods if method.kind == "model"]
    against = [pair for pair in pairs if pair.second == reference]
    told = [pair for pair in pairs if pair.second == reference or pair.family == "primary"]
    sentences = [
        _measure(noun),
        *(_evidence(pair, noun) for pair in told),
        *_undecided(told),
        *_seeds(seeds, noun),
        _context(against_interpolation, methods, noun),
    ]
    title = _title(against, reference) if against else _single(models[0])
    return Headline(title=title, sentences=tuple(sentences))


def _title(against: Sequence[Comparison], reference: str) -> str:
    """Say of every model how it compares with the reference."""
    said_of = {
        verdict: [pair for pair in against if pair.verdict == verdict]
        for verdict in ("better", "worse", "no clear difference", "undecided")
    }
    undecided = said_of.pop("undecided")
    said_of["few seeds"] = [pair for pair in undecided if _has_few_seeds(pair)]
    said_of["few subjects"] = [pair for pair in undecided if not _has_few_seeds(pair)]
    named = {
        verdict: wording.listed([pair.first for pair in pairs])
        for verdict, pairs in said_of.items()
    }
    restore = "restores" if sum(pair.verdict == "better" for pair in against) == 1 else "restore"
    found = [
        f"{named['better']} {restore} hidden values better than {reference}",
        f"{reference} restores hidden values better than {named['worse']}",
        f"no clear difference between {named['no clear difference']} and {reference}",
        f"undecided: {named['few seeds']} against {reference}, with "
        f"{_seeds_of(said_of['few seeds'])} a policy where {MIN_SEEDS} are needed",
        f"undecided: {named['few subjects']} against {reference}, with too few subjects",
    ]
    title = "; ".join(said for said, names in zip(found, named.values(), strict=True) if names)
    starts_with_a_name = named["better"] or named["worse"]
    return title if starts_with_a_name else title[:1].upper() + title[1:]


def _has_few_seeds(pair: Comparison) -> bool:
    """Tell whether a policy has too few seeds; where none has, subjects are too few to decide."""
    return any(0 < number < MIN_SEEDS for number in pair.num_runs)


def _seeds_of(undecided: Sequence[Comparison]) -> str:
    """Say how many runs the policies have of which nothing is decided, reference included."""
    numbers = {number for pair in undecided for number in pair.num_runs} or {0}
    least, most = min(numbers), max(numbers)
    if most == 1:
        return "1 run (seed)"
    return f"{most if least == most else f'{least} to {most}'} runs (seeds)"


def _single(model: Method) -> str:
    return (
        f"{model.name} restores hidden values with a pooled R2 of {wording.number(model.r2_pooled)}"
    )


def _measure(noun: str) -> str:
    return (
        f"R2 is the share of the squared error of guessing each {noun[:-1]}'s mean that is gone: 1 "
        "restores every hidden value, 0 is as good as that mean (of the training split)."
    )


def _evidence(pair: Comparison, noun: str) -> str:
    first, second = pair.first, pair.second
    decided = pair.verdict != "undecided"
    by = "Holm" if pair.family == "primary" else "false discovery rate"
    claim = f"{wording.p_value(pair.p_adjusted)} after {by}" if decided else "undecided"
    text = (
        f"Pooled R2 of {first} minus {second}: {wording.signed(pair.pooled_difference)} "
        f"(95% interval {wording.spread(pair.pooled_interval)} over {pair.over}; {claim})."
    )
    if not pair.num_decided_codes:
        return text
    text += f" {first} is ahead on {pair.wins} of {pair.num_decided_codes} {noun}"
    if not decided:
        return f"{text}."
    leads = pair.wins - pair.losses
    if leads * pair.pooled_difference < 0 and pair.verdict != "no clear difference":
        text += f", so that most {noun} say the opposite of the pooled figure"
    return (
        f"{text}; one by one, {pair.clear_wins} clearly better and {pair.clear_losses} clearly "
        "worse."
    )


def _undecided(told: Sequence[Comparison]) -> list[str]:
    """Say why nothing is claimed, where nothing is."""
    undecided = [pair for pair in told if pair.verdict == "undecided"]
    open_pairs = [pair for pair in undecided if _has_few_seeds(pair)]
    few_subjects = [
        f"Nothing is decided between {pair.first} and {pair.second}: values of too few subjects "
        "are scored to tell how much subjects differ."
        for pair in undecided
        if not _has_few_seeds(pair)
    ]
    if not open_pairs:
        return few_subjects
    runs = {
        name: number
        for pair in open_pairs
        for name, number in zip((pair.first, pair.second), pair.num_runs, strict=True)
        if 0 < number < MIN_SEEDS
    }
    counted = wording.listed([f"{name} has {number}" for name, number in runs.items()])
    return [
        f"A claim about a policy needs {MIN_SEEDS} runs (seeds) of it or more, since seeds of one "
        f"policy differ, too; {counted}. Intervals over subjects alone leave out the luck of "
        "training.",
        *few_subjects,
    ]


def _seeds(seeds: Sequence[SeedSpread], noun: str) -> list[str]:
    """Say what seeds alone make, beside which differences between policies are to be read."""
    if not seeds:
        return []
    spreads = [
        f"{one.name} by up to {wording.number(one.largest_difference)}"
        + (f" and {one.wins} {noun} to {one.losses}" if one.wins + one.losses else "")
        + f" ({one.num_runs} runs)"
        for one in seeds
    ]
    return [f"Runs that differ in nothing but their seed lie apart, too: {', '.join(spreads)}."]


def _context(against: Sequence[Comparison], methods: Sequence[Method], noun: str) -> str:
    """Say how far a guess without training gets, and how far ahead of it each model is."""
    guess = next(method for method in methods if method.name == against[0].second)
    ahead = [
        f"{pair.first} {wording.signed(pair.pooled_difference)} "
        f"({wording.spread(pair.pooled_interval)}"
        + (
            f"; ahead on {pair.wins} of {pair.num_decided_codes} {noun})"
            if pair.num_decided_codes
            else ")"
        )
        for pair in against
    ]
    return (
        f"{guess.name.capitalize()}, which needs no training, has a pooled R2 of "
        f"{wording.number(guess.r2_pooled)}; minus it: {', '.join(ahead)}."
    )
