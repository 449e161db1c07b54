"""Damaged bytes: the reader refuses the file by name, or reads exactly what was written.

Where pages carry checksums that holds for every damage below, with three exceptions, named in
`allowed`: a footer has no checksum of its own, and a page's says nothing about its place.
Without checksums a flipped byte in a page is a value like any other, and nobody can notice; all
else is noticed all the same.
"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.slow

SHARD, SPLITS = "data/a.parquet", "metadata/subject_splits.parquet"
# So many variants a process: one that ends or hangs tells which variant did it.
BATCH, TIMEOUT_S = 1000, 300
MEMORY_BYTES = 8 << 30
READER = """
import hashlib, json, resource, shutil, sys, zlib
import numpy as np
from cvmae.meds.dataset import open_dataset
from cvmae.meds.reading import read_unit
from cvmae.meds.splits import SPLITS
from cvmae.meds.subjects import refuse_shared_subjects, scan_subjects
from cvmae.meds.units import plan_units

root, place, memory = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))

def lookup(codes):  # every code that may come of a damaged one has a number of its own
    return np.array([zlib.crc32(code.encode()) >> 1 for code in codes], np.int32)

def digest():
    dataset = open_dataset(root)
    units = plan_units(dataset, 10**6)
    subjects = [scan_subjects(root, unit) for unit in units]
    refuse_shared_subjects(root, units, subjects)
    hasher = hashlib.sha256(repr(dataset.num_subjects).encode())
    for split in SPLITS:
        for unit in units:
            measurements, counts = read_unit(dataset, unit, lookup, split)
            hasher.update(repr(counts).encode())
            for column in vars(measurements).values():
                hasher.update(np.ascontiguousarray(column).tobytes())
    return hasher.hexdigest()

for line in sys.stdin:
    shutil.copyfile(line.strip(), f"{root}/{place}")
    try:
        said = {"digest": digest()}
    except Exception as error:
        said = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(said), flush=True)
"""


def write_set(root: Path, values: int, **options: object) -> None:
    """Write 30 subjects of 10 rows in 3 row groups; `values` is the seed of what is in them."""
    rng = np.random.default_rng(values)
    subject = np.repeat(np.arange(30) * 7 + 100, 10)
    time = np.sort(rng.integers(0, 10**15, (30, 10)), axis=1).ravel()
    columns = {
        "subject_id": subject,
        "time": pa.array(time, pa.timestamp("us")),
        "code": rng.choice([f"LAB//{number}" for number in range(20)], len(subject)).tolist(),
        "numeric_value": pa.array(
            rng.lognormal(size=len(subject)), pa.float32(), mask=rng.random(len(subject)) < 0.1
        ),
    }
    splits = {
        "subject_id": np.unique(subject),
        "split": rng.choice(["train", "tuning", "held_out"], 30).tolist(),
    }
    for place, table in ((SHARD, columns), (SPLITS, splits)):
        (root / place).parent.mkdir(parents=True)
        pq.write_table(pa.table(table), root / place, row_group_size=100, **options)


def pages(path: Path) -> list[tuple[int, int]]:
    """Return where each page begins, with its header, and ends."""
    found = []
    metadata = pq.read_metadata(path)
    for group in range(metadata.num_row_groups):
        for leaf in range(metadata.num_columns):
            column = metadata.row_group(group).column(leaf)
            starts = sorted(filter(None, (column.dictionary_page_offset, column.data_page_offset)))
            ends = [*starts[1:], starts[0] + column.total_compressed_size]
            found += zip(starts, ends, strict=True)
    return found


def regions(path: Path) -> dict[str, list[int]]:
    """Return the positions of a file's bytes by what they belong to."""
    size, whole = path.stat().st_size, path.read_bytes()
    footer = size - 8 - int.from_bytes(whole[-8:-4], "little")
    header = 20  # about its length
    return {
        "header": [n for start, end in pages(path) for n in range(start, min(start + header, end))],
        "page": [n for start, end in pages(path) for n in range(start + header, end)],
        "footer": list(range(footer, size - 8)),
        "ends": [*range(4), *range(size - 8, size)],
    }


