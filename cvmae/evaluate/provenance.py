"""How, where and when an evaluation came about."""

import datetime
import os
import platform
from dataclasses import dataclass

import torch

from cvmae.meds.files import dataset_name
from cvmae.tracking.origin import command, versions

__all__ = ["Hardware", "Provenance", "provenance"]

PACKAGES = ("cvmae", "torch", "numpy", "scipy", "pyarrow", "matplotlib")


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The machine."""

    machine: str
    num_cpus: int | None
    gpu: str


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What it takes to do it again."""

    command: str
    date: str
    data: str  # root of the data set
    dataset: str  # its name
    versions: dict[str, str]  # of Python and packages
    hardware: Hardware


def provenance(root: str) -> Provenance:
    """Return how, where and when the results on a data set come about: here and now."""
    return Provenance(
        command=command(),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        data=root,
        dataset=dataset_name(root),
        versions=dict.fromkeys(("python", *PACKAGES), "not installed") | versions(PACKAGES),
        hardware=Hardware(
            machine=platform.machine(),
            num_cpus=os.cpu_count(),
            gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        ),
    )
