"""What an evaluation says of each run, on its way to the run's tracking."""

import math
from collections.abc import Iterator, Mapping, Sequence

from cvmae.evaluate.contestants import Contestant
from cvmae.evaluate.downstream.candidates import PUBLISHED
from cvmae.evaluate.downstream.results import Task
from cvmae.evaluate.downstream.rows import COMPARED
from cvmae.evaluate.models import load
from cvmae.evaluate.results import Results
from cvmae.storage.safe_names import safe_name
from cvmae.tracking.results import RunResult

__all__ = ["run_results"]

Metrics = dict[str, float]


def run_results(results: Results, contestants: Sequence[Contestant]) -> list[RunResult]:
    """Return the scores of each run: ``held_out_r2_pooled``, and so on; none that are not finite.

    Those of the weights with the least tuning error end in ``_best_weights``. Of each task there
    are those of the features that were chosen on tuning, ``held_out_TASK_auroc``, and of the
    published ones, ``held_out_TASK_auroc_mean``.

    Args:
        results: Of the evaluation.
        contestants: All that it was given.
    """
    told: dict[Contestant, Metrics] = {}
    split = results.settings.split
    for method in results.methods:
        own = [contestant for contestant in contestants if contestant.method == method.name]
        suffix = "_best_weights" if method.kind == "best weights" else ""
        for contestant, run in zip(own, method.runs, strict=True):
            scores = {"r2_pooled": run.r2_pooled, "r2_macro": run.r2_macro}
            told[contestant] = _finite(
                {f"{split}_{name}{suffix}": value for name, value in scores.items()}
            )
    runs = {(c.name, c.path): c for c in contestants if c.which == "last"}
    for task in results.downstream.tasks if results.downstream else ():
        for key, metrics in _of_task(task, split):
            told.setdefault(runs[key], {}).update(_finite(metrics))
    return [
        RunResult(path=c.path, metrics=metrics, epoch=load(c, "cpu").progress.epoch)
        for c, metrics in told.items()
    ]


def _of_task(task: Task, split: str) -> Iterator[tuple[tuple[str, str], Metrics]]:
    """Yield name and path of a run, and what some features of it score."""
    called = safe_name(task.support.name, plus=False)  # what MLflow allows
    for row in task.probes:
        ends = [""] if row.chosen else []
        ends += [f"_{PUBLISHED}"] if row.features == PUBLISHED else []
        for name in COMPARED[task.support.kind == "boolean"]:
            score = row.scores[name]
            if score.undefined:
                continue
            for path, value in zip(row.checkpoints, score.seeds, strict=False):  # none: no model
                yield (row.method, path), {f"{split}_{called}_{name}{end}": value for end in ends}


def _finite(metrics: Mapping[str, float]) -> Metrics:
    return {name: value for name, value in metrics.items() if math.isfinite(value)}
