"""The network interface by which the ranks of a group reach each other."""

import os
import platform
import socket
from collections.abc import Mapping, MutableMapping, Sequence

import psutil

__all__ = ["name_interface"]

GLOO, NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"


def name_interface(address: str, environ: MutableMapping[str, str] = os.environ) -> str:
    """Tell Gloo and NCCL by which interface others reach this host, unless the user has.

    Left alone, Gloo listens where the host's own name leads, which is loopback on many hosts, and
    NCCL wherever it looks first, which may be a network of containers.

    Args:
        address: By which the cluster knows this host; where no interface holds it, as behind a
            translation of addresses, nothing is changed.
        environ: Read by both when the group is formed.

    Returns:
        Host, interfaces and what is set, for the message if the group cannot be formed.

    Raises:
        ValueError: A variable that the user has set names no interface of this host.
    """
    held = _addresses()
    for variable in (GLOO, NCCL):
        if (value := environ.get(variable, "")) and not _names_one(value, held):
            raise ValueError(
                f"{variable}={value} names no interface of {_shown(address, held)}: set it in the "
                "environment of `ray start` on that host, or leave it unset"
            )
    found = next((name for name, own in held.items() if address in own), "")
    if found:
        environ.setdefault(GLOO, found)
        environ.setdefault(NCCL, f"={found}")  # eth1 alone would also stand for eth10
    return f"{_shown(address, held)}; {GLOO}={environ.get(GLOO, '')}"


def _addresses() -> dict[str, list[str]]:
    """Return the IP addresses of each interface of this host."""
    families = (socket.AF_INET, socket.AF_INET6)
    return {
        name: [own.address.partition("%")[0] for own in addresses if own.family in families]
        for name, addresses in psutil.net_if_addrs().items()
    }


def _names_one(value: str, names: Mapping[str, Sequence[str]]) -> bool:
    """Tell whether there is an interface of a name; NCCL takes beginnings, too, =name and ^name.

    Example:
        >>> [_names_one(value, {"lo": [], "eth0": []}) for value in ("eth", "=eth0", "^lo", "ens5")]
        [True, True, True, False]
    """
    beginnings = tuple(value.removeprefix("=").split(","))
    return value.startswith("^") or any(name.startswith(beginnings) for name in names)


def _shown(address: str, held: Mapping[str, Sequence[str]]) -> str:
    shown = ", ".join(f"{name} ({' '.join(own)})" for name, own in held.items() if own)
    return f"{platform.node()} (in the cluster {address}), which has {shown}"
