"""What an evaluation says of each run, on its way to the run's tracking."""

import math
from collections.abc import Sequence

from cvmae.evaluate.contestants import Contestant
from cvmae.evaluate.models import load
from cvmae.evaluate.results import Results
from cvmae.tracking.results import RunResult

__all__ = ["run_results"]


def run_results(results: Results, contestants: Sequence[Contestant]) -> list[RunResult]:
    """Return the scores of each run: ``held_out_r2_pooled``, and so on; none that are not finite.

    Those of the weights with the least tuning error end in ``_best_weights``.
    """
    found = []
    for method in results.methods:
        own = [contestant for contestant in contestants if contestant.method == method.name]
        suffix = "_best_weights" if method.kind == "best weights" else ""
        for contestant, run in zip(own, method.runs, strict=True):
            scores = {"r2_pooled": run.r2_pooled, "r2_macro": run.r2_macro}
            metrics = {
                f"{results.settings.split}_{name}{suffix}": value
                for name, value in scores.items()
                if math.isfinite(value)
            }
            epoch = load(contestant, "cpu").progress.epoch
            found.append(RunResult(path=contestant.path, metrics=metrics, epoch=epoch))
    return found
