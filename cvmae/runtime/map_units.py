"""Apply a function to every unit: in this process, or as Ray Data tasks."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

from cvmae.settings import ScalingConfig

__all__ = ["map_units"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_units(
    function: Callable[[Item], Result], units: Sequence[Item], scaling: ScalingConfig, label: str
) -> Iterator[Result]:
    """Yield ``function(unit)`` for every unit, in unit order, with a progress bar.

    Args:
        function: Picklable, such as a partial of a module's function; pure, since Ray may run
            it again when a worker is lost.
        units: Whatever describes the work; each item travels to one task.
        scaling: ``num_workers = 0`` stays in the calling process.
        label: What the progress bar says.
    """
    if scaling.num_workers == 0:
        results: Iterator[Result] = map(function, units)
    else:
        from cvmae.runtime.ray_tasks import map_on_ray  # Ray only where it is asked for

        results = map_on_ray(function, units)
    yield from tqdm(results, total=len(units), desc=label, unit="unit", mininterval=1.0)
