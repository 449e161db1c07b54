"""A list of a folder's files, by which it is seen later whether all are there and unchanged."""

import hashlib
import json
from pathlib import Path

from cvmae.storage.folders import file_sizes, join, local_copy

__all__ = ["MANIFEST", "damage", "incomplete", "write_manifest"]

MANIFEST = "manifest.json"


def write_manifest(folder: Path, written_as: str) -> None:
    """List every file of a folder with size and hash."""
    files = {}
    for name, size in file_sizes(folder).items():
        if name == MANIFEST:
            continue
        with (folder / name).open("rb") as file:
            files[name] = {"bytes": size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    manifest = {"format": written_as, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def incomplete(folder: str | Path, written_as: str) -> str:
    """Say which file is missing or has another size; '' where all is there."""
    sizes = file_sizes(folder)
    if MANIFEST not in sizes:
        return f"it has no {MANIFEST}"
    content = _read(folder)  # a storage that fails is no damage
    try:
        manifest = json.loads(content)
        if manifest["format"] != written_as:
            return f"it is a {manifest['format']!r}, not a {written_as!r}"
        for name, entry in manifest["files"].items():
            if name not in sizes:
                return f"{name} is missing"
            if sizes[name] != entry["bytes"]:
                return f"{name} has {sizes[name]} of {entry['bytes']} bytes"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"its {MANIFEST} is damaged"
    return ""


def damage(folder: Path) -> str:
    """Say which file of a complete folder is not what was written; '' where all are."""
    for name, entry in json.loads(_read(folder))["files"].items():
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                return f"{name} is damaged: its contents are not those that were written"
    return ""


def _read(folder: str | Path) -> bytes:
    with local_copy(join(folder, MANIFEST)) as path:
        return path.read_bytes()
