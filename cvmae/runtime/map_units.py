"""Apply a function to every unit: in this process, or on Ray, as tasks or by a pool of actors."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

from cvmae.settings import ScalingConfig

__all__ = ["map_units", "map_with"]

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
        scaling: ``num_workers = 0`` stays in the calling process; else tasks run on nodes with
            ``data_labels``.
        label: What the progress bar says.
    """
    if scaling.num_workers == 0:
        results: Iterator[Result] = map(function, units)
    else:
        from cvmae.runtime.ray_tasks import map_on_ray  # Ray only where it is asked for

        results = map_on_ray(function, units, scaling.data_labels)
    yield from _with_progress(results, len(units), label)


def map_with(
    setup: Callable[[], Callable[[Item], Result]],
    units: Sequence[Item],
    scaling: ScalingConfig,
    label: str,
) -> Iterator[Result]:
    """Yield ``setup()(unit)`` for every unit, in unit order, with a progress bar.

    On Ray, `scaling.num_workers` processes make what they need once and keep it, such as a model;
    each has `scaling.cpus_per_worker` CPUs, and a GPU where `scaling.use_gpu` says so, on a node
    with `scaling.worker_labels`. A unit that takes its process down is tried three times.

    Args:
        setup: Picklable, such as a partial of a class; called once a process.
        units: Whatever describes the work; each item travels to one process.
        scaling: ``num_workers = 0`` stays in the calling process.
        label: What the progress bar says.
    """
    if not units:
        return
    if scaling.num_workers == 0:
        results: Iterator[Result] = map(setup(), units)
    else:
        from cvmae.runtime.ray_actors import map_on_actors  # Ray only where it is asked for

        results = map_on_actors(setup, units, scaling)
    yield from _with_progress(results, len(units), label)


def _with_progress(results: Iterator[Result], total: int, label: str) -> Iterator[Result]:
    yield from tqdm(results, total=total, desc=label, unit="unit", mininterval=1.0)
