import pytest

from tests.statistics.small_set import write_meds


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> str:
    return write_meds(tmp_path_factory.mktemp("meds") / "set")
