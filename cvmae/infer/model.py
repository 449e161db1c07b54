"""A trained model as Python code uses it: on data frames, in this process, without Ray."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cvmae.checkpoint import Loaded, load_model
from cvmae.infer.asked import KnownCodes
from cvmae.infer.embed import embed_moments, refuse_not_finite
from cvmae.infer.frames import (
    like,
    read_asked,
    read_measurements,
    read_missing,
    read_moments,
)
from cvmae.infer.histories import last_moments
from cvmae.infer.imputed import imputed_table
from cvmae.infer.matching import ENOUGH, Matching, matching_lines
from cvmae.infer.placing import is_measured
from cvmae.infer.pooling import Pooling, refuse_pooling
from cvmae.infer.registered import is_in_mlflow, model_in_mlflow
from cvmae.infer.restoring import refuse_imputing, restore
from cvmae.infer.unit_files import CodeSums, embedding_table
from cvmae.statistics.residuals import Residuals

__all__ = ["Model", "load"]

logger = logging.getLogger("cvmae")


@dataclass(frozen=True)
class Model:
    """A trained model with the vocabulary and the statistics that it was trained with."""

    loaded: Loaded

    def __repr__(self) -> str:
        """Say what it is; its statistics hold least and greatest values of codes."""
        config = self.loaded.config
        return (
            f"Model({len(self.codes)} codes, mask.policy={config.mask.policy}, "
            f"epoch={self.loaded.progress.epoch})"
        )

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes that it knows."""
        return self.loaded.fitted.statistics.codes

    def encode(
        self, measurements: Any, at: Any = None, *, pooling: Pooling = "mean+decoded"
    ) -> Any:
        """Embed subjects from what was known of them: see `cvmae.infer.pooling.pool`.

        The last `data.sequence_length` measurements at or before the time count, nothing later. A
        line on the codes that were found is logged.

        Args:
            measurements: Data frame (pandas, polars or Arrow) of MEDS columns: subject_id, time,
                code, numeric_value; rows in any order.
            at: Data frame with columns subject_id and prediction_time; None: each subject of whom
                there is a measurement, at its last one.
            pooling: ``mean``, of the model's width, or ``mean+decoded``, with a number for each
                code behind it.

        Returns:
            A frame of the same kind with columns subject_id, prediction_time, has_rows and
            embedding (float32): a row for each of `at`, in its order; zeros, and has_rows false,
            where nothing was known.

        Raises:
            TypeError: What was given is no data frame.
            ValueError: A column is missing or of another type, the model knows no code of it, what
                it makes of them is no number, or see `refuse_pooling`.
        """
        refuse_pooling(self.loaded, [pooling])
        statistics = self.loaded.fitted.statistics
        rows = read_measurements(measurements, statistics)
        moments = last_moments(rows) if at is None else read_moments(at)
        num_threads = torch.get_num_threads()
        try:
            embeddings = embed_moments(self.loaded, rows, moments, [pooling])
        finally:  # the process is not ours
            torch.set_num_threads(num_threads)
        refuse_not_finite(embeddings, self.loaded, "the model, rows of the frame")
        _tell(Matching.of(CodeSums.of(rows, statistics), statistics))
        embedding_LD = np.asarray(embeddings.embedding_LD[pooling])
        return like(embedding_table(moments, embedding_LD, embeddings.has_rows_L), measurements)

    def impute(self, measurements: Any, asked: Any = None, *, past_only: bool = False) -> Any:
        """Return what the model expects of rows, from all other measurements around them.

        Earlier and later measurements of the subject are seen, in the window that is nearest in
        time; a row that was measured is hidden first. A line on the codes that were found is
        logged.

        Args:
            measurements: As for `encode`.
            asked: Data frame with columns subject_id, time and code; None: each row of
                `measurements` with a code of the model, a time and no value, unless the same code
                has a value at the same time.
            past_only: See only the last measurements at or before the time of a row, as at the
                bedside. Values restored from later ones are no basis of a prediction.

        Returns:
            A frame of the same kind with columns subject_id, time, code, numeric_value,
            interval_low and interval_high, in the code's own unit: a row for each of `asked`, in
            its order, or by subject, time and code; null where the subject has no measurement that
            may be seen. The interval holds `infer.level` of values as `tuning` had them, and is
            null where the model was not exported with residuals of this way of restoring.

        Raises:
            TypeError: What was given is no data frame.
            ValueError: A column is missing or of another type, the model knows no code of it or
                not one that is asked for, what it makes of them is no number, or see
                `refuse_imputing`.
        """
        refuse_imputing(self.loaded)
        statistics = self.loaded.fitted.statistics
        known = KnownCodes.of(statistics)
        rows = read_measurements(measurements, statistics)
        if asked is None:
            wanted = read_missing(measurements, known).in_order()
            wanted = wanted.take(~is_measured(rows, wanted.as_entries(known)))
        else:
            wanted = read_asked(asked, known)
        num_threads = torch.get_num_threads()
        try:
            z_L = restore(
                self.loaded,
                rows,
                wanted.as_entries(known),
                "the model, rows of the frame",
                past_only=past_only,
            )
        finally:  # the process is not ours
            torch.set_num_threads(num_threads)
        _tell(Matching.of(CodeSums.of(rows, statistics), statistics))
        return like(
            imputed_table(wanted, z_L, statistics, self._residuals(past_only)), measurements
        )

    def _residuals(self, past_only: bool) -> Residuals | None:
        """Return the residuals of a way of restoring; say how to get some where there are none."""
        residuals = self.loaded.residuals
        if residuals is not None and residuals.past_only == past_only:
            return residuals
        has = "no residuals" if residuals is None else "residuals of the other way of restoring"
        logger.warning(
            "intervals are null: this model has %s; export it with --data.root of a data set and "
            "--infer.past_only %s (jobs/export.py), whose tuning split gives them, and load that",
            has,
            past_only,
        )
        return None


def _tell(matching: Matching) -> None:
    """Log which codes were found; as a warning where values, or codes, are unlike the model's."""
    found, *unlike = matching_lines(matching)
    are_few = 2 * np.count_nonzero(matching.count_C) < len(matching.codes)
    is_enough = matching.count_C.sum() >= ENOUGH  # of a patient's few rows that is as it should be
    logger.log(logging.WARNING if are_few and is_enough else logging.INFO, "%s", found)
    for line in unlike:
        logger.warning("%s", line.strip())


def load(path: str, device: str = "cpu") -> Model:
    """Load a trained model; see `cvmae.load`."""
    path = str(path)  # or a `pathlib.Path`
    if is_in_mlflow(path):
        with model_in_mlflow(path) as folder:
            return Model(load_model(folder, device))
    return Model(load_model(path, device))
