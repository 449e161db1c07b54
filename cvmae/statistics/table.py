"""Code statistics and counts as text: what `fit_statistics` prints."""

from collections.abc import Mapping
from typing import Any

from cvmae.runtime.tables import counted, text_table
from cvmae.statistics.code_statistics import CodeStatistics

__all__ = ["count_lines", "format_statistics"]

SHOWN_DROPPED = 3
FEW_VALUES = 1000  # below which none lies beyond the default data.clip_quantiles


def format_statistics(
    statistics: CodeStatistics, report: Mapping[str, Any], names: Mapping[str, str]
) -> str:
    """Return a table of codes, and lines on what was counted and what was left out.

    Args:
        statistics: A line for each of its codes.
        report: What `fit` reports.
        names: Descriptions of codes, where there are any.
    """
    return "\n".join([_code_table(statistics, report, names), "", *count_lines(report, names)])


def _code_table(
    statistics: CodeStatistics, report: Mapping[str, Any], names: Mapping[str, str]
) -> str:
    flagged = set(report["flagged_codes"])
    notes = [
        _note(statistics, index, is_flagged=code in flagged)
        for index, code in enumerate(statistics.codes)
    ]
    rows = [
        (
            code,
            f"{statistics.num_values[index]:,}",
            f"{statistics.mean[index]:.4g}",
            f"{statistics.std[index]:.4g}",
            f"{statistics.cv[index]:.4f}",
            f"{statistics.raw_cv[index]:.4f}",
            names.get(code, ""),
            notes[index],
        )
        for index, code in enumerate(statistics.codes)
    ]
    headings = ("code", "values", "mean", "std", "CV", "raw CV", "", "")
    return text_table(headings, rows, align="<>>>>><<")


def _note(statistics: CodeStatistics, code: int, *, is_flagged: bool) -> str:
    """Say what a CV hides: a mean near zero, or values so few that slips of unit may make it."""
    notes = ["no natural zero: median mask weight"] if is_flagged else []
    if statistics.num_values[code] < FEW_VALUES:
        notes.append(f"few values: robust CV {statistics.robust_cv[code]:.4f}")
    return "; ".join(notes)


def count_lines(report: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """Return what was counted, and the first codes that were left out, with their names."""
    lines = []
    for split, counts in report["splits"].items():
        rows = counts["rows"]
        lines.append(
            f"{split}: {counted(counts['num_listed'], 'subject')}, {counts['num_subjects']:,} with "
            f"measurements ({counts['num_single']:,} with only one: not trained on), "
            f"{counted(counts['num_sequences'], 'sequence')} of "
            f"{counted(counts['num_measurements'], 'measurement')}"
        )
        lines.append(
            f"  rows: {rows['num_rows']:,}, of a code of the vocabulary {rows['num_matching']:,}; "
            f"of these without value {rows['num_null_value']:,}, not finite "
            f"{rows['num_non_finite']:,}, without time {rows['num_null_time']:,}"
        )
    rows = report["candidate_rows"]
    lines.append(
        f"train, all codes that match: {counted(rows['num_matching'], 'row')}, without value "
        f"{rows['num_null_value']:,}, not finite {rows['num_non_finite']:,}, without time "
        f"{rows['num_null_time']:,}"
    )
    lines.append(
        f"train repeats a subject, time and code {counted(report['num_duplicates'], 'time')} (kept)"
    )
    if report["num_subjects_without_split"]:
        lines.append(
            f"{counted(report['num_subjects_without_split'], 'subject')} in no split: not used"
        )
    dropped = list(report["dropped_codes"].items())
    if dropped:
        shown = [
            f"{code} ({names[code]}): {reason}" if code in names else f"{code}: {reason}"
            for code, reason in dropped[:SHOWN_DROPPED]
        ]
        more = "; ..." if len(dropped) > len(shown) else ""
        lines.append(
            f"{counted(len(dropped), 'matching code')} left out (all are named in data.json): "
            f"{'; '.join(shown)}{more}"
        )
    return lines
