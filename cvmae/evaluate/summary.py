"""The table that every reader sees first: a row per model, then per baseline."""

import math
from dataclasses import dataclass

from cvmae.evaluate.methods import Kind
from cvmae.evaluate.report import wording
from cvmae.evaluate.results import Results
from cvmae.evaluate.two_way import Interval

__all__ = ["SummaryRow", "summary"]


@dataclass(frozen=True, kw_only=True)
class SummaryRow:
    """One method in a line; None where a figure is none of its, or was never reached."""

    policy: str
    kind: Kind
    r2_pooled: float
    r2_pooled_interval: Interval
    r2_macro: float
    r2_pooled_best: float  # of the weights with the least tuning error
    won: int | None  # codes won against the reference
    num_codes: int | None  # of how many that are won or lost
    verdict: str = ""  # of pooled R2 against the reference, as readers see it
    r2_median: float = math.nan  # over the codes of the mean
    epochs_to_reference_best: float | None
    num_reached: int = 0  # of its runs, that reached the reference's best
    num_runs: int = 1
    is_timed: bool = True  # False: there is no best of the reference to reach
    final_slope: float | None  # tuning error per epoch over the last five
    measurements_per_s: float | None

    @property
    def codes_won(self) -> str:
        """Return how many codes are won against the reference; nothing where none is decided."""
        return f"{self.won} of {self.num_codes}" if self.num_codes else ""

    @property
    def epochs_needed(self) -> str:
        """Return after how many epochs the reference's best was reached, as readers see it."""
        if self.kind == "baseline":
            return ""
        if not self.is_timed:
            return wording.ABSENT
        return wording.epochs(self.epochs_to_reference_best, self.num_reached, self.num_runs)


def summary(results: Results) -> list[SummaryRow]:
    """Return one row per model, then per baseline, best pooled R2 first."""
    against = {pair.first: pair for pair in results.against_reference}
    best = {m.of: m.r2_pooled for m in results.methods if m.kind == "best weights"}
    rows = []
    for method in results.methods:
        if method.kind == "best weights":
            continue
        pair, curve = against.get(method.name), results.convergence.names.get(method.name)
        rows.append(
            SummaryRow(
                policy=method.name,
                kind=method.kind,
                r2_pooled=method.r2_pooled,
                r2_pooled_interval=method.r2_pooled_interval,
                r2_macro=method.r2_macro,
                r2_pooled_best=best.get(method.name, method.r2_pooled),
                won=pair.wins if pair else None,
                num_codes=pair.num_decided_codes if pair else None,
                verdict=wording.verdict(pair) if pair and method.kind == "model" else "",
                r2_median=method.r2_median,
                epochs_to_reference_best=curve.epochs_to_reference_best if curve else None,
                num_reached=curve.num_reached if curve else 0,
                num_runs=curve.num_runs if curve else 1,
                is_timed=results.convergence.reference_best is not None,
                final_slope=curve.final_slope if curve else None,
                measurements_per_s=curve.measurements_per_s if curve else None,
            )
        )
    return sorted(rows, key=lambda row: (row.kind == "baseline", _descending(row.r2_pooled)))


def _descending(value: float) -> float:
    return -value if math.isfinite(value) else math.inf
