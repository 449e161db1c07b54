"""What is kept of a finished run: two figures, and the last epoch of each code as a table."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cvmae.checkpoint import Progress, read_progress
from cvmae.config import Config
from cvmae.storage.folders import is_file, join, local_copy
from cvmae.tracking.tracker import Tracker
from cvmae.train.epoch_report import CODE_METRICS

__all__ = ["draw_run"]

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#999999"  # Okabe and Ito: safe for colour blindness


def draw_run(config: Config, tracker: Tracker) -> None:
    """Draw learning curves and mask rates of a finished run into its tracking, beside a table."""
    from cvmae.runtime.figures import attempted  # matplotlib, only now

    with attempted("figure learning_curves"):
        progress = read_progress(config.output_dir)
        tracker.log_figure(_learning_curves(progress), "learning_curves")
    codes = join(config.output_dir, CODE_METRICS)
    with attempted("figure mask_rates"):
        if is_file(codes):
            tracker.log_artifact(codes)
            rows = _last_epoch(codes)
            tracker.log_table(rows.drop_columns(["epoch"]).to_pydict(), "code_metrics")
            tracker.log_figure(_mask_rates(rows, config.mask.ratio), "mask_rates")


def _last_epoch(codes: str) -> pa.Table:
    with local_copy(codes) as path:
        table = pq.read_table(path)
    return table.filter(pc.equal(table["epoch"], pc.max(table["epoch"])))


def _learning_curves(progress: Progress) -> Any:
    from cvmae.runtime.figures import Figure

    figure = Figure(figsize=(6, 3.6))
    axes = figure.subplots()
    epochs = [entry["epoch"] for entry in progress.history]
    for name, text, colour in (
        ("train_loss", "train, under the policy's mask", GREY),
        ("tuning_mse", "tuning, under the fixed uniform mask", BLUE),
    ):
        axes.plot(epochs, [entry[name] for entry in progress.history], color=colour, label=text)
    axes.set(xlabel="epoch", ylabel="mean squared error on z")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _mask_rates(rows: pa.Table, ratio: float) -> Any:
    from cvmae.runtime.figures import Figure

    rates = rows["mask_rate"].to_numpy()
    by_rate = np.argsort(-rates)
    figure = Figure(figsize=(6, 3.6))
    axes = figure.subplots()
    axes.bar(range(len(rates)), rates[by_rate], color=BLUE, width=0.9)
    axes.axhline(ratio, color=ORANGE, linewidth=1)
    axes.annotate(
        f"mask.ratio {ratio:g}", (len(rates) - 1, ratio), color=ORANGE, ha="right", va="bottom"
    )
    axes.set(xlabel="codes, most often hidden first", ylabel="share of values hidden", ylim=(0, 1))
    axes.spines[["top", "right"]].set_visible(False)
    return figure
