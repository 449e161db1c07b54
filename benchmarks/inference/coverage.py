"""How often intervals hold the truth, and how often nothing is called a difference."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.clock import progress
from benchmarks.inference.population import draw_subjects, with_errors
from benchmarks.rows import Row
from cvmae.arrays import Bools, Floats
from cvmae.evaluate.baselines import BASELINES
from cvmae.evaluate.intervals import bootstrap_intervals
from cvmae.evaluate.reconstruction import Sums, scores
from cvmae.evaluate.two_way import Interval, Runs, estimate, pooled_figure

__all__ = ["Sizes", "seed_rows", "subject_rows"]

SUITE = "inference"
LINE, LAST = (BASELINES.index(name) for name in ("linear interpolation", "last value"))
# Simulated seeds: two runs of one policy differ by 0.02 of R2 as measured, and a run has luck of
# its own with each subject.
GAPS = (0.02, 0.06)  # of R2, between the two policies
SEED_SHARE = 0.035  # standard deviation of a run's error, as a share of it
SUBJECT_SHARE = 0.2  # the same, of its error on one subject
LEVEL = 0.05
# Of 95%, over 400 samples, whose own error is 0.011 to 0.015. Errors of a baseline have longer
# tails than those of a model, of which 41 subjects hold too few.
LEAST_COVERAGE = {"seeds": 0.91, "subjects": 0.89}
MOST_FALSE = 0.085  # 17 of 200


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is simulated."""

    samples: int = 400
    num_subjects: tuple[int, ...] = (41, 100, 200)
    num_seeds: tuple[int, ...] = (3, 5)
    resamples: int = 400


def subject_rows(population: Sums, sizes: Sizes) -> Iterator[Row]:
    """Yield the coverage of R2 of interpolation over subjects, pooled and averaged over codes."""
    common_C = _common(population)
    truth = scores(population, min_scored=1)
    macro_K = truth.r2_CK[common_C].mean(axis=0)
    for num_subjects in sizes.num_subjects:
        rng = np.random.default_rng(num_subjects)
        held: dict[str, int] = {}
        for number in range(sizes.samples):
            drawn = rng.integers(population.num_subjects, size=num_subjects)
            found = bootstrap_intervals(
                draw_subjects(population, drawn), common_C, samples=sizes.resamples, seed=number
            )
            for kind, intervals, truth_K in (
                ("pooled", found.pooled, truth.pooled_K),
                ("macro", found.macro, macro_K),
            ):
                held[kind] = held.get(kind, 0) + _holds(intervals[LINE], truth_K[LINE])
        progress("coverage over %d subjects done", num_subjects)
        for kind, number in held.items():
            label = f"subjects: coverage, R2 {kind} of {BASELINES[LINE]}, {num_subjects} subjects"
            yield _coverage(label, number / sizes.samples)


def seed_rows(population: Sums, sizes: Sizes) -> Iterator[Row]:
    """Yield the coverage of a difference over seeds and subjects, and how often it is called one.

    Runs err as linear interpolation does, but for the luck of their seed; those of the second
    policy as a mixture of it with the last value that is one of `GAPS` of R2 behind.
    """
    line_R, last_R = population.error_RK[:, LINE], population.error_RK[:, LAST]
    share = population.square_R.sum() / (last_R - line_R).sum()
    for num_seeds in sizes.num_seeds:
        for num_subjects in sizes.num_subjects:
            rng = np.random.default_rng((num_seeds, num_subjects))
            of = f"{num_seeds} seeds x {num_subjects} subjects"
            for gap in (0.0, *GAPS):
                policies = line_R, line_R + gap * share * (last_R - line_R)
                held, called = _simulated(population, policies, num_seeds, num_subjects, sizes, rng)
                yield _coverage(f"seeds: coverage, difference of {gap:g}, {of}", held)
                yield Row(
                    suite=SUITE,
                    name=f"seeds: called a difference, {gap:g}, {of}",
                    value=called,
                    goal=None if gap else MOST_FALSE,
                )
            progress("coverage over %s done", of)


def _simulated(
    population: Sums,
    policies: tuple[Floats, Floats],
    num_seeds: int,
    num_subjects: int,
    sizes: Sizes,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Return how often the interval held the true difference, and how often p was below 5%."""
    total = population.square_R.sum()
    truth = float((policies[1].sum() - policies[0].sum()) / total)
    first, second = (
        Runs(columns=tuple(range(begin, begin + num_seeds))) for begin in (0, num_seeds)
    )
    held = called = 0
    both = with_errors(population, np.stack(policies, axis=1))
    for _ in range(sizes.samples):
        drawn = draw_subjects(both, rng.integers(population.num_subjects, size=num_subjects))
        error_RK = np.repeat(drawn.error_RK, num_seeds, axis=1)
        level_K = 1 + SEED_SHARE * rng.normal(size=2 * num_seeds)
        luck_SK = 1 + SUBJECT_SHARE * rng.normal(size=(num_subjects, 2 * num_seeds))
        runs = with_errors(drawn, error_RK * level_K * np.maximum(luck_SK, 0)[drawn.subject_R])
        found = estimate(pooled_figure(runs), first, second)
        held += _holds(found.interval, truth)
        called += found.p < LEVEL
    return held / sizes.samples, called / sizes.samples


def _common(population: Sums) -> Bools:
    """Return the codes that most subjects have: in every sample there are enough of them."""
    subjects_C = np.bincount(population.code_R, minlength=population.num_codes)
    return np.asarray(subjects_C > population.num_subjects / 2)


def _holds(interval: Interval, truth: float) -> bool:
    return bool(interval[0] <= truth <= interval[1])


def _coverage(name: str, value: float) -> Row:
    goal = LEAST_COVERAGE[name.partition(":")[0]]
    return Row(suite=SUITE, name=name, value=value, goal=goal, sense=">=")
