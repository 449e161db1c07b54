"""Where kernels run: compiled on a GPU, interpreted on a CPU."""

from typing import NamedTuple

import pytest
import torch

from cvmae.model.kernels import HAVE_KERNELS


class Place(NamedTuple):
    """Where kernels run, and in which precision."""

    device: str
    kind: torch.dtype  # Triton's interpreter does not know bfloat16
    rounding: float  # relative, of sums of values that are each rounded to it
    num_rows: int  # no multiple of a block; few where each block takes a millisecond


PLACES = [
    pytest.param(
        Place("cpu", torch.float16, 1e-3, num_rows=101),
        id="interpreted",
        marks=pytest.mark.skipif(
            torch.cuda.is_available() or not HAVE_KERNELS, reason="a GPU is there, or no Triton"
        ),
    ),
    pytest.param(
        Place("cuda", torch.bfloat16, 1e-2, num_rows=1037),
        id="compiled",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ],
    ),
]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Run the test where kernels can run here."""
    found: Place = request.param
    if found.device == "cpu":
        run_few_programs(monkeypatch)
    return found


def run_few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let kernels that sum over rows do so in few programs: each meets several blocks of rows."""
    from cvmae.model.kernels import gelu, norm

    monkeypatch.setattr(norm, "PROGRAMS", 3)
    monkeypatch.setattr(gelu, "PROGRAMS", 32)  # shared among blocks of columns, 16 at most here


@pytest.fixture
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpret kernels that sum over rows in seconds."""
    run_few_programs(monkeypatch)
