"""A real S3-compatible server on this machine, and a proxy before it that breaks connections."""

import contextlib
import logging
import os
import re
import shutil
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow.fs as pafs
import pytest
from moto.server import ThreadedMotoServer

from cvmae.storage import places as storage

BUCKET = "hospital"
KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG"
SLOW_DOWN = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: 40\r\n\r\n"
    b"<Error><Code>SlowDown</Code></Error>    "
)
GO_ON = b"HTTP/1.1 100 Continue\r\n\r\n"

# A request line and its range -> None, "cut" (in mid-body), "hang up" or "slow down".
Fault = Callable[[str], str | None]


class Proxy:
    """Passes requests on, notes them, and breaks those that `fault` names."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.requests: list[str] = []
        self.fault: Fault = lambda request: None
        self.target = target
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._socket.close()

    def reset(self, fault: Fault = lambda request: None) -> None:
        self.requests.clear()
        self.fault = fault

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, socket.create_connection(self.target) as server:
            asked, answered = client.makefile("rb"), server.makefile("rb")
            while head := _head(asked):
                span = re.search(rb"(?i)\r\nrange: *([^\r]*)", head)
                line = head.partition(b" HTTP")[0].decode()
                request = f"{line} {span[1].decode() if span else ''}"
                self.requests.append(request)
                fault = self.fault(request)
                if fault == "hang up":
                    return
                if fault == "slow down":
                    client.sendall(SLOW_DOWN)
                    continue
                if b"\r\nexpect: 100" in head.lower():
                    client.sendall(GO_ON)
                server.sendall(head + _body(asked, head))
                while (head := _head(answered)) == GO_ON:
                    pass
                body = b"" if line.startswith("HEAD") else answered.read(_length(head))
                client.sendall(head + (body[: len(body) // 2] if fault == "cut" else body))
                if fault == "cut":
                    return


def _head(stream: BinaryIO) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = stream.readline()
        if not line:
            return b""
        head += line
    return head


def _body(stream: BinaryIO, head: bytes) -> bytes:
    """Read what follows the head of a request, which may come in chunks."""
    if b"\r\ntransfer-encoding: chunked" not in head.lower():
        return stream.read(_length(head))
    body = size = stream.readline()
    while int(size, 16):
        chunk, size = stream.read(int(size, 16) + 2), stream.readline()
        body += chunk + size
    return body + stream.readline()


def _length(head: bytes) -> int:
    found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    return int(found[1]) if found else 0


def first_time(kind: str, words: str = "GET", times: int = 1) -> Fault:
    """Break every request that holds the words when it comes first, or first times, and no more."""
    seen: Counter[str] = Counter()

    def fault(request: str) -> str | None:
        seen[request] += 1
        return kind if words in request and seen[request] <= times else None

    return fault


@contextmanager
def object_storage() -> Iterator[Proxy]:
    """Start the server and the proxy, and set the environment that leads to them."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    proxy = Proxy(server.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        storage._connect.cache_clear()
        yield proxy
        storage._connect.cache_clear()
    proxy.close()
    server.stop()


def upload(proxy: Proxy, root: str, name: str) -> str:
    """Copy a folder into the bucket, past the proxy, and return its URI."""
    target = pafs.S3FileSystem(
        region="us-east-1",
        scheme="http",
        endpoint_override="{}:{}".format(*proxy.target),
        allow_bucket_creation=True,
    )
    target.create_dir(BUCKET)
    for path in Path(root).rglob("*"):
        if path.is_file():
            to = f"{BUCKET}/{name}/{path.relative_to(root).as_posix()}"
            with path.open("rb") as source, target.open_output_stream(to) as stream:
                shutil.copyfileobj(source, stream)
    return f"s3://{BUCKET}/{name}"
