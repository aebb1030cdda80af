"""Memory of registries: idle, and at its highest while clients push, pull or stall. Proportional set sizes (PSS)."""

import abc
import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from bench.engines import pss
from bench.registries import MANIFEST, REPOSITORY, SMALL, Connection, Registry, RegistryCase, closing, fresh

CLIENTS = 8
MANIFEST_SIZE = 3_900 << 10
STALLED = 200
STALLED_SIZE = 900 << 10
"""What a client sends of an upload before it stops."""
STALL_S = 1.0
LOOK_S = 0.02
PIECE = 1 << 20


class IdleMemory(RegistryCase):
    name, title, unit = "registry-memory", "registry: memory idle (PSS of all processes)", "B"
    rounds = (1, 1)

    def sample(self, registry: Registry, state: Any) -> float:
        return registry.memory()


class PeakMemory(RegistryCase):
    """The highest that any one process takes while `load` goes on."""

    unit = "B"
    rounds = (1, 3)

    def sample(self, registry: Registry, state: Any) -> float:
        return highest(registry.pids(), lambda: self.load(registry, state))

    @abc.abstractmethod
    def load(self, registry: Registry, state: Any) -> None:
        """Keep the registry busy."""


class PeakOfManifests(PeakMemory):
    name = "registry-peak-manifests"
    title = f"registry: peak of a process, {CLIENTS} manifests of 3.8 MiB pushed and pulled at once (PSS)"

    def prepare(self, registry: Registry) -> Any:
        with registry.connect() as connection:
            return connection.push(fresh(SMALL))

    def load(self, registry: Registry, state: Any) -> None:
        def push_and_pull(number: int) -> None:
            with registry.connect() as connection:
                note = os.urandom(MANIFEST_SIZE // 2).hex()
                connection.push_manifest(state, SMALL, f"large-{number}", note)
                connection.ask("GET", f"/v2/{REPOSITORY}/manifests/large-{number}", Accept=MANIFEST)

        _at_once(push_and_pull)


class PeakOfBlobs(PeakMemory):
    name = "registry-peak-blobs"
    title = f"registry: peak of a process, {CLIENTS} uploads and downloads at once (PSS)"

    def prepare(self, registry: Registry) -> Any:
        with registry.connect() as connection:
            return connection.push(fresh(self.big))

    def load(self, registry: Registry, state: Any) -> None:
        def push_or_pull(number: int) -> None:
            with registry.connect() as connection:
                if number < CLIENTS:
                    _upload(connection, self.big)
                    return
                connection.request("GET", f"/v2/{REPOSITORY}/blobs/{state}")
                answer, buffer = connection.getresponse(), bytearray(PIECE)
                while answer.readinto(buffer):
                    pass

        _at_once(push_or_pull, 2 * CLIENTS)


class PeakOfStalled(PeakMemory):
    name = "registry-peak-stalled"
    title = f"registry: peak of a process, {STALLED} clients stall after 900 KiB of an upload (PSS)"

    def load(self, registry: Registry, state: Any) -> None:
        with ExitStack() as stack:
            for _ in range(STALLED):
                connection = stack.enter_context(registry.connect())
                location = connection.begin()
                path = closing(location[location.index("/v2/") :], f"sha256:{'0' * 64}")
                connection.putrequest("PUT", path)
                connection.putheader("Content-Length", str(100 << 20))
                connection.endheaders()
                assert isinstance(connection.sock, socket.socket)
                connection.sock.sendall(bytes(STALLED_SIZE))
            time.sleep(STALL_S)


def highest(pids: list[int], work: Callable[[], object]) -> int:
    """Bytes of that one of some processes that takes the most while `work` is done."""
    most, done = 0, threading.Event()

    def look() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, *(pss(pid) for pid in pids))
            done.wait(LOOK_S)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        work()
    finally:
        done.set()
        looking.join()
    return most


def _at_once(work: Callable[[int], None], count: int = CLIENTS) -> None:
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, range(count)))


def _upload(connection: Connection, size: int) -> None:
    """Push new bytes that this process never holds at once."""
    head, piece = os.urandom(PIECE), bytes(PIECE)

    def pieces() -> Iterator[bytes]:
        yield head
        for _ in range(size // PIECE - 1):
            yield piece

    state = hashlib.sha256()
    for each in pieces():
        state.update(each)
    path = closing(connection.begin(), f"sha256:{state.hexdigest()}")
    connection.ask("PUT", path, pieces(), Content_Length=str(size // PIECE * PIECE))


CASES: tuple[type[RegistryCase], ...] = (IdleMemory, PeakOfManifests, PeakOfBlobs, PeakOfStalled)
