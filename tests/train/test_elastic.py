"""How many workers a run may have: any number up to its lanes."""

from dataclasses import replace

import pytest

from cvmae.train.pretrain import pretrain


def test_more_workers_than_lanes_are_refused_before_anything_is_started(tiny):
    scaling = replace(tiny.scaling, num_workers=5)
    with pytest.raises(ValueError, match=r"scaling\.num_workers=5 is more than data\.lanes=4"):
        pretrain(replace(tiny, scaling=scaling))
