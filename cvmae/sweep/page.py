"""What a sweep prints at its end: who did best, who got there first, on which codes."""

import math
from collections.abc import Sequence

from cvmae.evaluate.convergence import SCHEDULE_NOTE, WITHIN
from cvmae.evaluate.report import wording
from cvmae.evaluate.seeds import MIN_SEEDS, Estimate
from cvmae.runtime.tables import text_table
from cvmae.sweep.ranking import Ranked
from cvmae.sweep.summary import Summary
from cvmae.sweep_folder import NOT_COMPARABLE

__all__ = ["report"]

QUARTILES = ("1 (most stable)", "2", "3", "4 (most volatile)", "mean near 0")


def report(summary: Summary, ranked: Sequence[Ranked]) -> str:
    """Return the tables and what must be known to read them."""
    parts = []
    if ranked:
        parts = [_ranking(ranked), _convergence(ranked), _by_quartile(ranked)]
    if others := _others(summary):
        parts.append(others)
    parts.append("\n".join(_notes(summary, ranked)))
    return "\n\n".join(part for part in parts if part)


def _ranking(ranked: Sequence[Ranked]) -> str:
    header = (
        "policy and axes", "epochs", "seeds", "tuning error", "95% interval", "minus random",
        "95% interval", "R2", "95% interval", "least error",
    )  # fmt: skip
    rows = [
        (
            one.label,
            str(one.epochs),
            _of(one.last_tuning_mse.num_seeds, one.num_planned),
            wording.number(one.last_tuning_mse.mean, 4),
            _interval(one.last_tuning_mse, 4),
            wording.signed(one.minus_random.mean, 4) if one.minus_random else "",
            _interval(one.minus_random, 4) if one.minus_random else "",
            wording.number(one.last_tuning_r2.mean),
            _interval(one.last_tuning_r2, 3),
            wording.number(one.best_tuning_mse, 4),
        )
        for one in ranked
    ]
    return f"Ranked by the tuning error of the last epoch:\n{text_table(header, rows)}"


def _convergence(ranked: Sequence[Ranked]) -> str:
    """Return how long each label took; the own best only where there is no random to be met."""
    rows = []
    for one in ranked:
        curve = one.curve
        needed = wording.epochs(curve.epochs_to_reference_best, curve.num_reached, curve.num_runs)
        rows.append(
            (
                one.label,
                needed if one.reference else "",
                wording.count(curve.measurements_to_reference_best) if one.reference else "",
                wording.number(curve.hours_to_reference_best) if one.reference else "",
                wording.epochs(
                    curve.epochs_to_own_best,
                    sum(run is not None for run in curve.epochs_to_own_best_per_run),
                    curve.num_runs,
                ),
                wording.signed(curve.final_slope, 4),
            )
        )
    header = (
        "policy and axes", "epochs", "measurements", "hours", "to 1% of own best", "last slope",
    )  # fmt: skip
    targets = {
        f"{WITHIN * one.reference_best:.4f} ({one.reference})"
        for one in ranked
        if one.reference_best is not None
    }
    title = (
        f"Taken to come within 1% of random's lowest mean error: {', '.join(sorted(targets))}"
        if targets
        else "No target: there is no finished random to be met (its own best favours worse models)"
    )
    return f"{title}\n{text_table(header, rows)}"


def _by_quartile(ranked: Sequence[Ranked]) -> str:
    rows = [
        (one.label, *(wording.number(error, 4) for error in one.tuning_mse_by_quartile))
        for one in ranked
    ]
    table = text_table(("policy and axes", *QUARTILES), rows)
    return f"Tuning error by quartile of the codes' coefficient of variation:\n{table}"


def _others(summary: Summary) -> str:
    """List the trials that are not finished, and how far they came."""
    rows = []
    for trial in summary.trials:
        if trial.status not in ("finished", "new"):
            errors = trial.curve.get("tuning_mse", ())
            rows.append(
                (
                    trial.trial,
                    trial.status,
                    f"{trial.num_epochs}/{trial.epochs}",
                    wording.number(errors[-1], 4) if errors else wording.ABSENT,
                )
            )
    new = sum(trial.status == "new" for trial in summary.trials)
    if new:
        rows.append((f"{new} more", "not begun", "", ""))
    return text_table(("trial", "status", "epochs", "tuning error"), rows, "<<>") if rows else ""


def _notes(summary: Summary, ranked: Sequence[Ranked]) -> list[str]:
    notes = list(summary.notes)
    if ranked:
        notes.append(
            "Intervals cover the luck of training only, not the choice of subjects, and are not "
            "corrected for their number: claims about policies come from `evaluate`."
        )
    if summary.schedulers:
        notes.append(
            f"sweep.scheduler {', '.join(summary.schedulers)} has stopped trials early, and "
            "policies learn at different speeds: this ranks settings within a policy, and supports "
            "no claim about policies."
        )
    if any(one.last_tuning_mse.num_seeds < MIN_SEEDS for one in ranked):
        notes.append(f"Fewer than {MIN_SEEDS} seeds have no interval, and decide nothing.")
    if varied := [n for n in NOT_COMPARABLE if len({t.axes.get(n) for t in summary.trials}) > 1]:
        notes.append(
            f"{' and '.join(varied)} differs between trials, so that their tuning errors are of "
            "other hidden values and do not compare: `evaluate` scores all on the same."
        )
    schedules = {trial.axes.get("optim.schedule") for trial in summary.trials}
    if "cosine" in schedules | {summary.settings.get("optim.schedule")}:
        notes.append(SCHEDULE_NOTE)
    return notes


def _of(number: int, planned: int) -> str:
    return str(number) if number == planned else f"{number} of {planned}"


def _interval(found: Estimate, digits: int) -> str:
    if found.low is None or math.isnan(found.mean):
        return wording.ABSENT
    return wording.spread((found.low, found.high), digits)
