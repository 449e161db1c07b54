"""Data sets on object storage: the same as local ones, also where connections break."""

import contextlib
import socket
import subprocess
import sys
import time
import types
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from cvmae.checkpoint import find_checkpoint
from cvmae.meds.dataset import open_dataset
from cvmae.meds.files import dataset_name, open_shard
from cvmae.meds.reading import read_splits, read_unit
from cvmae.meds.splits import SPLITS, load_splits
from cvmae.meds.subjects import scan_subjects
from cvmae.meds.units import plan_units
from cvmae.statistics.fit import fit_statistics
from cvmae.storage import places as storage
from cvmae.train.pretrain import pretrain
from tests.storage.object_storage import (
    BUCKET,
    KEY,
    SECRET,
    Proxy,
    first_time,
    object_storage,
    upload,
)


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with object_storage() as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def _forget(request: pytest.FixtureRequest) -> None:
    """Let no test profit from a connection that another has opened."""
    storage._connect.cache_clear()
    if "proxy" in request.fixturenames:
        request.getfixturevalue("proxy").reset()


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, hospital: str) -> str:
    """The hospital with rows enough that a read is more than the tail of a file."""
    root = tmp_path_factory.mktemp("wide") / "meds"
    for path in sorted(Path(hospital).rglob("*.*")):
        target = root / path.relative_to(hospital)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.parent.name == "metadata":
            target.write_bytes(path.read_bytes())
        else:
            pq.write_table(pq.read_table(path), target, row_group_size=700, compression="none")
    return str(root)


@pytest.fixture(scope="module")
def bucket(proxy: Proxy, wide: str) -> str:
    return upload(proxy, wide, "meds")


def lookup(codes: list[str]) -> np.ndarray:
    return np.array([len(code) % 7 - 1 for code in codes], np.int32)


def all_that_is_read(root: str) -> list[np.ndarray]:
    """Every number that leaves the reader."""
    arrays = list(load_splits(root).values())
    dataset = open_dataset(root)
    for unit in plan_units(dataset, 1500):
        arrays.append(scan_subjects(root, unit))
        for measurements, counts in read_splits(dataset, unit, lookup, SPLITS).values():
            arrays += [*vars(measurements).values(), np.array(list(vars(counts).values()))]
    return arrays


def assert_same(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    assert len(ours) == len(theirs) > 20
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        assert one.tobytes() == other.tobytes()


def refusal(root: str) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        open_dataset(root)
    text = str(caught.value)
    assert "\n" not in text
    assert KEY not in text
    assert SECRET not in text
    return text


def test_a_data_set_on_s3_is_the_local_one_bit_for_bit(bucket, wide):
    assert_same(all_that_is_read(bucket), all_that_is_read(wide))
    assert open_dataset(bucket).fingerprint == open_dataset(wide).fingerprint
    assert dataset_name(bucket) == dataset_name(wide) != "unnamed data set"


@pytest.mark.parametrize("kind", ["cut", "hang up", "slow down"])
def test_what_breaks_once_is_read_again_and_nothing_is_lost_or_doubled(bucket, proxy, kind):
    calm = all_that_is_read(bucket)
    gets = [request for request in proxy.requests if request.startswith("GET")]
    assert len(set(gets)) > 20
    storage._connect.cache_clear()
    proxy.reset(first_time(kind))
    assert_same(all_that_is_read(bucket), calm)
    asked = [request for request in proxy.requests if request.startswith("GET")]
    assert Counter(asked) == Counter(gets) + Counter(set(gets))  # each once more, and no others


def test_a_connection_that_always_breaks_ends_in_one_line(bucket, proxy, monkeypatch):
    dataset = open_dataset(bucket)
    units = plan_units(dataset, 1500)
    monkeypatch.setattr(storage, "NUM_RETRIES", 4)
    storage._connect.cache_clear()
    proxy.reset(lambda request: "cut" if "/data/" in request and "GET" in request else None)
    with pytest.raises(ValueError, match="partial file") as caught:
        read_unit(dataset, units[0], lookup, "train")
    assert len([r for r in proxy.requests if "/data/" in r and "GET" in r]) == 1 + 4
    text = str(caught.value)
    assert f"data.root={bucket!r}" in text
    assert "AWS_ENDPOINT_URL" in text
    assert "\n" not in text
    assert "write it again" not in text  # the file is sound


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_splits_that_the_storage_does_not_give_are_not_called_damaged(
    bucket, proxy, monkeypatch, method
):
    monkeypatch.setattr(storage, "NUM_RETRIES", 1)
    words = f"{method} /{BUCKET}/meds/metadata/subject_splits.parquet"
    proxy.fault = lambda request: "slow down" if words in request else None
    text = refusal(bucket)
    assert f"data.root={bucket!r} cannot be read: " in text
    assert "write it again" not in text


def test_a_service_that_is_busy_for_a_moment_fails_none_of_many_requests(bucket, proxy):
    # pyarrow's "standard" retries share a budget of about a hundred: they fail here.
    paths = [f"{BUCKET}/meds/data/{number}.parquet" for number in range(60)]
    filesystem, _ = storage.locate(bucket)
    proxy.reset(first_time("slow down", words="HEAD", times=3))
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(filesystem.get_file_info, paths))
    assert {info.type for info in found} == {pafs.FileType.NotFound}
    assert len([r for r in proxy.requests if r.startswith("HEAD")]) == 4 * len(paths)


