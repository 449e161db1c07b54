"""A model of a small hospital, as it is loaded from a checkpoint, with weights of no training."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cvmae.checkpoint import Loaded, Progress
from cvmae.config import PRESETS, Config, override
from cvmae.infer.embed import untrained
from cvmae.meds.labels import Labels
from cvmae.model.vomae import build_model
from tests.prepared import fit


@pytest.fixture(scope="session")
def model_of() -> Callable[..., Loaded]:
    """Return a function that fits a data set and makes a model for it."""

    def make(root: str, **changes: Any) -> Loaded:
        given = {
            "data.root": root,
            "data.min_count": 2,
            "data.sequence_length": 32,
            "scaling.num_workers": 0,
        }
        config: Config = override(PRESETS["tiny"], given | changes)
        fitted = fit(config)
        model = build_model(
            config.model, fitted.statistics.num_codes, config.seed, config.mask.target
        )
        return untrained(Loaded(model=model, config=config, fitted=fitted, progress=Progress()), 3)

    return make


@pytest.fixture(scope="session")
def loaded(hospital: str, model_of: Callable[..., Loaded]) -> Loaded:
    return model_of(hospital)


def labels_of(*rows: tuple[int, int, float], name: str = "dies") -> Labels:
    """Return labels (subject, time in microseconds, value), which are put in order."""
    subjects, times, values = zip(*sorted(rows), strict=True)
    return Labels(
        name=name,
        kind="boolean",
        subject_id_L=np.array(subjects, np.int64),
        time_us_L=np.array(times, np.int64),
        value_L=np.array(values, np.float64),
    )
