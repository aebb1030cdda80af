"""Registries side by side: ours, ours with one worker, and docker's (docker-registry), on folders of one disk."""

import abc
import hashlib
import http.client
import json
import os
import shutil
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

from bench.engines import Failed, Program, processes_of, pss

SMALL = 4 << 10
CHUNK = 16 << 20
RANGE = 64 << 10
CLIENTS = 32
QUICK, FULL = 64 << 20, 256 << 20
"""Sizes of a large blob."""
REPOSITORY = "bench/repo"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIGURATION = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{cache: {{blobdescriptor: inmemory}}, filesystem: {{rootdirectory: {folder}}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


class Registry(Program, abc.ABC):
    """A registry that listens on a loopback port."""

    name: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, f"registry-{self.name}")
        self.port = 0
        self.storage = self.folder / "storage"

    @classmethod
    def missing(cls) -> str:
        """What is not installed; empty if all is there."""
        return ""

    def start(self) -> None:
        """Serve an empty folder."""
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.launch(self.command())
        self.wait_for(self._answers)

    @abc.abstractmethod
    def command(self) -> list[str]:
        """The command line that starts it."""

    def connect(self) -> "Connection":
        return Connection(self.port)

    def memory(self) -> int:
        """Proportional set size of all its processes, in bytes."""
        return sum(pss(pid) for pid in self.pids())

    def pids(self) -> list[int]:
        assert self.process is not None
        return list(processes_of(self.process.pid))

    def clean(self) -> None:
        """What was pushed stays until the end: a registry is measured with something in it."""

    def _answers(self) -> bool:
        try:
            with self.connect() as connection:
                connection.ask("GET", "/v2/")
        except OSError:
            return False
        return True


class ScowRegistry(Registry):
    name = "scow"
    workers = 0

    def command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "scow.registry", "serve", "--listen", f"127.0.0.1:{self.port}"),
            *("--storage", str(self.storage), "--workers", str(self.workers)),
        ]


class ScowAlone(ScowRegistry):
    name, workers = "scow, 1 worker", 1


class Distribution(Registry):
    name = "docker-registry"

    @classmethod
    def missing(cls) -> str:
        return "" if shutil.which("docker-registry") else "docker-registry"

    def command(self) -> list[str]:
        file = self.folder / "config.yml"
        file.write_text(CONFIGURATION.format(folder=self.storage, port=self.port))
        return ["docker-registry", "serve", str(file)]


ALL: tuple[type[Registry], ...] = (ScowRegistry, ScowAlone, Distribution)


class Connection(http.client.HTTPConnection):
    """A connection that is kept open."""

    def __init__(self, port: int) -> None:
        super().__init__("127.0.0.1", port, timeout=60)

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def connect(self) -> None:
        super().connect()
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> http.client.HTTPMessage:
        """One request to its end; the answer's headers. Raises Failed."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.request(method, path, body, named, encode_chunked="Transfer-Encoding" in named)
        answer = self.getresponse()
        data = answer.read()
        if answer.status >= 400:
            raise Failed(f"{method} {path}: {answer.status} {data[:200]!r}")
        return answer.headers

    def begin(self) -> str:
        location = self.ask("POST", f"/v2/{REPOSITORY}/blobs/uploads/", Content_Length="0")["Location"]
        return str(location)

    def push(self, data: bytes) -> str:
        """POST and PUT; the digest."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.ask("PUT", closing(self.begin(), digest), data)
        return digest

    def push_manifest(self, blob: str, size: int, tag: str, note: str) -> None:
        descriptor = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": blob, "size": size}
        document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor, "layers": [descriptor]}
        data = json.dumps(document | {"annotations": {"note": note}}).encode()
        self.ask("PUT", f"/v2/{REPOSITORY}/manifests/{tag}", data, Content_Type=MANIFEST)


def closing(location: str, digest: str) -> str:
    return f"{location}{'&' if '?' in location else '?'}digest={digest}"


