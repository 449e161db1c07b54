"""The network interface by which the ranks of a group reach each other."""

import os
import platform
import socket
from collections.abc import Collection, Mapping, MutableMapping, Sequence

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
    for variable, unknown in ((GLOO, _unknown_to_gloo), (NCCL, _unknown_to_nccl)):
        value = environ.get(variable, "")
        if (entry := unknown(value, held)) is not None:
            told = value if entry == value else f"{value}: {entry!r}"
            raise ValueError(
                f"{variable}={told} names no interface of {_shown(address, held)}: set it in the "
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


def _unknown_to_gloo(value: str, names: Collection[str]) -> str | None:
    """Return what names no interface: Gloo takes whole names, and needs each of a list.

    Example:
        >>> [_unknown_to_gloo(value, ["lo", "eth0"]) for value in ("eth0", "eth0,lo")]
        [None, None]
        >>> [_unknown_to_gloo(value, ["lo", "eth0"]) for value in ("et", "^lo", "=lo", "lo,ib0")]
        ['et', '^lo', '=lo', 'ib0']
    """
    entries = value.removesuffix(",").split(",") if value else []
    return next((entry for entry in entries if entry not in names), None)


def _unknown_to_nccl(value: str, names: Collection[str]) -> str | None:
    """Return the value if it leaves no interface: NCCL takes beginnings, behind = whole names.

    All others are meant behind ^. Of a list some may be missing: it can name those of many hosts.

    Example:
        >>> [_unknown_to_nccl(value, ["lo", "eth0"]) for value in ("eth,ib", "=eth0:5001", "^lo")]
        [None, None, None]
        >>> [_unknown_to_nccl(value, ["lo", "eth0"]) for value in ("ib", "=eth", "^=eth0,lo")]
        ['ib', '=eth', '^=eth0,lo']
    """
    listed = value.removeprefix("^")
    entries = [entry.partition(":")[0] for entry in listed.removeprefix("=").split(",") if entry]
    chosen = [
        name in entries if listed.startswith("=") else name.startswith(tuple(entries))
        for name in names
    ]
    is_left = not all(chosen) if value.startswith("^") else any(chosen)
    return None if is_left or not value else value


def _shown(address: str, held: Mapping[str, Sequence[str]]) -> str:
    shown = ", ".join(f"{name} ({' '.join(own)})" for name, own in held.items() if own)
    return f"{platform.node()} (in the cluster {address}), which has {shown}"
