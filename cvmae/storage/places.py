"""Where a data set lies: a folder, S3, Google Cloud Storage, or whatever fsspec can open.

Credentials, region and endpoint come from the environment that the providers' own tools read,
never from a URI: it is logged and written into config.yaml. A request that fails, stalls or
breaks off in mid-body is repeated by the provider's client within pyarrow, for its own range of
bytes only: nothing is lost and nothing comes twice. No MEDS here, see `meds_files`.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

__all__ = [
    "is_remote",
    "list_files",
    "locate",
    "map_reads",
    "num_connections",
    "open_file",
    "reaching",
]

Item = TypeVar("Item")
Result = TypeVar("Result")

# Waits of 25 ms, 50 ms, ... 26 s between attempts: a service may be away for three quarters of
# a minute. The first look fails sooner, after 3 s, since it is the one that meets a misspelling.
NUM_RETRIES = 11
NUM_RETRIES_AT_FIRST = 7

S3, GCS = ("s3",), ("gs", "gcs")
OURS = S3 + GCS  # schemes that pyarrow opens itself
STORAGE_ERRORS = ("AWS Error", "google::cloud::Status")  # pyarrow has no class for them


def is_remote(root: str) -> bool:
    """Return whether a root is a URI of another place, where each read costs a round trip."""
    return "://" in root and not root.startswith("file://")


def locate(
    root: str, path: str = "", num_retries: int | None = None, setting: str = "data.root"
) -> tuple[Any, str]:
    """Return the file system and the path on it, for a local folder or a URI like s3://...

    Args:
        root: Folder or URI.
        path: Below the root.
        num_retries: Of a request that fails.
        setting: What messages call the root.

    Raises:
        ValueError: The URI holds credentials or options, names no bucket, or its scheme is
            unknown or needs a package that is missing.
    """
    joined = f"{root.rstrip('/')}/{path}" if path else root
    if "://" not in root:
        return pafs.LocalFileSystem(), joined
    if not is_remote(root):
        filesystem, location = pafs.FileSystem.from_uri(joined)
        return filesystem, location
    scheme, _, rest = root.partition("://")
    place = rest.partition("/")[0]
    # A secret may hold a slash, so a colon before any @ is one; a bucket's name has neither.
    if (
        "?" in rest
        or re.match("[^@]*:[^@]*@", rest)
        or (scheme in OURS and re.search("[:@]", place))
    ):
        raise ValueError(
            f"{setting} is a {scheme}:// URI with credentials or options in it (not shown here); "
            f"leave them out: {_origin(scheme)}"
        )
    if scheme not in OURS:
        return _locate_with_fsspec(f"{setting}={root!r}", joined, scheme)
    if not place:
        raise ValueError(f"{setting}={root!r} names no bucket: give {scheme}://BUCKET/FOLDER")
    filesystem = _connect(scheme, place, NUM_RETRIES if num_retries is None else num_retries)
    return filesystem, joined.partition("://")[2]


def list_files(root: str, folder: str) -> list[tuple[str, int]]:
    """Return the path below the root, and the size in bytes, of all files below a folder.

    Raises:
        FileNotFoundError: There is no such root, or no such folder in it.
        ValueError: The storage does not answer, or refuses.
    """
    with reaching(root):
        filesystem, location = locate(root, num_retries=NUM_RETRIES_AT_FIRST)
        if filesystem.get_file_info(location).type != pafs.FileType.Directory:
            origin = f" ({_origin(root.partition('://')[0])})" if is_remote(root) else ""
            raise FileNotFoundError(
                f"data.root={root!r} is no folder; give that of a MEDS data set{origin}"
            )
        filesystem, location = locate(root)
        below = f"{location.rstrip('/')}/{folder}"
        if filesystem.get_file_info(below).type != pafs.FileType.Directory:
            raise FileNotFoundError(
                f"data.root={root!r} holds no folder {folder}/; give the folder that does"
            )
        found = filesystem.get_file_info(pafs.FileSelector(below, recursive=True))
    start = location.rstrip("/") + "/"
    return sorted((info.path.removeprefix(start), info.size) for info in found if info.is_file)


def open_file(root: str, path: str) -> Any:
    """Open a file for reading at any place; use within `reaching`."""
    filesystem, location = locate(root, path)
    source = filesystem.open_input_file(location)
    if source.closed:  # all that pyarrow says when Google's client has given up
        raise ConnectionError("Google Cloud Storage did not open it in the time for retries")
    return source


@contextmanager
def reaching(root: str, setting: str = "data.root") -> Iterator[None]:
    """Turn a failure of remote storage into one line about the setting and the environment.

    Raises:
        ValueError: The storage does not answer, or refuses. What is wrong with a file, and
            whatever a local one raises, passes through.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        text = str(error)
        # A damaged parquet file raises a plain OSError, too.
        of_the_storage = isinstance(error, OSError) and type(error) is not OSError
        of_the_storage |= any(words in text for words in STORAGE_ERRORS)
        if not is_remote(root) or not of_the_storage:
            raise
        reason = (text.splitlines() or [""])[0].partition(" error_info=")[0]
        raise ValueError(
            f"{setting}={root!r} cannot be read: {reason or type(error).__name__}; "
            f"{_origin(root.partition('://')[0])}"
        ) from None


