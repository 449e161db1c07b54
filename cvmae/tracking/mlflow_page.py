"""The page of an experiment: its address, and what is shown there first.

MLflow 3.17 opens for generative AI unless the address says otherwise, whatever the tags of an
experiment; and it draws a chart for each metric, in which the runs are the lines, so that a sweep's
own metrics never share one. The view below, which MLflow keeps as a tag of the experiment, shows
what is looked for: the error on tuning of runs that have finished, averaged over seeds, a line for
each group of a sweep's trials.
"""

import json
from typing import Any

from cvmae.config import without_password

__all__ = ["GROUP_TAG", "SWEEP_TAG", "VIEW_TAG", "experiment_page", "view"]

OWN_ADDRESS = "http://127.0.0.1:5000"  # where `mlflow ui` answers
SWEEP_TAG = "cvmae.sweep"
# Of what is trained, and in which sweep or on which data: with a key for each of these the legend
# would begin with the names of the keys, and be cut off before it says anything.
GROUP_TAG = "cvmae.group"
VIEW = "cvmae"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
CHARTS = ("tuning_mse", "tuning_r2")
MOST_LINES = 20


def experiment_page(uri: str, experiment_id: str) -> str:
    """Return the address of an experiment's charts, opened for the training of models.

    For a database it is that of an ``mlflow ui`` of one's own; '' where the store has another.
    """
    if uri.startswith("databricks"):
        return ""
    base = without_password(uri) if uri.startswith(("http://", "https://")) else OWN_ADDRESS
    return (
        f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"
        f"&compareRunsMode=CHART&viewStateShareKey={VIEW}"
    )


def view() -> str:
    """Return what is shown first, as MLflow's page writes down a view that a person shares."""
    section = "convergence"
    keys = [{"mode": "tag", "groupByData": GROUP_TAG}]
    columns = [f"metrics.`{name}`" for name in CHARTS] + ["params.`train.epochs`"]
    return json.dumps(
        {
            "searchFilter": "attributes.status = 'FINISHED'",
            "groupBy": {"aggregateFunction": "average", "groupByKeys": keys},
            "selectedColumns": columns,
            "compareRunSections": [
                {"uuid": section, "name": "Convergence", "display": True, "isReordered": False}
            ],
            "compareRunCharts": [_line(name, section) for name in CHARTS],
        }
    )


def _line(metric: str, section: str) -> dict[str, Any]:
    return {
        "type": "LINE",
        "uuid": f"{section}-{metric}",
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": False,
        "runsCountToCompare": MOST_LINES,
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "xAxisKey": "step",
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "lineSmoothness": 0,
        "selectedXAxisMetricKey": "",
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
        "range": {},
    }
