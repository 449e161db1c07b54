"""Weights that change between epochs reach the tasks that hide values, wherever they run."""

from dataclasses import replace

import pytest

from tests.prepared import training_data
from tests.train.changing_weights import adapting, train_recording, wanted_digests

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]


def test_tasks_on_ray_hide_by_the_weights_of_their_epoch(tiny, monkeypatch):
    from cvmae.batches.on_ray import Cursor, brick_dataset, ray_bricks

    config, data = replace(tiny, train=replace(tiny.train, epochs=3)), training_data(tiny)
    plan = adapting(config, data)
    shard = brick_dataset(plan.train_reader, plan.train_order, plan.units).iterator()

    def bricks(epoch, step, weight_C):
        return ray_bricks(shard, Cursor(epoch=epoch, step=step, rank=0, world=1, weight_C=weight_C))

    digests, codes = train_recording(config, data, bricks, monkeypatch)
    assert digests == wanted_digests(config, data, codes)
