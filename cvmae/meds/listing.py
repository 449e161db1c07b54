"""What lies below data/ of a MEDS data set: shards, and what is not read or must not be there."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from meds.schema import data_subdirectory

from cvmae.meds.refused import RefusedDataError
from cvmae.storage.places import list_files, map_reads, open_file, reaching

__all__ = ["Listing", "list_shards"]

logger = logging.getLogger("cvmae")

SHARD = ".parquet"
SHOWN = 3  # names of files that are not read
# Endings of a file's name, in any case: the last one, or one before that of a whole or part copy.
LIKE_PARQUET = {"parquet", "parq", "pq"}
COPIES = {"br", "bz2", "gz", "lz4", "part", "snappy", "tmp", "xz", "zip", "zst", "zstd"}
PARQUET_MAGIC = b"PAR1"
# Line breaks and other signs of control; bytes that are no UTF-8 come as surrogates.
UNNAMEABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What lies below data/; nothing is left out of it. Paths are below the root."""

    shards: tuple[tuple[str, int], ...] = ()  # path and size in bytes
    refused: tuple[RefusedDataError, ...] = ()  # what seems to hold rows and is no shard; no shards
    others: tuple[str, ...] = ()  # not parquet, not hidden
    hidden: tuple[str, ...] = ()  # parquet below a name that begins with . or _


def list_shards(root: str) -> Listing:
    """Sort what lies below data/ into shards and the rest; log which files are not read.

    A shard is a file that ends in .parquet, at any depth. Files and folders that begin with . or
    _ are passed over: editors keep copies there, and writers what is unfinished.

    Raises:
        FileNotFoundError: There is no such root, or no folder data/ in it.
        ValueError: The storage does not answer, or refuses.
    """
    shards: list[tuple[str, int]] = []
    refused: list[RefusedDataError] = []
    others: list[str] = []
    hidden: list[str] = []
    for path, size in list_files(root, data_subdirectory):
        if any(name.startswith((".", "_")) for name in path.split("/")[1:]):
            hidden += [path] if path.endswith(SHARD) else []
        elif size is None:
            refused.append(_unreachable(path))
        elif UNNAMEABLE.search(path):
            refused.append(_unnameable(path))
        elif path.endswith(SHARD):
            shards.append((path, size))
        else:
            others.append(path)
    starts = map_reads(root, partial(_first_bytes, root), others)
    like = {path for path, start in zip(others, starts, strict=True) if _is_like(path, start)}
    refused += [_misnamed(path) for path in others if path in like]
    others = [path for path in others if path not in like]
    if not shards and not refused:
        refused.append(_no_shards(root, hidden))
    for paths in filter(None, (others, hidden)):
        logger.warning("%s files are not read: %s", f"{len(paths):,}", _some(paths))
    return Listing(
        shards=tuple(shards), refused=tuple(refused), others=tuple(others), hidden=tuple(hidden)
    )


def _some(paths: Sequence[str]) -> str:
    return ", ".join(paths[:SHOWN]) + (", ..." if paths[SHOWN:] else "")


def _is_like(path: str, start: bytes) -> bool:
    if start == PARQUET_MAGIC:
        return True
    endings = path.rpartition("/")[2].lower().split(".")[1:]
    while endings and endings[-1] in COPIES:
        endings.pop()
    return bool(endings) and endings[-1] in LIKE_PARQUET


def _first_bytes(root: str, path: str) -> bytes:
    try:
        with reaching(root), open_file(root, path) as source:
            start: bytes = source.read(len(PARQUET_MAGIC))
    # It is no shard: what is wrong with it, or with its storage, matters to nobody.
    except (OSError, ValueError):
        return b""
    return start


def _no_shards(root: str, hidden: Sequence[str]) -> RefusedDataError:
    what = f"data.root={root!r} has no {SHARD} file below {data_subdirectory}/"
    if hidden:
        what += f" but what begins with . or _, or lies below such a folder ({hidden[0]})"
    return RefusedDataError(what, "give the root of a MEDS data set")


def _unreachable(path: str) -> RefusedDataError:
    return RefusedDataError(
        "is a link that leads nowhere, or back to a folder above it, or is no file",
        "mount or restore what it should lead to, or remove it",
        file=path,
    )


def _unnameable(path: str) -> RefusedDataError:
    return RefusedDataError(
        "has a name with characters that are no UTF-8 or signs of control",
        "rename it",
        file=path.encode("unicode_escape").decode(),
    )


def _misnamed(path: str) -> RefusedDataError:
    return RefusedDataError(
        f"looks like parquet, but only files that end in {SHARD} are read",
        f"rename it so that it ends in {SHARD}, or move it out of {data_subdirectory}/",
        file=path,
    )
