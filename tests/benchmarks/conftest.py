"""A small synthetic hospital for the parts of the suite."""

import pytest

from benchmarks.hospitals import synthetic_hospital

NUM_ROWS = 40_000


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("benchmark")


@pytest.fixture(scope="session")
def small_hospital(folder):
    return synthetic_hospital(folder, NUM_ROWS)
