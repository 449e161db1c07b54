"""Files below data/: which are shards, which are refused, and what is said of the rest."""

import errno
import logging
import os
import shutil
from pathlib import Path
from urllib.parse import quote

import fsspec
import pyarrow as pa
import pytest

from cvmae.meds import listing, parquet
from cvmae.meds.dataset import open_dataset
from cvmae.meds.listing import list_shards
from cvmae.validate.validate import check
from tests.validate.broken_sets import SOUND, TRAIN, accepted, config_of, refusal, whole

A, Z = "data/a.parquet", "data/z.parquet"


@pytest.fixture
def root(write_meds):
    return write_meds(*whole({"a.parquet": SOUND}, TRAIN))


def paths(root):
    return [path for path, _ in list_shards(root).shards]


@pytest.mark.parametrize(
    "name",
    ["b.PARQUET", "b.Parquet", "b.parq", "b.pq", "b.parquet.gz", "b.parquet.tmp", "b", "b.bin"],
)
def test_a_file_of_parquet_by_another_name_is_refused_by_name(root, name):
    Path(root, A).rename(Path(root, "data", name))
    message = refusal(root)
    assert message.startswith(f"data/{name} looks like parquet")
    assert "ends in .parquet" in message


def test_a_link_that_leads_nowhere_is_refused_by_name(root):
    Path(root, "data/b.parquet").symlink_to("/not/mounted/b.parquet")
    assert refusal(root).startswith("data/b.parquet is a link that leads nowhere")


@pytest.mark.parametrize("place", ["", "deep/"])
def test_links_in_a_circle_are_refused_by_name(root, place):
    Path(root, "data/deep").mkdir()
    Path(root, f"data/{place}again").symlink_to(Path(root, "data"))
    assert refusal(root).startswith(f"data/{place}again is a link that leads")


def test_links_to_files_and_folders_elsewhere_are_followed(root, tmp_path):
    shutil.move(Path(root, A), tmp_path / "a.parquet")
    (tmp_path / "elsewhere").mkdir()
    shutil.move(Path(root, Z), tmp_path / "elsewhere" / "z.parquet")
    Path(root, A).symlink_to(tmp_path / "a.parquet")
    Path(root, "data/linked").symlink_to(tmp_path / "elsewhere")
    assert paths(root) == [A, "data/linked/z.parquet"]
    accepted(root)


@pytest.mark.parametrize("folder", [".ipynb_checkpoints", "_temporary/0/task", "train/.hidden/x"])
def test_what_lies_in_a_folder_that_begins_with_a_dot_or_underscore_is_passed_over(
    root, folder, caplog
):
    Path(root, "data", folder).mkdir(parents=True)
    shutil.copy(Path(root, A), Path(root, "data", folder, "copy.parquet"))
    Path(root, "data", folder, "half.parquet").write_bytes(b"PAR1")
    Path(root, "data", folder, "lock").symlink_to("nowhere")
    with caplog.at_level(logging.WARNING, "cvmae"):
        assert paths(root) == [A, Z]
    assert f"2 files are not read: data/{folder}/copy.parquet" in caplog.text
    found = [f for f in accepted(root)[1].findings if "is passed over" in f.what]
    assert [f.file for f in found] == [f"data/{folder}/{name}.parquet" for name in ("copy", "half")]


def test_a_dot_above_the_data_set_hides_nothing(root, tmp_path):
    shutil.move(root, tmp_path / ".cache")
    assert paths(str(tmp_path / ".cache")) == [A, Z]


def test_other_files_are_left_out_and_said(root, caplog):
    for name in ("README.md", "0.csv", "empty"):
        Path(root, "data", name).write_text("" if name == "empty" else "words")
    with caplog.at_level(logging.WARNING, "cvmae"):
        assert paths(root) == [A, Z]
    assert "3 files are not read: data/0.csv, data/README.md, data/empty" in caplog.text
    found = [f.file for f in accepted(root)[1].findings if "is not read" in f.what]
    assert found == ["data/0.csv", "data/README.md", "data/empty"]


@pytest.mark.parametrize("ending", ["md5", "sha256", "crc", "json"])
def test_a_small_file_about_a_shard_is_left_out_and_said(root, ending, caplog):
    Path(root, f"{A}.{ending}").write_text("900150983cd24fb0d6963f7d28e17f72")
    with caplog.at_level(logging.WARNING, "cvmae"):
        assert paths(root) == [A, Z]
    assert f"1 files are not read: {A}.{ending}" in caplog.text


@pytest.mark.parametrize("name", ["b.parquet.gz", "b.PQ.zst", "b.parquet.gz.tmp", "b.parq"])
def test_a_name_of_parquet_is_refused_whatever_the_file_begins_with(root, name):
    Path(root, "data", name).write_bytes(b"\x1f\x8b packed")
    assert refusal(root).startswith(f"data/{name} looks like parquet")


