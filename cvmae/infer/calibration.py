"""Values that are hidden and restored, to learn how far from the truth a model's values are.

Residuals of `tuning` give intervals, values of `held_out` tell how many of them these hold. Values
are hidden by the uniform mask of the evaluation, and restored as `cvmae.infer.restoring` does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import numpy as np
import torch

from cvmae.arrays import Bools, Float32s, Floats, Ints
from cvmae.batches.columns import uniform_column
from cvmae.batches.evaluation import column_batches
from cvmae.checkpoint import Loaded
from cvmae.config import Config
from cvmae.infer.embed import may_hold, ready, why_not_finite
from cvmae.infer.imputed import interval
from cvmae.meds.dataset import Dataset, Source
from cvmae.meds.measurements import Measurements
from cvmae.meds.reading import read_unit
from cvmae.meds.units import Unit, plan_units
from cvmae.runtime.map_units import map_with
from cvmae.statistics.code_statistics import CodeStatistics
from cvmae.statistics.residuals import FEWEST_SUBJECTS, FEWEST_VALUES, Residuals

__all__ = ["Coverage", "Restored", "fit_residuals", "restore_hidden"]

# Shape letters: Q values that were hidden and restored, C codes.


@dataclass(frozen=True, kw_only=True, eq=False)
class Restored:
    """Values that were hidden, and what was expected of them; never leaves memory."""

    code_Q: Ints
    value_Q: Float32s  # in the code's unit, not clipped
    expected_Q: Float32s  # standardised
    subjects_C: Ints  # with such a value
    num_subjects: int

    @classmethod
    def total(cls, parts: Sequence[Self], num_codes: int) -> Self:
        """Put parts of different subjects together."""
        nothing = {"code_Q": np.int64, "value_Q": np.float32, "expected_Q": np.float32}
        columns: dict[str, Any] = {
            name: np.concatenate([np.empty(0, kind), *(getattr(part, name) for part in parts)])
            for name, kind in nothing.items()
        }
        return cls(
            **columns,
            subjects_C=np.sum([np.zeros(num_codes, np.int64), *(p.subjects_C for p in parts)], 0),
            num_subjects=sum(part.num_subjects for part in parts),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Coverage:
    """How many values lie in the interval of what is expected of them."""

    count_C: Ints
    held_C: Ints
    is_told_C: Bools  # False: of so few values or subjects that a share tells of single patients

    @classmethod
    def of(cls, restored: Restored, residuals: Residuals, statistics: CodeStatistics) -> Self:
        """Compare values that no quantile was taken of with their intervals."""
        code_Q, num_codes = restored.code_Q, statistics.num_codes
        _, low_Q, high_Q = interval(code_Q, restored.expected_Q, statistics, residuals)
        is_held_Q = (low_Q <= restored.value_Q) & (restored.value_Q <= high_Q)
        count_C = np.bincount(code_Q, minlength=num_codes)
        return cls(
            count_C=count_C,
            held_C=np.bincount(code_Q[is_held_Q], minlength=num_codes),
            is_told_C=(count_C >= FEWEST_VALUES)
            & (restored.subjects_C >= FEWEST_SUBJECTS)
            & ~np.isnan(residuals.low_C),
        )

    @property
    def share_C(self) -> Floats:
        """Return the share of each code's values that is held, NaN where it is not told."""
        return np.where(self.is_told_C, self.held_C / np.maximum(self.count_C, 1), np.nan)

    @property
    def num_told(self) -> int:
        """Return how many values are of codes that are told of."""
        return int(self.count_C[self.is_told_C].sum())

    @property
    def share(self) -> float:
        """Return the share of those values that is held, NaN where there are none.

        Of all values it would tell, by subtraction, what is not told of single codes.
        """
        return self.held_C[self.is_told_C].sum() / self.num_told if self.num_told else np.nan


def restore_hidden(
    model: Loaded, dataset: Dataset, split: str, config: Config, device: str
) -> Restored:
    """Hide a share of a split's values, and restore them.

    Args:
        model: That restores values.
        dataset: Has subjects in the split.
        split: One of `SPLITS`.
        config: Its `evaluate.mask_ratio` and `evaluate.seed` say what is hidden, its `scaling`
            where; on Ray, `start_ray` comes first.
        device: Of the model, where it is used.

    Raises:
        ValueError: A row cannot be read, or what comes out is not finite.
    """
    subject_S = dataset.members[split]
    units = [u for u in plan_units(dataset, config.data.unit_rows) if may_hold(u, subject_S)]
    setup = partial(
        _Restorer,
        model=model,
        source=Source(root=dataset.root, members={split: subject_S}),
        split=split,
        ratio=config.evaluate.mask_ratio,
        seed=config.evaluate.seed,
        device=device,
    )
    parts = list(map_with(setup, units, config.scaling, "restore hidden values"))
    return Restored.total(parts, model.fitted.statistics.num_codes)


def fit_residuals(restored: Restored, statistics: CodeStatistics, level: float) -> Residuals:
    """Return quantiles of the residuals of values that were hidden; values are clipped."""
    code_Q = restored.code_Q
    value_Q = statistics.standardise(code_Q, restored.value_Q).astype(np.float64)
    return Residuals.of(
        value_Q - restored.expected_Q,
        code_Q,
        restored.subjects_C,
        restored.num_subjects,
        statistics.codes,
        level,
    )


class _Restorer:
    """Hides and restores values of units, with a model that is prepared once a process."""

    def __init__(
        self, *, model: Loaded, source: Source, split: str, ratio: float, seed: int, device: str
    ) -> None:
        self._model, self._source, self._split = ready(model, device), source, split
        self._seed = seed
        self._column = uniform_column(ratio)

    def __call__(self, unit: Unit) -> Restored:
        """Return what became of the hidden values."""
        torch.set_num_threads(self._model.config.train.num_threads)
        lookup = self._model.fitted.statistics.lookup
        measurements, _ = read_unit(self._source, unit, lookup, self._split)
        return self._restore(measurements)

    def _restore(self, measurements: Measurements) -> Restored:
        model = self._model
        statistics, device = model.fitted.statistics, model.model.mask_token.device
        parts = [Restored.total([], statistics.num_codes)]
        subjects = [np.empty((0, 2), np.int64)]
        for batch in column_batches(
            measurements,
            statistics,
            self._column,
            sequence_length=model.config.data.sequence_length,
            seed=self._seed,
        ):
            with torch.inference_mode():
                expected_M = model.model(batch.batch.to(device)).float().cpu().numpy()
            if not np.isfinite(expected_M).all():
                raise ValueError(
                    f"hidden values are restored as NaN or infinite; {why_not_finite(model)}"
                )
            scored_N = batch.batch.hidden_M.numpy()[batch.scored_M]
            lengths_B = batch.batch.num_visible_B + batch.batch.num_hidden_B
            code_Q = batch.code_index_N[scored_N].astype(np.int64)
            subject_Q = np.repeat(batch.subject_id_B, lengths_B)[scored_N]
            subjects.append(np.stack([subject_Q, code_Q], axis=1))
            parts.append(
                replace(
                    parts[0],
                    code_Q=code_Q,
                    value_Q=batch.numeric_value_N[scored_N],
                    expected_Q=expected_M[batch.scored_M],
                )
            )
        pair_P2 = np.unique(np.concatenate(subjects), axis=0)
        return replace(
            Restored.total(parts, statistics.num_codes),
            subjects_C=np.bincount(pair_P2[:, 1], minlength=statistics.num_codes),
            num_subjects=len(np.unique(pair_P2[:, 0])),
        )