def fresh(size: int) -> bytes:
    """Bytes that no registry has seen."""
    seed = os.urandom(1 << 16)
    return (os.urandom(32) + seed * (size // len(seed) + 1))[:size]


class RegistryCase(abc.ABC):
    """One measurement of a registry. `big` is the size of a large blob in bytes."""

    name: str
    title: str
    unit = "s"
    rounds = (5, 11)  # quick, full
    full_only = False

    def __init__(self, big: int) -> None:
        self.big = big

    def can(self, registry: Registry) -> bool:
        return True

    def prepare(self, registry: Registry) -> Any:
        return None

    @abc.abstractmethod
    def sample(self, registry: Registry, state: Any) -> float:
        """One measurement, in `unit`."""

    def tidy(self, registry: Registry, state: Any) -> None:  # noqa: B027 - most cases leave nothing
        pass


class PushSmall(RegistryCase):
    name, title = "registry-push-small", "registry: push of a 4 KiB blob (POST, PUT), median of 20"

    def sample(self, registry: Registry, state: Any) -> float:
        with registry.connect() as connection:
            return _median(20, lambda: connection.push(fresh(SMALL)))


class PutTag(RegistryCase):
    name, title = "registry-put-tag", "registry: PUT of a manifest by tag, median of 20"

    def prepare(self, registry: Registry) -> Any:
        with registry.connect() as connection:
            return connection.push(fresh(SMALL))

    def sample(self, registry: Registry, state: Any) -> float:
        with registry.connect() as connection:
            return _median(20, lambda: connection.push_manifest(state, SMALL, "moving", os.urandom(8).hex()))


class Upload(RegistryCase):
    unit = "B/s"

    def sample(self, registry: Registry, state: Any) -> float:
        data = fresh(self.big)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        with registry.connect() as connection:
            begun = time.perf_counter()
            self.upload(connection, data, digest)
            return len(data) / (time.perf_counter() - begun)

    @abc.abstractmethod
    def upload(self, connection: Connection, data: bytes, digest: str) -> None:
        """Push the bytes in this case's way."""


class UploadWhole(Upload):
    name, title = "registry-upload", "registry: upload in one PUT"

    def upload(self, connection: Connection, data: bytes, digest: str) -> None:
        connection.ask("PUT", closing(connection.begin(), digest), data)


class UploadStream(Upload):
    name, title = "registry-upload-stream", "registry: upload by a streamed PATCH"

    def upload(self, connection: Connection, data: bytes, digest: str) -> None:
        answer = connection.ask("PATCH", connection.begin(), _pieces(data, 1 << 20), Transfer_Encoding="chunked")
        connection.ask("PUT", closing(answer["Location"], digest), Content_Length="0")


class UploadChunks(Upload):
    name, title = "registry-upload-chunks", "registry: upload in chunks of 16 MiB"

    def upload(self, connection: Connection, data: bytes, digest: str) -> None:
        location, sent = connection.begin(), 0
        for piece in _pieces(data, CHUNK):
            stated = f"{sent}-{sent + len(piece) - 1}"
            location = connection.ask("PATCH", location, piece, Content_Range=stated)["Location"]
            sent += len(piece)
        connection.ask("PUT", closing(location, digest), Content_Length="0")


class Download(RegistryCase):
    name, title, unit = "registry-download", "registry: download, 1 client", "B/s"
    rounds = (15, 31)  # whether both sides have a CPU of their own is chance, for a sample at a time
    clients = 1

    def prepare(self, registry: Registry) -> Any:
        with registry.connect() as connection:
            return connection.push(fresh(self.big))

    def sample(self, registry: Registry, state: Any) -> float:
        path = f"/v2/{REPOSITORY}/blobs/{state}"

        def load(_: int) -> int:
            with registry.connect() as connection:
                connection.request("GET", path)
                answer = connection.getresponse()
                buffer, size = bytearray(1 << 20), 0
                while count := answer.readinto(buffer):
                    size += count
                return size

        with ThreadPoolExecutor(self.clients) as pool:
            begun = time.perf_counter()
            size = sum(pool.map(load, range(self.clients)))
            took_s = time.perf_counter() - begun
        if size != self.clients * self.big:
            raise Failed(f"{registry.name} sent {size} bytes")
        return size / took_s


class DownloadMany(Download):
    name, title = "registry-download-8", "registry: download, 8 clients"
    rounds = (9, 15)
    clients = 8


class Requests(RegistryCase):
    """Many small requests on several connections, written and read by one loop."""

    unit = "/s"
    count = 3000

    def prepare(self, registry: Registry) -> Any:
        with registry.connect() as connection:
            blob = connection.push(fresh(self.big))
            connection.push_manifest(blob, self.big, "asked", "")
        return blob

    @abc.abstractmethod
    def request(self, blob: str, number: int) -> bytes:
        """The bytes of one request."""

    def sample(self, registry: Registry, state: Any) -> float:
        sockets = [socket.create_connection(("127.0.0.1", registry.port)) for _ in range(CLIENTS)]
        try:
            for connection in sockets:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            begun = time.perf_counter()
            for number in range(0, self.count, CLIENTS):
                for connection in sockets:
                    connection.sendall(self.request(state, number))
                for connection in sockets:
                    _read_answer(connection)
            return len(range(0, self.count, CLIENTS)) * CLIENTS / (time.perf_counter() - begun)
        finally:
            for connection in sockets:
                connection.close()


class GetManifest(Requests):
    name, title = "registry-get-manifest", f"registry: GET of a manifest by tag, {CLIENTS} clients"

    def request(self, blob: str, number: int) -> bytes:
        return f"GET /v2/{REPOSITORY}/manifests/asked HTTP/1.1\r\nHost: x\r\nAccept: {MANIFEST}\r\n\r\n".encode()


class HeadBlob(Requests):
    name, title = "registry-head-blob", f"registry: HEAD of a blob, {CLIENTS} clients"

    def request(self, blob: str, number: int) -> bytes:
        return f"HEAD /v2/{REPOSITORY}/blobs/{blob} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


class GetRange(Requests):
    name, title = "registry-ranges", f"registry: ranges of 64 KiB, {CLIENTS} clients"
    count = 1500

    def request(self, blob: str, number: int) -> bytes:
        start = number * RANGE % (self.big - RANGE)
        return (
            f"GET /v2/{REPOSITORY}/blobs/{blob} HTTP/1.1\r\nHost: x\r\nRange: bytes={start}-{start + RANGE - 1}\r\n\r\n"
        ).encode()


def _read_answer(connection: socket.socket) -> None:
    data = connection.recv(RANGE + 4096)
    while (end := data.find(b"\r\n\r\n")) < 0:
        more = connection.recv(4096)
        if not more:
            raise Failed("the registry closed a connection")
        data += more
    head = data[:end].lower()
    if not head.startswith((b"http/1.1 200", b"http/1.1 206")):
        raise Failed(head.decode(errors="replace"))
    if b"content-type: application/octet-stream" in head and b"content-range:" not in head:
        return  # of HEAD
    left = int(head.split(b"content-length: ")[1].split(b"\r\n")[0]) - (len(data) - end - 4)
    while left > 0:
        more = connection.recv(left)
        if not more:
            raise Failed("the registry closed a connection")
        left -= len(more)


def _pieces(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def _median(count: int, work: Callable[[], object]) -> float:
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


CASES: tuple[type[RegistryCase], ...] = (
    PushSmall,
    PutTag,
    UploadWhole,
    UploadStream,
    UploadChunks,
    Download,
    DownloadMany,
    GetManifest,
    HeadBlob,
    GetRange,
)
