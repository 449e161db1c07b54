"""What is written at the end of each epoch: metrics of the run, and those of each code."""

import logging
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cvmae.batches.code_metrics import CodeMetrics
from cvmae.config import Config
from cvmae.runtime.ranks import rank
from cvmae.storage.folders import is_file, join, local_copy, written
from cvmae.tracking.tracker import Tracker

__all__ = ["CODE_METRICS", "EpochReport", "last_epoch"]

CODE_METRICS = "code_metrics.parquet"  # a row per epoch and code

logger = logging.getLogger("cvmae")


def last_epoch(path: str) -> pa.Table:
    """Return the rows of the last epoch in a run's `CODE_METRICS`."""
    with local_copy(path) as file:
        table = pq.read_table(file)
    return table.filter(pc.equal(table["epoch"], pc.max(table["epoch"])))


class EpochReport:
    """Called by the loop at the end of each epoch; rank 0 writes metrics, and those of codes."""

    def __init__(self, config: Config, codes: tuple[str, ...], tracker: Tracker | None) -> None:
        self._path = join(config.output_dir, CODE_METRICS)
        self._codes, self._tracker = codes, tracker

    def __call__(self, metrics: Mapping[str, float], codes: CodeMetrics | None) -> None:
        """Write one epoch, or what is missing of it."""
        if rank() != 0 or self._tracker is None:
            return
        epoch = int(metrics["epoch"])
        # First what compares runs: MLflow's page takes up the first metric it is given. An epoch is
        # the axis of its charts, and the step a straight line in them.
        tuning = {name: value for name, value in metrics.items() if name.startswith("tuning_")}
        numbers = {n: v for n, v in (tuning | dict(metrics)).items() if n not in ("epoch", "step")}
        try:
            self._tracker.log_metrics(numbers, step=epoch)
            if codes is not None:
                self._write_codes(epoch, codes)
        except (OSError, ValueError) as error:  # the weights are worth more than these
            logger.warning("metrics of epoch %d are not written (%s)", epoch, error)

    def _write_codes(self, epoch: int, codes: CodeMetrics) -> None:
        columns = codes.as_columns()
        table = pa.table(
            {
                "epoch": pa.array([epoch] * len(self._codes), pa.int32()),
                "code": list(self._codes),
                **columns,
                "tuning_count": pa.array(map(int, columns["tuning_count"]), pa.int64()),
            }
        )
        if is_file(self._path):
            with local_copy(self._path) as path:
                earlier = pq.read_table(path)
            earlier = earlier.filter(pa.compute.less(earlier["epoch"], epoch))
            table = pa.concat_tables([earlier, table])
        with written(self._path) as path:
            pq.write_table(table, path)