def damaged(path: Path, other: bytes, rng: np.random.Generator) -> list[tuple[str, bytes]]:
    """Return variants of a file, each with the kind of its damage."""
    sound = path.read_bytes()
    variants: list[tuple[str, bytes]] = []

    def place(size: int = 0) -> int:
        return int(rng.integers(1, len(sound) - size))

    def put(kind: str, start: int, piece: bytes) -> None:
        variants.append((kind, sound[:start] + piece + sound[start + len(piece) :]))

    for kind, positions in regions(path).items():
        for position in rng.choice(positions, min(45, len(positions)), replace=False):
            put(kind, position, bytes([sound[position] ^ (1 << int(rng.integers(8)))]))
            put(kind, position, bytes([(sound[position] + int(rng.integers(1, 256))) % 256]))
    for _ in range(25):
        variants.append(("cut short", sound[: place()]))
        length = int(rng.integers(2, 200))
        put("zeroed", place(length), bytes(length))
        one, two = sorted(int(n) for n in rng.choice(len(sound) // 64, 2, replace=False) * 64)
        swapped = sound[two : two + 64] + sound[one + 64 : two] + sound[one : one + 64]
        put("swapped", one, swapped[: len(sound) - one])
        variants.append(splice(pages(path), sound, other, place()))
        start = place()
        variants.append(("lost", sound[:start] + sound[start + int(rng.integers(1, 50)) :]))
    variants += [splice(pages(path), sound, other, start) for start, _ in pages(path)]
    return variants


def splice(spans: list[tuple[int, int]], sound: bytes, other: bytes, cut: int) -> tuple[str, bytes]:
    """Return the head of one file and the tail of another, and whether that cuts a page."""
    is_cut = any(
        sound[start:cut] != other[start:cut] and sound[cut:end] != other[cut:end]
        for start, end in spans
        if start < cut < end
    )
    return "spliced" if is_cut else "spliced at an edge", sound[:cut] + other[cut:]


def read_all(root: Path, place: str, files: list[Path]) -> list[dict[str, str]]:
    """Return what reading each variant gave: a digest, an error, or how its process ended."""
    said: list[dict[str, str]] = []
    while len(said) < len(files):
        batch = files[len(said) : len(said) + BATCH]
        command = [sys.executable, "-c", READER, str(root), place, str(MEMORY_BYTES)]
        given = "".join(f"{path}\n" for path in batch)
        try:
            done = subprocess.run(
                command, input=given, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
            lines, ended = done.stdout, f"ended with {done.returncode}: {done.stderr[-500:]}"
        except subprocess.TimeoutExpired as expired:
            lines, ended = (expired.stdout or b"").decode(), "hung"
        read = [json.loads(line) for line in lines.splitlines()]
        said += read
        if len(read) < len(batch):
            said.append({"process": ended})
    return said


def outcome(said: dict[str, str], sound: set[str], place: str) -> str:
    if "process" in said:
        return said["process"]
    if "digest" in said:
        return "same" if said["digest"] in sound else "changed"
    message = said["message"]
    refused = said["error"] in ("RefusedDataError", "FileNotFoundError") and place in message
    return "refused" if refused and "\n" not in message else f"{said['error']}: {message}"


def allowed(found: str, kind: str, variant: Path, sound: Path) -> bool:
    """Return whether an outcome is one of the three that this reader cannot prevent.

    * A footer in which one bit makes microseconds nanoseconds is that of a sound file.
    * Whole pages of another file of the very same layout are sound pages.
    * pyarrow ends the process (with its reason) over sizes of levels in a footer which do not
      fit together, since its metadata objects let C++ exceptions through.
    """
    if found == "changed" and kind == "spliced at an edge":
        return True
    if found == "changed" and kind == "footer":
        return pq.read_schema(variant) != pq.read_schema(sound)
    return "parquet::ParquetException" in found and "histogram size mismatch" in found


@pytest.fixture
def fuzzed(tmp_path):
    """Return a function that damages a file, reads all variants, and counts (kind, outcome)."""

    def fuzz(place, **options):
        for number, name in enumerate(("sound", "other")):
            write_set(tmp_path / name, number, **options)
        path = tmp_path / "sound" / place
        sound = tmp_path / "whole"
        sound.write_bytes(path.read_bytes())
        other = tmp_path / "other" / place
        variants = damaged(path, other.read_bytes(), np.random.default_rng(7))
        files = [sound, other]
        for number, (kind, content) in enumerate(variants):
            files.append(tmp_path / f"{number}.{kind}")
            files[-1].write_bytes(content)
        said = read_all(tmp_path / "sound", place, files)
        expected = {said[0]["digest"]}
        # A file that is wholly another sound one is not damaged: a splice may come to that.
        of_splices = expected | {said[1]["digest"]}
        counts = Counter()
        for (kind, _), what, variant in zip(variants, said[2:], files[2:], strict=True):
            found = outcome(what, of_splices if "spliced" in kind else expected, place)
            counts[kind, "allowed" if allowed(found, kind, variant, sound) else found] += 1
        assert counts.total() > 400
        return counts

    return fuzz


def of_outcomes(counts, *expected):
    return {key: number for key, number in counts.items() if key[1] not in expected}


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("place", [SHARD, SPLITS])
def test_with_checksums_damage_is_refused_by_name_or_changes_nothing(fuzzed, place, compression):
    counts = fuzzed(place, compression=compression, write_page_checksum=True)
    assert of_outcomes(counts, "refused", "same", "allowed") == {}
    assert sum(number for key, number in counts.items() if key[1] == "allowed") < 40
    assert counts["page", "refused"] > counts["page", "same"]


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_without_checksums_damage_to_anything_but_pages_is_noticed(fuzzed, compression):
    counts = fuzzed(SHARD, compression=compression)
    assert of_outcomes(counts, "refused", "same", "allowed", "changed") == {}
    changed = {kind for kind, found in counts if found == "changed"}
    assert changed <= {"page", "header", "zeroed", "swapped", "spliced"}
    # This is why checksums are worth their bytes.
    assert counts["page", "changed"] > 10