def test_a_file_that_google_gives_up_on_is_the_fault_of_the_storage(monkeypatch):
    given_up = pa.BufferReader(b"")
    given_up.close()
    answer = types.SimpleNamespace(open_input_file=lambda path: given_up)
    monkeypatch.setattr(storage, "locate", lambda root, path: (answer, path))
    with (
        pytest.raises(ValueError, match=r"data.root='gs://b/meds' cannot be read: .* retries"),
        open_shard("gs://b/meds", "data/0.parquet"),
    ):
        pass


def test_patience_is_bounded():
    waits = [0.025 * 2**retry for retry in range(storage.NUM_RETRIES)]
    assert 40 < sum(waits) < 60
    assert sum(waits[: storage.NUM_RETRIES_AT_FIRST]) < 5


def test_a_shard_costs_two_requests_to_open_and_two_a_row_group_to_read(bucket, proxy):
    dataset = open_dataset(bucket)
    about = [r for r in proxy.requests if f"/{dataset.shards[0].path} " in r]
    assert [request.split("/")[0] for request in about] == ["HEAD ", "GET "]
    proxy.reset()
    (shard, *_) = dataset.shards
    num_row_groups = len(shard.row_groups)
    assert num_row_groups > 1
    (unit, *_) = plan_units(replace(dataset, shards=(shard,)), 10**9)
    read_splits(dataset, unit, lookup, SPLITS)
    assert len([r for r in proxy.requests if f"/{shard.path} " in r]) == 2 + 2 * num_row_groups


def test_statistics_are_fitted_on_s3_as_on_a_local_folder(bucket, wide, tiny, tmp_path):
    written = {}
    for name, root in (("s3", bucket), ("local", wide)):
        data = replace(tiny.data, root=root, unit_rows=2000)
        fit_statistics(replace(tiny, data=data, output_dir=str(tmp_path / name)))
        written[name] = {
            path.name: path.read_bytes()
            for path in (tmp_path / name).iterdir()
            if path.name != "config.yaml"
        }
    assert written["s3"] == written["local"]
    assert len(written["s3"]) >= 3


@pytest.mark.slow
def test_a_run_on_s3_that_loses_connections_has_the_weights_of_a_local_one(
    bucket, wide, tiny, tmp_path, proxy, caplog
):
    proxy.fault = first_time("cut")
    weights = {}
    for name, root in (("s3", bucket), ("local", wide)):
        config = replace(tiny, data=replace(tiny.data, root=root), output_dir=str(tmp_path / name))
        run = pretrain(config)
        weights[name] = load_file(Path(find_checkpoint(run)) / "model.safetensors")
    assert weights["s3"].keys() == weights["local"].keys()
    for name, value in weights["s3"].items():
        np.testing.assert_array_equal(value, weights["local"][name])
    text = (tmp_path / "s3" / "config.yaml").read_text() + caplog.text
    assert f"data.root: {bucket}" in text
    assert KEY not in text
    assert SECRET not in text


def test_a_bucket_and_a_folder_that_are_not_there_are_named(bucket):
    for root in ("s3://no-such-bucket/meds", f"s3://{BUCKET}/no-such-folder"):
        text = refusal(root)
        assert f"data.root={root!r} is no folder" in text
        assert "AWS_ACCESS_KEY_ID" in text
    assert "no folder data/" in refusal(f"{bucket}/metadata")


def test_credentials_that_are_refused_are_not_shown(bucket, proxy, monkeypatch):
    def count(number: bytes) -> None:
        url = "http://{}:{}/moto-api/reset-auth".format(*proxy.target)
        kind = {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(url, number, kind)).close()

    count(b"0")  # requests from now on are checked
    try:
        text = refusal(bucket)
    finally:
        count(b"inf")
    assert "ACCESS_DENIED" in text
    assert "AWS_ACCESS_KEY_ID" in text


def test_a_server_that_does_not_answer_is_given_up_soon_at_first(bucket, proxy, monkeypatch):
    monkeypatch.setattr(storage, "NUM_RETRIES_AT_FIRST", 2)
    proxy.fault = lambda request: "hang up"
    text = refusal(bucket)
    assert len(proxy.requests) == 1 + 2
    assert text.startswith(f"data.root={bucket!r} cannot be read: ")
    assert "NETWORK_CONNECTION" in text
    assert "AWS_ENDPOINT_URL" in text


