"""The verb `plan`: what a hospital costs on a cluster, on paper, from measured parts."""

from cvmae.plan.cluster import cluster_lines, num_units, planning_seconds
from cvmae.plan.inputs import input_lines, read_measured, resolve_inputs
from cvmae.plan.lines import format_lines
from cvmae.plan.memory import memory_lines
from cvmae.plan.settings import PlanConfig
from cvmae.plan.size import Size, known_size, size_of

__all__ = ["plan", "planned_size"]


def plan(config: PlanConfig) -> str:
    """Return the plan as text: inputs with their sources, then a line a figure.

    Raises:
        ValueError: There is no size to plan for, or `measured` holds no figures.
        FileNotFoundError: The data set or `measured` is not there.
    """
    measured = read_measured(config.measured) if config.measured else {}
    values, sources = resolve_inputs(measured, f"measured, {config.measured}")
    size = planned_size(config, values["rows_a_measurement"])
    if size.bytes_a_row is not None:
        values["bytes_a_row"], sources["bytes_a_row"] = size.bytes_a_row, "footers of root"
    planning_s = planning_seconds(size, num_units(size), config.num_gpus)
    lines = list(cluster_lines(values, planning_s, size, config.num_gpus))
    return "\n\n".join(
        [
            format_lines("what the plan starts from", "source", input_lines(values, sources)),
            format_lines(f"the data on {config.num_gpus} GPUs", "arithmetic", lines),
            format_lines("memory of a GPU, by model", "arithmetic", list(memory_lines())),
        ]
    )


def planned_size(config: PlanConfig, rows_a_measurement: float) -> Size:
    """Return the size that is planned for; see `plan` for what is refused."""
    if config.root:
        return size_of(config.root, config.num_measurements, rows_a_measurement)
    if not config.num_measurements:
        raise ValueError("nothing to plan for: give --root MEDS_DIR or --num_measurements NUMBER")
    return known_size(config.num_measurements, rows_a_measurement)
