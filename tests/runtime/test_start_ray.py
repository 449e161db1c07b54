"""What must be free in a cluster before work starts in it."""

import pytest

from cvmae.runtime.start_ray import check_resources
from cvmae.settings import ScalingConfig


def test_workers_leave_one_whole_cpu_to_the_readers():
    check_resources(ScalingConfig(num_workers=4, cpus_per_worker=1.0), cpus=5, gpus=0)
    with pytest.raises(ValueError, match=r"reserve 4 of the cluster's 4\.5 CPUs.*1 whole CPU"):
        check_resources(ScalingConfig(num_workers=4, cpus_per_worker=1.0), cpus=4.5, gpus=0)


def test_an_elastic_run_starts_with_fewer_nodes_than_it_would_like():
    elastic = ScalingConfig(num_workers=4, min_workers=2, cpus_per_worker=2.0, use_gpu=True)
    check_resources(elastic, cpus=5, gpus=2)
    with pytest.raises(ValueError, match=r"scaling\.min_workers=2 need as many GPUs"):
        check_resources(elastic, cpus=9, gpus=1)
    with pytest.raises(ValueError, match=r"2 workers .* reserve 4"):
        check_resources(elastic, cpus=4, gpus=2)


def test_an_elastic_run_would_take_every_cpu_that_it_finds():
    elastic = ScalingConfig(num_workers=4, min_workers=1, cpus_per_worker=1.0)
    with pytest.raises(ValueError, match=r"3 workers .* reserve 3"):
        check_resources(elastic, cpus=3, gpus=0)
    check_resources(elastic, cpus=5, gpus=0)
