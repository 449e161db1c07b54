"""Wait until a Ray at RAY_ADDRESS has as many nodes as are asked for, then run what follows.

    python await_nodes.py NUMBER [PROGRAM ...]

A run that begins before they have joined would be refused as too large for the cluster. The program
takes the place of this one, so that a signal reaches it.
"""

import os
import sys
import time

import ray

MOST_S = 1800  # a cloud takes minutes to find a node with GPUs, and more to load the image there


def await_nodes(wanted: int, most_s: float = MOST_S) -> None:
    """Return once `wanted` nodes have joined, or end the process and say how many have."""
    alive, deadline = 0, time.monotonic() + most_s
    while alive < wanted:
        if time.monotonic() > deadline:
            sys.exit(
                f"{alive} of {wanted} nodes have joined Ray in {most_s:g} s: see what `ray start` "
                "printed on the others, or why they were not provided"
            )
        time.sleep(min(2.0, most_s))
        try:
            if not ray.is_initialized():
                ray.init(log_to_driver=False, logging_level="error")
            alive = sum(node["Alive"] for node in ray.nodes())
        except (ConnectionError, RuntimeError):  # the head is not there yet
            ray.shutdown()
    resources = ray.cluster_resources()
    print(
        f"{alive} nodes, {resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs",
        flush=True,
    )


if __name__ == "__main__":
    number, *program = sys.argv[1:]
    await_nodes(int(number))
    ray.shutdown()
    if program:
        os.execvp(program[0], program)
