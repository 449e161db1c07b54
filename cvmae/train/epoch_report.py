"""What is written at the end of each epoch: metrics, and how often each code was hidden."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cvmae.config import Config
from cvmae.runtime.ranks import rank
from cvmae.storage.folders import is_file, join, local_copy, written
from cvmae.tracking.tracker import Tracker

__all__ = ["EpochReport"]

logger = logging.getLogger("cvmae")


class EpochReport:
    """Called by the loop at the end of each epoch; rank 0 writes metrics and mask rates."""

    def __init__(self, config: Config, codes: tuple[str, ...], tracker: Tracker | None) -> None:
        self._path = join(config.output_dir, "mask_rates.parquet")
        self._codes, self._tracker = codes, tracker

    def __call__(
        self, metrics: Mapping[str, float], mask_rate_C: "np.ndarray[Any, Any] | None"
    ) -> None:
        """Write one epoch, or what is missing of it."""
        if rank() != 0 or self._tracker is None:
            return
        epoch = int(metrics["epoch"])
        numbers = {name: value for name, value in metrics.items() if name != "epoch"}
        if mask_rate_C is not None and not np.isnan(mask_rate_C).all():
            numbers["mask_rate_lowest"] = float(np.nanmin(mask_rate_C))
            numbers["mask_rate_highest"] = float(np.nanmax(mask_rate_C))
        try:
            self._tracker.log_metrics(numbers, step=epoch)
            if mask_rate_C is not None:
                self._write_mask_rates(epoch, mask_rate_C)
        except (OSError, ValueError) as error:  # the weights are worth more than these
            logger.warning("metrics of epoch %d are not written (%s)", epoch, error)

    def _write_mask_rates(self, epoch: int, mask_rate_C: "np.ndarray[Any, Any]") -> None:
        table = pa.table(
            {
                "epoch": pa.array([epoch] * len(self._codes), pa.int32()),
                "code": list(self._codes),
                "mask_rate": mask_rate_C,
            }
        )
        if is_file(self._path):
            with local_copy(self._path) as path:
                earlier = pq.read_table(path)
            earlier = earlier.filter(pa.compute.less(earlier["epoch"], epoch))
            table = pa.concat_tables([earlier, table])
        with written(self._path) as path:
            pq.write_table(table, path)
