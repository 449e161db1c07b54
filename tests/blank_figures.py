"""Figures are kept as blank pages unless a test is about them: they are half of a small run."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cvmae.runtime.figures import Figure

__all__ = ["blank", "drawing"]

SAVE = Figure.savefig
PIXEL = base64.b64decode(  # a PNG
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAsTj2FAAAAABJRU5ErkJggg=="
)


def _keep_pixel(figure: Figure, path: str | Path, **style: object) -> None:
    Path(path).write_bytes(PIXEL)


@contextmanager
def blank() -> Iterator[None]:
    """Keep a pixel for each figure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", _keep_pixel)
        yield


@contextmanager
def drawing() -> Iterator[None]:
    """Draw figures as the program does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", SAVE)
        yield
