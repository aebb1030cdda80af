"""docker-py against the API over the double: what its ways of reading need."""

import asyncio
import gc
from collections.abc import Callable
from typing import TypeVar

import docker  # type: ignore[import-untyped]  # it has no types of its own
import pytest
from docker.errors import APIError, NotFound  # type: ignore[import-untyped]  # as above
from tests.contract.api.client import Server

from scow.api.interfaces import Duplex

T = TypeVar("T")

# docker-py leaves the sockets of its streams to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


async def with_client(server: Server, work: Callable[[docker.DockerClient], T]) -> T:
    def run() -> T:
        client = docker.DockerClient(base_url=f"unix://{server.path}", timeout=60)
        try:
            return work(client)
        finally:
            client.close()
            gc.collect()  # here, where its warnings are expected

    return await asyncio.to_thread(run)


async def test_it_negotiates_from_the_version(server: Server) -> None:
    assert await with_client(server, lambda client: str(client.api._version)) == "1.50"


@pytest.mark.parametrize("tty", [False, True])
async def test_output_that_is_there_at_once_is_not_lost(server: Server, tty: bool) -> None:
    server.engine.box()

    async def prompt(client: Duplex) -> None:
        await client.send([(1, b"first ")])
        await client.send([(1, b"second")])

    server.engine.execs.pump = prompt

    def work(client: docker.DockerClient) -> list[bytes]:
        outputs = []
        for _ in range(30):
            id = client.api.exec_create("box", ["x"], tty=tty)["Id"]
            outputs.append(client.api.exec_start(id, tty=tty))
        return outputs

    assert await with_client(server, work) == [b"first second"] * 30


async def test_its_errors_come_from_our_messages(server: Server) -> None:
    def missing(client: docker.DockerClient) -> str:
        with pytest.raises(NotFound) as error:
            client.containers.get("nope")
        return str(error.value.explanation)

    def conflict(client: docker.DockerClient) -> int:
        with pytest.raises(APIError) as error:
            client.api.kill("box")
        return int(error.value.status_code)

    server.engine.box()
    assert await with_client(server, missing) == "No such container: nope"
    assert await with_client(server, conflict) == 409


async def test_it_demultiplexes_logs(server: Server) -> None:
    server.engine.box()
    assert await with_client(server, lambda client: client.api.logs("box", stdout=True, stderr=True)) == b"out\nerr\n"


async def test_it_writes_to_an_attached_socket(server: Server) -> None:
    server.engine.box(tty=True)

    def work(client: docker.DockerClient) -> bytes:
        stream = client.api.attach_socket("box", {"stdin": 1, "stdout": 1, "stream": 1})
        stream._sock.sendall(b"hello")
        received = b""
        while len(received) < 5:
            received += stream._sock.recv(100)
        stream._sock.close()
        stream.close()
        return received

    assert await with_client(server, work) == b"hello"


async def test_it_reads_progress_and_events(server: Server) -> None:
    lines = await with_client(server, lambda client: list(client.api.pull("busybox", stream=True, decode=True)))
    assert [line["status"] for line in lines] == ["Pulling from library/busybox", "Pull complete"]
    server.engine.events.publish("start")
    server.engine.events.queue.put_nowait(None)
    events = await with_client(server, lambda client: list(client.events(decode=True)))
    assert [event["Action"] for event in events] == ["start"]
