"""What a policy will hide of each code, said before training, and beside it what it has hidden."""

import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cvmae.arrays import Float32s, Floats, Ints
from cvmae.batches.bricks import windows_of
from cvmae.batches.code_metrics import ratio
from cvmae.batches.inclusion import inclusion_chances
from cvmae.batches.policies import sharpness_of
from cvmae.batches.sequences import gather_index
from cvmae.config import Config
from cvmae.meds.reading import read_units
from cvmae.runtime.tables import counted, text_table
from cvmae.statistics.code_statistics import CodeStatistics
from cvmae.statistics.table import FEW_VALUES
from cvmae.storage.folders import is_file, join, local_copy, written
from cvmae.tracking.tracker import Tracker
from cvmae.train.epoch_report import CODE_METRICS, last_epoch
from cvmae.train.streams import Plan

__all__ = [
    "MASK_TABLE",
    "Sample",
    "complete_mask_table",
    "read_sample",
    "warn_of_short_sequences",
    "warn_of_unfinished_anneal",
    "write_mask_table",
]

MASK_TABLE = "mask_table.parquet"
SAMPLE = 100_000  # measurements of train, or a unit of them, on which shares are expected
SHOWN_CODES = 40  # in the log, half of them those that are hidden most often
SHOWN_FEW = 5  # codes of few values that are named

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#999999"  # Okabe and Ito: safe for colour blindness

logger = logging.getLogger("cvmae")


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """The first sequences of train, on which it is told what will be hidden."""

    length_W: Ints
    code_index_N: Ints
    num_codes: int

    def chances(self, config: Config, weight_C: Float32s | None) -> Float32s:
        """Return the chance of each measurement to be hidden by some weights."""
        weight_N = None if weight_C is None else weight_C[self.code_index_N]
        if weight_N is not None and config.mask.draws_independently:
            return weight_N
        return inclusion_chances(self.length_W, weight_N, config.mask.ratio)

    def by_code(self, chance_N: Float32s) -> Floats:
        """Return the mean chance of each code, NaN where the sample has none of it."""
        count_C = np.bincount(self.code_index_N, minlength=self.num_codes)
        sum_C = np.bincount(self.code_index_N, chance_N, minlength=self.num_codes)
        return ratio(sum_C, count_C)


def read_sample(plan: Plan) -> Sample:
    """Read the first units of train that hold enough measurements.

    Raises:
        OSError: They cannot be read.
        ValueError: Likewise, or the data set has changed.
    """
    reader = plan.unweighted_reader
    num_units = int(np.searchsorted(np.cumsum(plan.train_order.num_measurements_U), SAMPLE)) + 1
    m = read_units(reader.source, plan.units[:num_units], reader.statistics.lookup, reader.split)
    windows = windows_of(reader, m, epoch=0)
    index_N = gather_index(windows.start_W, windows.length_W)
    return Sample(
        length_W=windows.length_W,
        code_index_N=m.code_index_N[index_N].astype(np.int64),
        num_codes=reader.statistics.num_codes,
    )


def write_mask_table(config: Config, plan: Plan, tracker: Tracker, *, aloud: bool) -> None:
    """Write how often each code will be hidden, and by which weight, into a run and its tracking.

    The shares are those of the last epoch; where weights follow from errors, which nobody knows
    yet, of the first.

    Args:
        config: Of the run.
        plan: What it reads, and its weights.
        tracker: Of the run.
        aloud: Log the table, too, and draw it.
    """
    try:
        sample = read_sample(plan)
        weight_C = plan.weights.of_epoch(config.train.epochs - 1, None)
        chance_N = sample.chances(config, weight_C)
        table = _table(plan.unweighted_reader.statistics, sample, chance_N, weight_C, config)
        _write(table, config, tracker)
    except (OSError, ValueError) as error:  # what is wrong with the data, training says
        logger.warning("%s is not written (%s)", MASK_TABLE, error)
        return
    if aloud:
        warn_of_short_sequences(config, sample)
        warn_of_unfinished_anneal(config)
        logger.info("%s", _as_text(table, config, float(chance_N.mean())))
        if few := _few_values_line(table):
            logger.info("%s", few)
        _draw(table, config, tracker)


def warn_of_short_sequences(config: Config, sample: Sample) -> None:
    """Say which sequences cannot meet the ratio, since one value of each stays visible.

    A ratio up to one half all sequences meet, since they have two values or more.
    """
    ratio, length_W = config.mask.ratio, sample.length_W
    is_short_W = ratio * length_W > length_W - 1
    if config.mask.draws_independently or not is_short_W.any():
        return
    logger.warning(
        "mask.ratio=%g cannot be met by sequences of fewer than %d measurements, of which one "
        "stays visible: %.1f%% of the first %d sequences of train, and %.3f of all values are "
        "hidden; lower it, or take it as an upper bound",
        *(ratio, math.ceil(1 / (1 - ratio) - 1e-9), 100 * is_short_W.mean(), len(length_W)),
        sample.chances(config, None).mean(),
    )


def warn_of_unfinished_anneal(config: Config) -> None:
    """Say that sharpness is still on its way when training ends."""
    mask, epochs = config.mask, config.train.epochs
    if mask.policy == "random" or mask.anneal_epochs < epochs:
        return
    logger.warning(
        "mask.anneal_epochs=%d is not below train.epochs=%d: sharpness ends at %.3g, and "
        "mask.sharpness=%g is never reached; lower it, or train longer",
        *(mask.anneal_epochs, epochs, sharpness_of(mask, epochs - 1), mask.sharpness),
    )


