"""A dry run looks at the Ray that is there, and checks what it has room for."""

import pytest

from cvmae.dry_run.sections import cluster_section
from cvmae.settings import ScalingConfig

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.ray


def test_the_nodes_of_a_running_ray_are_told_and_checked(shared_ray):
    ray.shutdown()  # it is joined by its address, as the jobs do
    section = cluster_section(ScalingConfig(num_workers=2), trains=True)
    found = {line.name: (line.value, line.why) for line in section.lines}
    assert found["nodes there are"] == (1, "the running Ray")
    assert found["node 1"][0] == "8 CPUs, 0 GPUs"
    assert found["room for workers"][0] == 28  # 7 CPUs of 8, a quarter each
    with pytest.raises(ValueError, match="reserve 8 of the cluster's 8 CPUs"):
        cluster_section(ScalingConfig(num_workers=32))
    with pytest.raises(ValueError, match=r"scaling\.worker_labels=pool=gpu: no node"):
        cluster_section(ScalingConfig(num_workers=2, worker_labels=("pool=gpu",)))