def num_connections(root: str) -> int:
    """Return how many files to open side by side: each waits for round trips."""
    # pyarrow's client for S3 holds 25 connections; a local folder may be a mounted one.
    return 25 if is_remote(root) else 8


def map_reads(root: str, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return ``function(item)`` in order; side by side on remote storage, to wait but once."""
    if not is_remote(root) or len(items) == 1:
        return list(map(function, items))
    with ThreadPoolExecutor(num_connections(root)) as pool:
        return list(pool.map(function, items))


@lru_cache(maxsize=8)
def _connect(scheme: str, bucket: str, num_retries: int) -> Any:
    if scheme in GCS:
        emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
        # Google's client doubles its waits, too, and has a time limit instead.
        wait = timedelta(seconds=max(1, round(0.025 * 2**num_retries)))
        return pafs.GcsFileSystem(
            anonymous=bool(emulator), retry_time_limit=wait, **_endpoint(emulator, "http")
        )
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region:
        region = "us-east-1" if endpoint else pafs.resolve_s3_region(bucket)
    # Not the "standard" strategy: its budget of retries is shared by all threads, so that a
    # service that is away for some seconds fails most of them.
    strategy = pafs.AwsDefaultS3RetryStrategy(max_attempts=num_retries)
    return pafs.S3FileSystem(region=region, retry_strategy=strategy, **_endpoint(endpoint, "https"))


def _endpoint(url: str, default: str) -> dict[str, str]:
    scheme, _, host = url.rpartition("://")
    return {"scheme": scheme or default, "endpoint_override": host.rstrip("/")} if url else {}


def _locate_with_fsspec(given: str, uri: str, scheme: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs  # torch and Ray bring it; of no use to others

    try:
        filesystem, location = url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise ValueError(
            f"{given}: {scheme}:// cannot be opened ({error}); give a local folder, "
            "s3://..., gs://..., or what an installed package of fsspec opens"
        ) from None
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), location


def _origin(scheme: str) -> str:
    """Say where settings of a storage come from."""
    if scheme in S3:
        return (
            "credentials, region and endpoint come from AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY (or AWS_PROFILE), AWS_REGION and AWS_ENDPOINT_URL"
        )
    if scheme in GCS:
        return (
            "credentials come from GOOGLE_APPLICATION_CREDENTIALS, the address of an emulator "
            "from STORAGE_EMULATOR_HOST"
        )
    return f"credentials come from the environment that fsspec's package for {scheme}:// reads"