def complete_mask_table(config: Config, tracker: Tracker, *, aloud: bool) -> None:
    """Put beside the shares that were expected those that the last epoch has hidden."""
    place, metrics = join(config.output_dir, MASK_TABLE), join(config.output_dir, CODE_METRICS)
    try:
        if not (is_file(place) and is_file(metrics)):
            return
        with local_copy(place) as path:
            table = pq.read_table(path)
        column = table.column_names.index("realised_share")
        table = table.set_column(column, "realised_share", last_epoch(metrics)["mask_rate"])
        _write(table, config, tracker)
    except (OSError, ValueError) as error:
        logger.warning("%s is not completed (%s)", MASK_TABLE, error)
        return
    _draw(table, config, tracker)
    if aloud:
        logger.info("%s", _realised_line(table, config))


def _table(
    statistics: CodeStatistics,
    sample: Sample,
    chance_N: Float32s,
    weight_C: Float32s | None,
    config: Config,
) -> pa.Table:
    ones = np.ones(statistics.num_codes, np.float32)
    return pa.table(
        {
            "code": list(statistics.codes),
            "num_values": statistics.num_values,
            "cv": statistics.cv,
            "robust_cv": statistics.robust_cv,
            "weight": ones if weight_C is None else weight_C,
            "expected_share": sample.by_code(chance_N),
            "expected_share_random": sample.by_code(
                inclusion_chances(sample.length_W, None, config.mask.ratio)
            ),
            "realised_share": np.full(statistics.num_codes, np.nan),
        }
    )


def _write(table: pa.Table, config: Config, tracker: Tracker) -> None:
    place = join(config.output_dir, MASK_TABLE)
    with written(place) as path:
        pq.write_table(table, path)
    tracker.log_artifact(place)


def _as_text(table: pa.Table, config: Config, overall: float) -> str:
    rows = table.to_pylist()
    by_share = sorted(rows, key=lambda row: -np.nan_to_num(row["expected_share"], nan=-1.0))
    half = SHOWN_CODES // 2
    shown = by_share if len(rows) <= SHOWN_CODES else [*by_share[:half], *by_share[-half:]]
    cells = [
        (
            row["code"],
            *(f"{row[name]:.3f}" for name in ("cv", "robust_cv")),
            f"{row['weight']:.3g}",
            *(f"{row[name]:.1%}" for name in ("expected_share", "expected_share_random")),
        )
        for row in shown
    ]
    header = ("code", "CV", "robust CV", "weight", "hidden", "by random")
    left_out = f"; without {counted(len(rows) - len(shown), 'code')} between" * (
        len(shown) < len(rows)
    )
    return (
        f"what mask.policy={config.mask.policy} will hide{_when(config)}, {overall:.1%} of all "
        f"values (all codes are in {MASK_TABLE}{left_out}):\n{text_table(header, cells)}"
    )


def _when(config: Config) -> str:
    """Name the epoch of which shares are expected, where weights change."""
    mask, epochs = config.mask, config.train.epochs
    if mask.policy == "adaptive":
        return f" in the first epoch of {epochs}"
    is_moving = mask.anneal_epochs > 0 and mask.policy != "random"
    return f" in the last epoch of {epochs}" if is_moving else ""


def _few_values_line(table: pa.Table) -> str:
    """Name codes of few values, whose CV some unit slips may have made; '' where there are none."""
    few = [row for row in table.to_pylist() if row["num_values"] < FEW_VALUES]
    few.sort(key=lambda row: row["num_values"])
    named = [
        f"{row['code']} ({counted(row['num_values'], 'value')}): CV {row['cv']:.3g}, robust "
        f"{row['robust_cv']:.3g}"
        for row in few[:SHOWN_FEW]
    ]
    more = [f"and {len(few) - SHOWN_FEW} more"] if len(few) > SHOWN_FEW else []
    return f"few values: {'; '.join([*named, *more])}" if few else ""


def _realised_line(table: pa.Table, config: Config) -> str:
    rows = [row for row in table.to_pylist() if not np.isnan(row["realised_share"])]
    if not rows:
        return "nothing was hidden in the last epoch"
    least, most = (f(rows, key=lambda row: row["realised_share"]) for f in (min, max))
    expected = f"expected{_when(config)}"
    return (
        f"hidden in the last epoch: most often {most['code']} ({most['realised_share']:.1%}, "
        f"{most['expected_share']:.1%} {expected}), least often {least['code']} "
        f"({least['realised_share']:.1%}, {least['expected_share']:.1%} {expected}); all codes are "
        f"in {MASK_TABLE}"
    )


def _draw(table: pa.Table, config: Config, tracker: Tracker) -> None:
    from cvmae.runtime.figures import attempted  # matplotlib, only now

    with attempted("figure share_hidden"):
        tracker.log_figure(_shares(table, config), "share_hidden")


def _shares(table: pa.Table, config: Config) -> Any:
    from cvmae.runtime.figures import Figure

    columns = {name: table[name].to_numpy() for name in table.column_names if name != "code"}
    order = np.argsort(-np.nan_to_num(columns["expected_share"], nan=-1.0), kind="stable")
    place = np.arange(len(order))
    figure = Figure(figsize=(6, 3.6))
    axes = figure.subplots()
    for name, text, colour in (
        ("expected_share_random", "expected under random", GREY),
        ("expected_share", f"expected under {config.mask.policy}{_when(config)}", BLUE),
    ):
        axes.plot(place, columns[name][order], color=colour, label=text)
    if not np.isnan(columns["realised_share"]).all():
        text = "hidden in the last epoch"
        axes.plot(place, columns["realised_share"][order], ".", color=ORANGE, label=text)
    axes.set(xlabel="codes, most often hidden first", ylabel="share of values hidden", ylim=(0, 1))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