@pytest.mark.parametrize(
    "error", [PermissionError("AWS Error ACCESS_DENIED"), OSError("AWS Error UNKNOWN")], ids=str
)
def test_an_unreadable_file_that_is_no_shard_is_left_out_on_object_storage_too(error, monkeypatch):
    memory = fsspec.filesystem("memory")
    for name in (A, "data/notes.txt"):
        memory.pipe(f"/unreadable/{name}", b"PAR1")

    def refuse(root, path):
        raise error

    monkeypatch.setattr(listing, "open_file", refuse)
    found = list_shards("memory://unreadable")
    assert (found.shards, found.others) == (((A, 4),), ("data/notes.txt",))


def test_a_path_with_an_empty_part_is_listed_like_others():
    # Object stores take any name, and some exports write two slashes.
    memory = fsspec.filesystem("memory")
    for name in ("data/a.parquet", "data//b.parquet", "data//.c.parquet"):
        memory.pipe(f"/twice/{name}", b"PAR1")
    found = list_shards("memory://twice")
    assert found.shards == (("data//b.parquet", 4), (A, 4))
    assert found.hidden == ("data//.c.parquet",)


def test_where_all_shards_are_hidden_the_refusal_says_so(write_meds):
    root = write_meds({"_all/a.parquet": SOUND}, TRAIN)
    message = refusal(root)
    assert "has no .parquet file below data/" in message
    assert "data/_all/a.parquet" in message


@pytest.mark.parametrize(
    "name", ["a#b", "a?b=c", "a%20b", "a*b", "[ab]", "a b", "blé", "a;b", "a: b"]
)
def test_names_that_mean_something_to_a_url_or_a_pattern_are_names(write_meds, name):
    root = write_meds(*whole({f"{name}/{name}.parquet": SOUND}, TRAIN), name=f"meds {name}")
    assert paths(root) == [f"data/{name}/{name}.parquet", Z]
    fitted, _ = accepted(root)
    again = accepted(f"file://{quote(root)}")[0]
    assert again.statistics.differences(fitted.statistics) == []


def test_a_refusal_names_the_file_whatever_signs_its_name_has(write_meds):
    rows = [*SOUND[:6], SOUND[8], SOUND[7]]
    name = "a: row 3 (from 0) x; y.parquet"
    root = write_meds(*whole({name: rows}, TRAIN))
    (found,) = [f for f in check(config_of(root)).findings if f.level == "refused"]
    assert (found.file, found.rows) == (f"data/{name}", (7,))


@pytest.mark.parametrize("name", [b"a\xff.parquet", b"a\nb.parquet"])
def test_a_name_that_cannot_be_written_down_is_refused(root, name):
    with open(os.path.join(os.fsencode(root), b"data", name), "wb"):
        pass
    assert "has a name with characters" in refusal(root)


def test_shards_are_found_at_any_depth(write_meds):
    deep = "/".join("abcdefgh" * 5)
    root = write_meds(*whole({f"{deep}/0.parquet": SOUND}, TRAIN))
    assert paths(root) == [f"data/{deep}/0.parquet", Z]


@pytest.mark.parametrize("place", [A, "metadata/subject_splits.parquet"])
def test_a_file_that_this_user_may_not_read_is_not_called_damaged(root, place, monkeypatch):
    # Tests may run as root, who may read everything: so the file system says no here.
    sound = parquet.open_file

    def open_file(root, path):
        if path == place:
            raise PermissionError(13, "Permission denied")
        return sound(root, path)

    monkeypatch.setattr(parquet, "open_file", open_file)
    with pytest.raises(ValueError, match=r"may not be read by this user.*read access") as said:
        open_dataset(root)
    assert str(said.value).startswith(place)


@pytest.mark.parametrize("place", [A, "metadata/subject_splits.parquet"])
@pytest.mark.parametrize(
    "error",
    [
        pa.ArrowMemoryError("malloc of size 64 failed"),
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
    ids=["memory", "open files", "disk"],
)
def test_what_this_machine_lacks_is_not_called_damage_to_a_file(root, place, error, monkeypatch):
    sound = parquet.open_file

    def open_file(root, path):
        if path == place:
            raise error
        return sound(root, path)

    monkeypatch.setattr(parquet, "open_file", open_file)
    with pytest.raises(type(error)) as said:
        open_dataset(root)
    assert said.value is error


def test_a_file_on_a_bad_sector_is_refused_by_name(root, monkeypatch):
    def open_file(root, path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(parquet, "open_file", open_file)
    with pytest.raises(ValueError, match=r"cannot be read as parquet .*damaged"):
        open_dataset(root)


def test_a_folder_that_this_user_may_not_list_is_named(root, monkeypatch):
    locked, sound = Path(root, "data/locked"), os.scandir
    locked.mkdir()

    def scandir(folder):
        if folder == str(locked):
            raise PermissionError(13, "Permission denied")
        return sound(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(ValueError, match="data/locked may not be listed by this user"):
        open_dataset(root)
