"""How far from the truth a model's values are, measured on values that are hidden and restored.

Residuals of `tuning` give intervals, values of `held_out` tell how many of them these hold. Of each
unit a part is kept, and parts are put together as they come, so that memory is bounded however many
there are: a sample of residuals, or counts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial, reduce
from typing import Generic, Self, TypeVar

import numpy as np
from meds.schema import held_out_split, tuning_split

from cvmae.arrays import Bools, Floats, Ints
from cvmae.checkpoint import Loaded
from cvmae.config import Config
from cvmae.infer.embed import ready
from cvmae.infer.hidden import Restored, restore_hidden
from cvmae.infer.imputed import interval
from cvmae.infer.unit_job import Numbered, units_asked
from cvmae.meds.dataset import Dataset, Source
from cvmae.meds.reading import read_unit
from cvmae.meds.units import plan_units
from cvmae.runtime.map_units import map_with
from cvmae.statistics.code_statistics import CodeStatistics
from cvmae.statistics.residual_sample import ResidualSample
from cvmae.statistics.residuals import FEWEST_SUBJECTS, FEWEST_VALUES, Residuals
from cvmae.storage.folders import join, local_copy, names, written

__all__ = ["Calibration", "Coverage"]

# Shape letters: Q values that were hidden and restored, C codes.


@dataclass(frozen=True, kw_only=True, eq=False)
class Coverage:
    """How many values lie in the interval of what is expected of them."""

    count_C: Ints  # of values that have an interval
    held_C: Ints
    subjects_C: Ints  # with such a value

    @classmethod
    def of(cls, restored: Restored, statistics: CodeStatistics, residuals: Residuals) -> Self:
        """Compare values that no quantile was taken of with their intervals."""
        num_codes, code_Q = statistics.num_codes, restored.code_Q
        _, low_Q, high_Q = interval(code_Q, restored.expected_Q, statistics, residuals)
        is_held_Q = (low_Q <= restored.value_Q) & (restored.value_Q <= high_Q)
        return cls(
            count_C=np.bincount(code_Q[~np.isnan(low_Q)], minlength=num_codes),
            held_C=np.bincount(code_Q[is_held_Q], minlength=num_codes),
            subjects_C=restored.subjects_C(num_codes),
        )

    def plus(self, other: Self) -> Self:
        """Add values of other subjects."""
        return type(self)(**{n: own_C + getattr(other, n) for n, own_C in vars(self).items()})

    @property
    def is_told_C(self) -> Bools:
        """Return which codes have enough values and subjects to tell of no single patient."""
        return (self.count_C >= FEWEST_VALUES) & (self.subjects_C >= FEWEST_SUBJECTS)

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


Part = TypeVar("Part", ResidualSample, Coverage)


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """A model whose residuals and coverage are measured on a data set, unit by unit.

    On Ray, `start_ray` comes first.
    """

    model: Loaded  # that restores values
    dataset: Dataset
    config: Config  # `evaluate` says what is hidden, `infer` how it is restored
    device: str  # of the model, where it is used
    folder: str = ""  # where each unit's part is kept and taken up again; empty: nowhere

    def residuals(self) -> Residuals:
        """Return quantiles of the residuals of values of tuning, clipped as in training.

        Raises:
            ValueError: A row cannot be read, or what comes out is not finite.
        """
        codes, own = self.model.fitted.statistics.codes, self.config.infer
        make = partial(_sample, seed=self.config.evaluate.seed)
        sample = ResidualSample.total(self._parts(tuning_split, ResidualSample, make), len(codes))
        return Residuals.of(sample, codes, own.level, past_only=own.past_only)

    def coverage(self, residuals: Residuals) -> Coverage:
        """Return how many values of held_out lie in intervals by these residuals.

        Raises:
            ValueError: As `residuals`.
        """
        nothing = np.zeros(len(residuals.codes), np.int64)
        none = Coverage(count_C=nothing, held_C=nothing, subjects_C=nothing)
        make = partial(Coverage.of, residuals=residuals)
        return reduce(Coverage.plus, self._parts(held_out_split, Coverage, make), none)

    def _parts(self, split: str, kind: type[Part], make: Callable[..., Part]) -> Iterator[Part]:
        """Yield what `make` makes of each unit's values that were hidden and restored."""
        subject_S = self.dataset.members[split]
        units = units_asked(plan_units(self.dataset, self.config.data.unit_rows), subject_S)
        folder = join(self.folder, split) if self.folder else ""
        there = set(names(folder)) if folder else set()
        for number, _ in units:
            if _part_file(number) in there:
                with local_copy(join(folder, _part_file(number))) as copy, np.load(copy) as columns:
                    part = kind(**columns)
                yield part
        setup = partial(
            _PartMaker,
            model=self.model,
            source=Source(root=self.dataset.root, members={split: subject_S}),
            split=split,
            config=self.config,
            device=self.device,
            make=make,
            folder=folder,
        )
        waiting = [item for item in units if _part_file(item[0]) not in there]
        yield from map_with(setup, waiting, self.config.scaling, f"restore values of {split}")


class _PartMaker(Generic[Part]):
    """Hides and restores values of units, with a model that is prepared once a process."""

    def __init__(
        self,
        *,
        model: Loaded,
        source: Source,
        split: str,
        config: Config,
        device: str,
        make: Callable[..., Part],
        folder: str,
    ) -> None:
        self._model, self._source, self._split = ready(model, device), source, split
        self._make: Callable[..., Part] = make
        self._config, self._folder = config, folder

    def __call__(self, item: Numbered) -> Part:
        """Return a unit's part, and keep it where a folder is given."""
        number, unit = item
        statistics = self._model.fitted.statistics
        measurements, _ = read_unit(self._source, unit, statistics.lookup, self._split)
        part: Part = self._make(restore_hidden(self._model, measurements, self._config), statistics)
        if self._folder:
            with written(join(self._folder, _part_file(number))) as aside, aside.open("wb") as file:
                np.savez(file, **vars(part))
        return part


def _part_file(number: int) -> str:
    """Return the name of the file of a unit's part."""
    return f"unit_{number:06d}.npz"


def _sample(restored: Restored, statistics: CodeStatistics, seed: int) -> ResidualSample:
    """Return residuals of all values of a unit."""
    code_Q, num_codes = restored.code_Q, statistics.num_codes
    value_Q = statistics.standardise(code_Q, restored.value_Q).astype(np.float64)
    return ResidualSample(
        code_Q=code_Q.astype(np.int32),
        residual_Q=value_Q - restored.expected_Q,
        draw_Q=restored.draws(seed),
        count_C=np.bincount(code_Q, minlength=num_codes),
        subjects_C=restored.subjects_C(num_codes),
        num_subjects=len(np.unique(restored.subject_id_Q)),
    )
