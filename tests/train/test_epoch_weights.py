"""Mask weights may change between epochs, and nothing that was read ahead has the old ones."""

from dataclasses import replace

import numpy as np

from cvmae.batches.bricks import stream_bricks
from cvmae.settings import MaskConfig
from cvmae.train import loop
from cvmae.train.pretrain import pretrain
from tests.prepared import training_data
from tests.train.changing_weights import adapting, train_recording, wanted_digests


def test_each_epoch_is_hidden_by_the_weights_that_the_one_before_has_led_to(tiny, monkeypatch):
    config, data = replace(tiny, train=replace(tiny.train, epochs=3)), training_data(tiny)
    plan, given = adapting(config, data), []

    def bricks(epoch, step, weight_C):
        given.append(weight_C)
        reader = replace(plan.train_reader, weight_C=weight_C)
        return stream_bricks(reader, plan.train_order, plan.units, epoch=epoch, step=step)

    digests, codes = train_recording(config, data, bricks, monkeypatch)
    assert digests == wanted_digests(config, data, codes)
    assert len(given) == 3
    assert not np.array_equal(given[0], given[1])
    assert not np.array_equal(given[1], given[2])


def test_epochs_are_read_ahead_again_once_sharpness_has_arrived(tiny, monkeypatch):
    ends, until = [], loop._train_until
    monkeypatch.setattr(loop, "_train_until", lambda *given: ends.append(given[2]) or until(*given))
    train = replace(tiny.train, epochs=3)
    pretrain(replace(tiny, train=train, mask=MaskConfig(policy="cv", anneal_epochs=1)))
    assert ends == [1, 3]


def test_all_that_reads_train_takes_its_weights_from_one_place(tiny):
    data = training_data(tiny)
    plan = adapting(tiny, data)
    assert np.array_equal(plan.train_reader.weight_C, plan.weights.of_epoch(0, None))
