"""What is kept of a finished run: its learning curves, and the last epoch of each code."""

from collections.abc import Mapping
from typing import Any

from cvmae.checkpoint import Progress, read_progress
from cvmae.config import Config
from cvmae.storage.folders import is_file, join
from cvmae.tracking.tracker import Tracker
from cvmae.train.epoch_report import CODE_METRICS, last_epoch

__all__ = ["draw_finetuning", "draw_run"]

BLUE, GREY = "#0072b2", "#999999"  # Okabe and Ito: safe for colour blindness


def draw_run(config: Config, tracker: Tracker) -> None:
    """Keep learning curves and a table of codes of a finished run with its tracking."""
    from cvmae.runtime.figures import attempted  # matplotlib, only now

    with attempted("figure learning_curves"):
        progress = read_progress(config.output_dir)
        curves = {
            "train_loss": "train, under the policy's mask",
            "tuning_mse": "tuning, under the fixed uniform mask",
        }
        figure = _learning_curves(progress, curves, "mean squared error on z")
        tracker.log_figure(figure, "learning_curves")
    codes = join(config.output_dir, CODE_METRICS)
    with attempted("table code_metrics"):
        if is_file(codes):
            tracker.log_artifact(codes)
            rows = last_epoch(codes)
            tracker.log_table(rows.drop_columns(["epoch"]).to_pydict(), "code_metrics")


def draw_finetuning(config: Config, tracker: Tracker) -> None:
    """Keep learning curves of a finished fine-tuning with its tracking."""
    from cvmae.runtime.figures import attempted  # matplotlib, only now

    with attempted("figure learning_curves"):
        curves = {"train_loss": "train", "tuning_loss": "tuning"}
        figure = _learning_curves(read_progress(config.output_dir), curves, "cross-entropy")
        tracker.log_figure(figure, "learning_curves")


def _learning_curves(progress: Progress, curves: Mapping[str, str], measure: str) -> Any:
    from cvmae.runtime.figures import Figure

    figure = Figure(figsize=(6, 3.6))
    axes = figure.subplots()
    epochs = [entry["epoch"] for entry in progress.history]
    for (name, text), colour in zip(curves.items(), (GREY, BLUE), strict=True):
        axes.plot(epochs, [entry[name] for entry in progress.history], color=colour, label=text)
    axes.set(xlabel="epoch", ylabel=measure)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
