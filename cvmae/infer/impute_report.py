"""What `impute` says of a job: how many held-out values intervals hold, and what became of rows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cvmae.arrays import Floats
from cvmae.infer.calibration import Coverage
from cvmae.infer.matching import Matching, matching_lines
from cvmae.infer.notice import NOTE
from cvmae.infer.unit_files import CodeSums
from cvmae.meds.code_names import short_names
from cvmae.runtime.figures import Figure, as_label, attempted
from cvmae.runtime.tables import counted
from cvmae.statistics.code_statistics import CodeStatistics
from cvmae.statistics.residuals import Residuals
from cvmae.storage.folders import join, local_copy, written

__all__ = ["COVERAGE", "REPORT", "Tested", "read_coverage", "write_coverage", "write_report"]

COVERAGE, REPORT, FIGURE = "coverage.json", "report.json", "coverage.png"
MOST_CODES = 60  # on an axis that can be read
BLUE, GREY = "#1f5fa8", "#888888"


@dataclass(frozen=True, kw_only=True)
class Tested:
    """Where intervals come from, and what they are worth."""

    residuals_of: str  # the model, or a split of the data set
    num_values: int  # hidden on held_out, of codes that are told of
    share: float  # of them that lie in their intervals; NaN: too few, or none
    count_C: tuple[int | None, ...]  # None, as the share is NaN: too few to tell of
    share_C: tuple[float, ...]


def write_coverage(folder: str, coverage: Coverage | None, residuals_of: str) -> None:
    """Keep what was measured on held_out, for a job that goes on.

    Args:
        folder: Of the job.
        coverage: None: the data set has no held_out.
        residuals_of: The model, or the split that residuals were taken of.
    """
    values: dict[str, Any] = {"residuals_of": residuals_of, "values": 0, "share": None, "codes": []}
    if coverage:
        values["values"] = coverage.num_told
        values["share"] = _or_none(coverage.share)
        values["codes"] = [
            [int(count), float(share)] if is_told else [None, None]
            for count, share, is_told in zip(
                coverage.count_C, coverage.share_C, coverage.is_told_C, strict=True
            )
        ]
    with written(join(folder, COVERAGE)) as aside:
        aside.write_text(json.dumps(values, allow_nan=False) + "\n", encoding="utf-8")


def read_coverage(folder: str) -> Tested:
    """Read what `write_coverage` wrote."""
    with local_copy(join(folder, COVERAGE)) as copy:
        values = json.loads(copy.read_text("utf-8"))
    return Tested(
        residuals_of=values["residuals_of"],
        num_values=values["values"],
        share=_or_nan(values["share"]),
        count_C=tuple(count for count, _ in values["codes"]),
        share_C=tuple(_or_nan(share) for _, share in values["codes"]),
    )


def write_report(
    folder: str,
    inside: str,
    *,
    counts: Mapping[str, int],
    sums: CodeSums,
    statistics: CodeStatistics,
    residuals: Residuals | None,
    tested: Tested,
    masks: Mapping[str, float],
    names: Mapping[str, str],
) -> str:
    """Write a report and a figure; return what is printed.

    Args:
        folder: Of the job.
        inside: Folder of its files in there.
        counts: Rows, by what became of them.
        sums: Of the codes of all units.
        statistics: Of the model.
        residuals: By which intervals were made.
        tested: What they are worth.
        masks: What says which values were hidden for that.
        names: What codes mean in words, for the figure.
    """
    assert residuals is not None, "intervals were made by some"
    matching = Matching.of(sums, statistics)
    report = {
        **counts,
        "level": residuals.level,
        "past_only": residuals.past_only,
        "residuals_of": tested.residuals_of,
        "hidden_by": dict(masks),
        "held_out": {"values": tested.num_values, "coverage": _or_none(tested.share)},
        "codes": _code_entries(matching, residuals, tested),
    }
    with written(join(folder, REPORT)) as aside:
        aside.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if not np.isnan(tested.share_C).all():
        with attempted("the figure of coverage"):
            shown = short_names(statistics.codes, names)
            _write_figure(folder, [shown[c] for c in statistics.codes], tested, residuals)
    imputed = counts["rows"] - counts["rows_nothing_known"] - counts["rows_of_absent_subjects"]
    return "\n".join(
        [
            *matching_lines(matching),
            f"{counted(imputed, 'row')} imputed: {join(folder, inside)}",
            *(["Seen were rows at or before their time only"] if residuals.past_only else []),
            *_left_out(counts),
            *_said(residuals, tested),
            f"They are patient data: see {join(folder, NOTE)}",
        ]
    )


def _code_entries(matching: Matching, residuals: Residuals, tested: Tested) -> list[dict[str, Any]]:
    return [
        entry
        | {
            "residuals": int(residuals.count_C[place]),
            "residual_low": _or_none(residuals.low_C[place]),
            "residual_high": _or_none(residuals.high_C[place]),
            "residuals_are_own": bool(residuals.is_own_C[place]),
            "held_out_values": tested.count_C[place] if tested.count_C else 0,
            "held_out_coverage": _or_none(tested.share_C[place]) if tested.share_C else None,
        }
        for place, entry in enumerate(matching.as_rows())
    ]


def _left_out(counts: Mapping[str, int]) -> list[str]:
    said = {
        "rows_nothing_known": "null: no measurement of the subject to go by, or none until then",
        "rows_of_absent_subjects": "null: the data set does not have the subject",
        "rows_measured_beside": "left out: the same code has a value at the same time",
        "rows_without_time": "left out: neither a value nor a time",
    }
    return [f"{counted(counts[name], 'row')} {what}" for name, what in said.items() if counts[name]]


def _said(residuals: Residuals, tested: Tested) -> list[str]:
    """Say where intervals come from, and how many held-out values they hold."""
    level = f"{100 * residuals.level:.6g}%"
    if np.isnan(residuals.low_C).all():
        num_values = int(residuals.count_C.sum())
        return [
            f"No intervals: only {num_values:,} hidden values of {tested.residuals_of}, of which "
            "quantiles would tell of single patients"
        ]
    num_own, num_codes = int(residuals.is_own_C.sum()), len(residuals.codes)
    lines = [
        f"Intervals of {level} by residuals of {tested.residuals_of}: {num_own} of {num_codes} "
        "codes by their own" + (", the others by those of all codes" * (num_own < num_codes))
    ]
    if np.isnan(tested.share):
        return [*lines, "How many values of held_out they hold is not told: there are too few"]
    told = ~np.isnan(tested.share_C)
    share_C = np.array(tested.share_C)[told]
    return [
        *lines,
        f"They hold {tested.share:.1%} of {tested.num_values:,} hidden values of held_out, "
        f"{share_C.min():.1%} to {share_C.max():.1%} of those of single codes ({told.sum()} told)",
    ]


def _write_figure(folder: str, names: Sequence[str], tested: Tested, residuals: Residuals) -> None:
    """Draw the share of each code's held-out values that intervals hold, lowest first."""
    share_C: Floats = np.array(tested.share_C)
    shown = np.argsort(share_C, kind="stable")[: int(np.count_nonzero(~np.isnan(share_C)))]
    shown = shown[:MOST_CODES]
    figure = Figure(figsize=(7, 1.5 + 0.22 * len(shown)), layout="constrained")
    axis = figure.subplots()
    axis.axvline(100 * residuals.level, color=GREY, linewidth=1)
    axis.plot(100 * share_C[shown], np.arange(len(shown)), "o", color=BLUE, markersize=5)
    axis.set_yticks(np.arange(len(shown)), [as_label(names[place]) for place in shown])
    axis.set_ylim(len(shown) - 0.5, -0.5)
    axis.set_xlabel("% in their interval")
    figure.suptitle(
        f"{tested.share:.1%} of {tested.num_values:,} hidden values of held_out lie in their "
        f"interval; line: {100 * residuals.level:.4g}%",
        fontsize=10,
    )
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    with written(join(folder, FIGURE)) as aside:
        figure.savefig(aside, format="png", dpi=120)


def _or_none(number: float) -> float | None:
    return None if np.isnan(number) else float(number)


def _or_nan(number: float | None) -> float:
    return np.nan if number is None else number