def test_endpoint_and_region_come_from_the_environment(bucket, proxy, monkeypatch):
    asked = []
    monkeypatch.setattr(pafs, "resolve_s3_region", lambda name: asked.append(name) or "eu-north-1")

    def region(**environment: str) -> str:
        storage._connect.cache_clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("AWS_ENDPOINT_URL")
            for name, value in environment.items():
                patch.setenv(name, value)
            return storage.locate(bucket)[0].region

    assert region(AWS_DEFAULT_REGION="eu-west-1") == "eu-west-1"
    assert region(AWS_DEFAULT_REGION="eu-west-1", AWS_REGION="eu-west-3") == "eu-west-3"
    assert region(AWS_ENDPOINT_URL=proxy.url) == "us-east-1"
    assert not asked
    assert region() == "eu-north-1"
    assert asked == [BUCKET]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
    storage._connect.cache_clear()
    assert open_dataset(bucket).shards


@pytest.mark.parametrize(
    "root",
    [
        f"s3://{KEY}:{SECRET}@{BUCKET}/meds",  # the secret holds a slash
        f"s3://{KEY}@{BUCKET}/meds",
        f"gs://{SECRET.replace('/', '')}@{BUCKET}/meds",
        f"s3://{BUCKET}/meds?access_key={KEY}&secret_key={SECRET}",
        f"https://somewhere/meds?signature={SECRET}",
        f"sftp://{KEY}:{SECRET}@somewhere/meds",
    ],
)
def test_credentials_in_a_uri_are_refused_and_neither_shown_nor_written(
    root, tiny, tmp_path, caplog
):
    assert "leave them out" in refusal(root)
    config = replace(tiny, data=replace(tiny.data, root=root))
    for verb in (fit_statistics, pretrain):
        with pytest.raises(ValueError, match="leave them out"):
            verb(replace(config, output_dir=str(tmp_path / verb.__name__)))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert KEY not in caplog.text


def test_a_damaged_object_is_said_to_be_damaged_and_read_only_once(wide, proxy, tmp_path, bucket):
    (path, *_) = sorted(Path(wide).rglob("data/**/*.parquet"))
    broken = tmp_path / "broken" / path.relative_to(wide)
    broken.parent.mkdir(parents=True)
    broken.write_bytes(path.read_bytes()[:-100])
    root = upload(proxy, str(tmp_path / "broken"), "broken")
    splits = Path(wide) / "metadata"
    upload(proxy, str(splits), "broken/metadata")
    text = refusal(root)
    assert "cannot be read as parquet" in text
    assert len([r for r in proxy.requests if "GET" in r and path.name in r]) == 1


def test_an_object_that_vanishes_after_the_listing_is_named(wide, proxy):
    root = upload(proxy, wide, "vanishing")
    dataset = open_dataset(root)
    units = plan_units(dataset, 10**9)
    path = units[0].pieces[0].path
    filesystem, location = storage.locate(root, path)
    filesystem.delete_file(location)
    with pytest.raises(ValueError, match=f"{path} is gone"):
        read_unit(dataset, units[0], lookup, "train")


def test_other_schemes_are_left_to_fsspec(wide):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(wide, "/somewhere/meds", recursive=True)
    try:
        assert_same(all_that_is_read("memory://somewhere/meds"), all_that_is_read(wide))
    finally:
        memory.rm("/somewhere", recursive=True)
    assert_same(all_that_is_read(f"file://{wide}"), all_that_is_read(wide))
    for root in ("nosuch://bucket/meds", "abfs://container@account.somewhere/meds"):
        text = refusal(root)
        assert f"data.root={root!r}" in text
        assert "s3://" in text
    assert "names no bucket" in refusal("gs:///meds")


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Google Cloud Storage on this machine.

    In a process of its own, since pyarrow lets no other thread run while it opens a file there.
    """
    pytest.importorskip("gcp_storage_emulator", reason="gcp-storage-emulator is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = f"{sys.executable} -m gcp_storage_emulator start -q -M -H 127.0.0.1 --port {port}"
    process = subprocess.Popen([*command.split(), "--default-bucket", BUCKET])
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), urllib.request.urlopen(url):
                break
            time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


def test_a_data_set_on_google_cloud_storage_is_the_local_one_bit_for_bit(emulator, wide):
    for path in Path(wide).rglob("*.*"):
        name = urllib.parse.quote(f"meds/{path.relative_to(wide).as_posix()}", safe="")
        to = f"{emulator}/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={name}"
        kind = {"Content-Type": "application/octet-stream"}
        urllib.request.urlopen(urllib.request.Request(to, path.read_bytes(), kind)).close()
    assert_same(all_that_is_read(f"gs://{BUCKET}/meds"), all_that_is_read(wide))
    text = refusal("gs://no-such-bucket/meds")
    assert "no folder" in text
    assert "GOOGLE_APPLICATION_CREDENTIALS" in text


def test_google_cloud_storage_that_does_not_answer_is_one_line(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setattr(storage, "NUM_RETRIES_AT_FIRST", 1)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"127.0.0.1:{port}")
    text = refusal(f"gs://{BUCKET}/meds")
    assert "data.root='gs://hospital/meds' cannot be read" in text
    assert "STORAGE_EMULATOR_HOST" in text
    assert "error_info" not in text
