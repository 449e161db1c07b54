"""What is kept of a finished run: its learning curves, and the last epoch of each code."""

from typing import Any

from cvmae.checkpoint import Progress, read_progress
from cvmae.config import Config
from cvmae.storage.folders import is_file, join
from cvmae.tracking.tracker import Tracker
from cvmae.train.epoch_report import CODE_METRICS, last_epoch

__all__ = ["draw_run"]

BLUE, GREY = "#0072b2", "#999999"  # Okabe and Ito: safe for colour blindness


def draw_run(config: Config, tracker: Tracker) -> None:
    """Keep learning curves and a table of codes of a finished run with its tracking."""
    from cvmae.runtime.figures import attempted  # matplotlib, only now

    with attempted("figure learning_curves"):
        progress = read_progress(config.output_dir)
        tracker.log_figure(_learning_curves(progress), "learning_curves")
    codes = join(config.output_dir, CODE_METRICS)
    with attempted("table code_metrics"):
        if is_file(codes):
            tracker.log_artifact(codes)
            rows = last_epoch(codes)
            tracker.log_table(rows.drop_columns(["epoch"]).to_pydict(), "code_metrics")


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
