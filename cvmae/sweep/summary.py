"""What a sweep has shown: every curve, and the last error of every code, of all trials.

`summary.json` holds it, small enough to be kept under version control: numbers have six digits,
and no path, no host and no subject is in it. Tables and figures are made from it alone, so that
several sweeps can be read together long after their folders are gone.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from cvmae.arrays import Bools, Floats
from cvmae.config import Config, flatten
from cvmae.evaluate.convergence import History
from cvmae.evaluate.results import to_json
from cvmae.statistics.code_statistics import CodeStatistics, flagged_codes
from cvmae.sweep.axes import axes_of, name_part, shown_value, trial_label
from cvmae.sweep.trials import Trial, progress_of, trial_status

__all__ = ["CodeRecord", "Summary", "TrialRecord", "read_summary", "summarise", "write_summary"]

# Settings that say where things lie, how fast, or who watches; and those that each trial names.
ELSEWHERE = re.compile(
    r"output_dir|resume|resume_allow|data\.(root|statistics|codes_file)"
    r"|(tracking|scaling|checkpoint|evaluate|sweep)\..*|mask\.policy|train\.epochs|seed"
)
# Settings in which sweeps may differ that are read together: what is hidden, and what it counts.
MASKING = re.compile(r"mask\..*|train\.(loss_weighting|visible_weight)")
DEFAULTS: dict[str, Any] = to_json(flatten(Config()))
UNSAID = object()  # equal to no value
DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class CodeRecord:
    """A code of the vocabulary, and its place among the others by coefficient of variation."""

    code: str
    num_values: int
    cv: float
    quartile: int | None  # 1 the most stable, 4 the most volatile; None where a CV says nothing


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial: what it was, and all that its epochs have shown."""

    trial: str
    label: str
    policy: str
    epochs: int
    seed: int
    axes: dict[str, Any]
    status: str
    curve: dict[str, tuple[float, ...]]  # metric -> its value by epoch
    codes: dict[str, tuple[float, ...]]  # column of `CodeMetrics` -> its value by code, at the end
    error: str = ""
    run_dir: str = ""

    @property
    def num_epochs(self) -> int:
        """Return how many epochs are done."""
        return len(self.curve.get("epoch", ()))

    @property
    def history(self) -> History:
        """Return the curve as one entry an epoch."""
        epochs = range(self.num_epochs)
        return [{name: values[e] for name, values in self.curve.items()} for e in epochs]

    def of_codes(self, column: str, where_C: Bools) -> float:
        """Return a figure of some codes, by their scored values; NaN where none was scored."""
        if not self.codes:
            return math.nan
        value_C, count_C = (np.array(self.codes[name]) for name in (column, "tuning_count"))
        use_C = where_C & (count_C > 0) & np.isfinite(value_C)
        total = count_C[use_C].sum()
        return float(value_C[use_C] @ count_C[use_C] / total) if total else math.nan


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All trials of one or more sweeps on the same codes."""

    settings: dict[str, Any]  # that all trials share
    schedulers: tuple[str, ...]
    codes: tuple[CodeRecord, ...]
    trials: tuple[TrialRecord, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def quartile_C(self) -> Floats:
        """Return the quartile of each code, NaN where it has none."""
        return np.array([code.quartile or math.nan for code in self.codes])

    def labels(self) -> dict[str, list[TrialRecord]]:
        """Return the trials of each label, its seeds."""
        found: dict[str, list[TrialRecord]] = {}
        for trial in self.trials:
            found.setdefault(trial.label, []).append(trial)
        return found

    def finished(self) -> dict[str, list[TrialRecord]]:
        """Return the finished trials of each label that has some."""
        labels = {k: [t for t in v if t.status == "finished"] for k, v in self.labels().items()}
        return {label: trials for label, trials in labels.items() if trials}


def summarise(
    config: Config,
    trials: Sequence[Trial],
    errors: Mapping[str, str],
    statistics: CodeStatistics,
    notes: Sequence[str] = (),
) -> Summary:
    """Read from the trials' folders what they have shown.

    Args:
        config: Of the sweep.
        trials: All of its grid.
        errors: Why trials failed in this attempt, by name.
        statistics: Of the codes.
        notes: What readers must know.
    """
    records = _labelled([_trial(trial, errors.get(trial.name, "")) for trial in trials])
    axes = {name for trial in trials for name in trial.axes}
    schedulers = {config.sweep.scheduler} - {"none"}
    if any(trial.status == "stopped" for trial in records):  # perhaps in an earlier attempt
        schedulers.add("asha")
    return Summary(
        settings={
            name: shown_value(name, value)
            for name, value in flatten(config).items()
            if not ELSEWHERE.fullmatch(name) and name not in axes
        },
        schedulers=tuple(sorted(schedulers)),
        codes=_codes(statistics),
        trials=records,
        notes=tuple(notes),
    )


def _labelled(
    trials: Sequence[TrialRecord], silent: Mapping[str, Any] | None = None
) -> tuple[TrialRecord, ...]:
    """Return the trials with labels that tell apart all but seeds.

    Args:
        trials: All that are read together.
        silent: Axes that go without saying at this value.
    """
    num_lengths, found = len({trial.epochs for trial in trials}), []
    for trial in trials:
        said = {n: v for n, v in trial.axes.items() if not silent or v != silent.get(n, UNSAID)}
        length = f" {trial.epochs} epochs" if num_lengths > 1 else ""
        found.append(replace(trial, label=trial_label(f"{trial.policy}{length}", said)))
    return tuple(found)


def _trial(trial: Trial, error: str) -> TrialRecord:
    progress = progress_of(trial.config.output_dir)
    names = dict.fromkeys(name for entry in progress.history for name in entry)
    codes = progress.last_codes or {}
    return TrialRecord(
        trial=trial.name,
        label="",  # follows from all of them
        policy=trial.config.mask.policy,
        epochs=trial.config.train.epochs,
        seed=trial.config.seed,
        axes=dict(trial.axes),
        status="failed" if error else trial_status(trial),
        curve={
            name: _rounded([entry.get(name, math.nan) for entry in progress.history])
            for name in names
        },
        codes={name: _rounded(values) for name, values in codes.items()},
        error=error,
        run_dir=trial.config.output_dir,
    )


def _codes(statistics: CodeStatistics) -> tuple[CodeRecord, ...]:
    """Rank codes by CV; those whose mean says nothing about their scale have no rank."""
    ranked = np.flatnonzero(~flagged_codes(statistics) & np.isfinite(statistics.cv))
    by_cv = ranked[np.argsort(statistics.cv[ranked], kind="stable")]
    quartile = {int(code): 1 + 4 * place // len(by_cv) for place, code in enumerate(by_cv)}
    return tuple(
        CodeRecord(
            code=code,
            num_values=int(statistics.num_values[place]),
            cv=_rounded([float(statistics.cv[place])])[0],
            quartile=quartile.get(place),
        )
        for place, code in enumerate(statistics.codes)
    )


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(f"{value:.{DIGITS}g}") for value in values)


def write_summary(summary: Summary, path: str | Path, **derived: Any) -> None:
    """Write everything but the trials' folders and errors, which name places.

    Args:
        summary: What is to be kept.
        path: Where.
        derived: What follows from it, for readers of the file.
    """
    tree = to_json(summary)
    for trial in tree["trials"]:
        del trial["error"], trial["run_dir"]
    text = json.dumps(tree | _rounded_tree(to_json(derived)), allow_nan=False)
    # A line for each trial and code: a change shows as one.
    text = text.replace('{"trial":', '\n{"trial":').replace('{"code":', '\n{"code":')
    text = text.replace(" \n", "\n")
    Path(path).write_text(text + "\n", encoding="utf-8")


def _rounded_tree(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _rounded_tree(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_rounded_tree(value) for value in tree]
    return float(f"{tree:.{DIGITS}g}") if isinstance(tree, float) else tree


def read_summary(*paths: str | Path) -> Summary:
    """Read what `write_summary` wrote, of several sweeps as if they were one.

    A setting that is an axis of one of them, or says how values are hidden, may differ: it becomes
    an axis of all trials, and stands in the label of those in which it is not the default.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The sweeps have other codes or other settings, or two of them the same trial.
    """
    read = [_of_json(json.loads(Path(path).read_text(encoding="utf-8"))) for path in paths]
    first = read[0]
    for path, other in zip(paths, read, strict=True):
        if other.codes != first.codes:
            raise ValueError(f"{path} has other codes than {paths[0]}: their errors do not compare")
    varied = _varied(paths, read)
    trials = [_on_axes(trial, summary, varied) for summary in read for trial in summary.trials]
    cells = [(t.policy, t.epochs, t.seed, *map(str, sorted(t.axes.items()))) for t in trials]
    if twice := [t.trial for t, cell in zip(trials, cells, strict=True) if cells.count(cell) > 1]:
        raise ValueError(f"{', '.join(map(str, paths))} hold the trial {twice[0]} twice")
    return Summary(
        settings={name: value for name, value in first.settings.items() if name not in varied},
        schedulers=tuple(dict.fromkeys(name for other in read for name in other.schedulers)),
        codes=first.codes,
        trials=_labelled(trials, _silent(varied) if len(read) > 1 else None),
        notes=tuple(dict.fromkeys(note for other in read for note in other.notes)),
    )


def _varied(paths: Sequence[str | Path], read: Sequence[Summary]) -> list[str]:
    """Return the settings in which trials of several sweeps differ, if all of them may."""
    axes = dict.fromkeys(name for one in read for trial in one.trials for name in trial.axes)
    for name in sorted({name for one in read for name in one.settings} - axes.keys()):
        values = [one.settings.get(name, DEFAULTS.get(name)) for one in read]
        for path, value in zip(paths, values, strict=True):
            if value != values[0] and not MASKING.fullmatch(name):
                raise ValueError(
                    f"{path} has {name}={value!r} and {paths[0]} {values[0]!r}: their errors do "
                    "not compare; read together what differs in its masking or in axes only"
                )
            if value != values[0]:
                axes[name] = None
    return list(axes)


def _on_axes(trial: TrialRecord, own: Summary, axes: Sequence[str]) -> TrialRecord:
    """Return a trial with a value of each axis, and of those that it lacked in its name."""
    values = {n: trial.axes.get(n, own.settings.get(n, DEFAULTS.get(n))) for n in axes}
    values = axes_of(trial.policy, values)
    silent = _silent(axes)
    added = [
        name_part(name, value)
        for name, value in values.items()
        if name not in trial.axes and value != silent.get(name, UNSAID)
    ]
    return replace(trial, axes=values, trial="_".join([trial.trial, *added]))


def _silent(axes: Sequence[str]) -> dict[str, Any]:
    """Return those axes that go without saying where they are the default."""
    return {name: DEFAULTS[name] for name in axes if MASKING.fullmatch(name) and name in DEFAULTS}


def _of_json(tree: Mapping[str, Any]) -> Summary:
    def numbers(columns: Mapping[str, list[float | None]]) -> dict[str, tuple[float, ...]]:
        return {
            name: tuple(math.nan if value is None else value for value in values)
            for name, values in columns.items()
        }

    return Summary(
        settings=dict(tree["settings"]),
        schedulers=tuple(tree["schedulers"]),
        codes=tuple(
            _known(CodeRecord, code, cv=math.inf if code["cv"] is None else code["cv"])
            for code in tree["codes"]
        ),
        trials=tuple(
            _known(TrialRecord, trial, curve=numbers(trial["curve"]), codes=numbers(trial["codes"]))
            for trial in tree["trials"]
        ),
        notes=tuple(tree["notes"]),
    )


def _known(kind: Any, tree: Mapping[str, Any], **own: Any) -> Any:
    names = {item.name for item in fields(kind)}
    return kind(**{name: value for name, value in tree.items() if name in names} | own)
