"""Several processes behind one port: what a client sees of them, and what becomes of those that die."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest

from .conftest import Client, digest_of

WORKERS = 3
UPLOADS = "/v2/test/repo/blobs/uploads/"


class Service:
    """`scow registry serve`."""

    def __init__(self, folder: Path, workers: int = WORKERS) -> None:
        self.config = folder / "registry.toml"
        self.log = folder / "log"
        self.config.write_text(
            f'listen = "127.0.0.1:0"\nstorage = "{folder / "storage"}"\nworkers = {workers}\ndrain_s = 10\n'
        )
        ready = folder / "ready"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "scow.registry", "serve", "--config", self.config, "--ready-file", ready],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 30
        while not ready.exists():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        self.url = ready.read_text().strip()

    def workers(self) -> set[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return {int(number) for number in children.split()}

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    started = Service(tmp_path)
    workers = started.workers()
    yield started
    if started.process.poll() is None:
        workers = started.workers()
        assert started.stop() == 0, started.log.read_text()
    for worker in workers:
        assert not _runs(worker)


@pytest.fixture
async def client(service: Service) -> AsyncIterator[Client]:
    """Every request takes a new connection, and so whichever worker the kernel picks."""
    async with aiohttp.ClientSession(
        auto_decompress=False, connector=aiohttp.TCPConnector(force_close=True)
    ) as session:
        yield Client(session, service.url)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # of other processes: nothing tells us
            await asyncio.sleep(0.02)


async def in_flight(client: Client) -> int:
    """Requests that are being answered, this one included."""
    lines = (await client("GET", "/metrics")).body.decode().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("scow_registry_requests_in_flight "))


async def until_in_flight(client: Client, count: int) -> None:
    async with asyncio.timeout(20):
        while await in_flight(client) != count:  # noqa: ASYNC110  # of other processes: nothing tells us
            await asyncio.sleep(0.02)


async def test_lines_of_the_access_log_are_objects_from_their_first_character(client: Client, service: Service) -> None:
    service.config.write_text(service.config.read_text() + "access_log = true\n")
    service.process.send_signal(signal.SIGHUP)
    await until(lambda: "the settings were read anew" in service.log.read_text())
    await client("GET", "/v2/")
    await until(lambda: any(line.startswith("{") for line in service.log.read_text().splitlines()))
    (line,) = (json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{"))
    assert (line["path"], line["status"]) == ("/v2/", 200)


async def test_an_upload_goes_on_at_any_worker(client: Client, service: Service) -> None:
    assert len(service.workers()) == WORKERS
    location = await client.begin()
    data = bytes(range(256))
    for offset in range(0, 200, 10):
        answer = await client("PATCH", location, data[offset : offset + 10], Content_Range=f"{offset}-{offset + 9}")
        assert (answer.status, answer.headers["Range"]) == (202, f"0-{offset + 9}")
        assert (await client("GET", location)).headers["Range"] == f"0-{offset + 9}"
    digest = digest_of(data)
    assert (await client("PUT", f"{location}?digest={digest}", data[200:])).status == 201
    for _ in range(10):
        assert (await client("GET", f"/v2/test/repo/blobs/{digest}")).body == data


async def test_what_one_worker_changed_all_show_at_once(client: Client) -> None:
    for round_number in range(8):
        pushed = await client.push_image("latest", seed=str(round_number))
        seen = await asyncio.gather(*(client("GET", "/v2/test/repo/manifests/latest") for _ in range(8)))
        assert {answer.headers["Docker-Content-Digest"] for answer in seen} == {pushed}
    assert (await client("DELETE", f"/v2/test/repo/manifests/{pushed}")).status == 202
    for _ in range(12):
        assert (await client("GET", "/v2/test/repo/manifests/latest")).status == 404


async def test_many_pushes_at_once_through_all_workers(client: Client) -> None:
    blobs = [b"%d" % number * 1000 for number in range(60)]
    digests = await asyncio.gather(*(client.push_blob(data) for data in [*blobs, *blobs]))
    assert digests[:60] == digests[60:] == [digest_of(data) for data in blobs]


async def test_a_worker_that_dies_is_followed_by_another(client: Client, service: Service) -> None:
    before = service.workers()
    digest = await client.push_blob(b"kept")
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    # Connections that the dead one would have taken wait for the next one: none of these fails.
    await until(lambda: victim not in service.workers())
    answers = await asyncio.gather(*(client("GET", f"/v2/test/repo/blobs/{digest}") for _ in range(30)))
    assert {answer.body for answer in answers} == {b"kept"}
    await until(lambda: len(service.workers()) == WORKERS)
    assert before - {victim} <= service.workers()


async def test_a_download_ends_well_when_the_service_is_told_to_end(client: Client, service: Service) -> None:
    data = bytes(20_000_000)
    digest = await client.push_blob(data)
    reader, writer = await asyncio.open_connection(*service.url.removeprefix("http://").split(":"))
    writer.write(f"GET /v2/test/repo/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    ending = asyncio.create_task(asyncio.to_thread(service.stop))
    async with asyncio.timeout(60):
        assert len(await reader.readexactly(len(data))) == len(data)
        writer.close()
        assert await ending == 0
    with pytest.raises(OSError, match=r"."):
        await asyncio.open_connection(*service.url.removeprefix("http://").split(":"))


async def test_workers_end_when_their_supervisor_was_killed(service: Service) -> None:
    workers = service.workers()
    service.process.kill()
    service.process.wait(60)
    await until(lambda: not any(_runs(worker) for worker in workers))


async def test_a_hangup_brings_new_settings_without_refusing_anybody(client: Client, service: Service) -> None:
    before = service.workers()
    ending = asyncio.Event()
    answers: list[int] = []

    async def ask() -> None:
        while not ending.is_set():
            answers.append((await client("GET", "/v2/")).status)

    asking = asyncio.create_task(ask())
    service.config.write_text(service.config.read_text() + "read_only = true\n")
    service.process.send_signal(signal.SIGHUP)
    await until(lambda: len(service.workers()) == WORKERS and not before & service.workers())
    ending.set()
    await asking
    assert set(answers) == {200}
    assert (await client("POST", UPLOADS)).status == 405


async def test_wrong_settings_at_a_hangup_change_nothing(client: Client, service: Service) -> None:
    before = service.workers()
    service.config.write_text("colour = 1\n")
    service.process.send_signal(signal.SIGHUP)
    await until(lambda: "unknown key colour" in service.log.read_text())
    assert service.workers() == before
    assert (await client("GET", "/v2/")).status == 200


async def test_settings_that_no_worker_starts_with_change_nothing(
    client: Client, service: Service, tmp_path: Path
) -> None:
    """What they name is there, but is not what it should be: only a worker finds out."""
    before = service.workers()
    good = service.config.read_text()
    (tmp_path / "htpasswd").write_text("nobody\n")
    service.config.write_text(good + f"read_only = true\n[auth]\nhtpasswd = '{tmp_path}/htpasswd'\n")
    service.process.send_signal(signal.SIGHUP)
    await until(lambda: "no worker starts with the new ones" in service.log.read_text())
    assert "htpasswd:1: expected name:hash" in service.log.read_text()
    assert service.workers() == before
    victim = min(before)
    os.kill(victim, signal.SIGKILL)  # whoever follows it takes the old settings too
    await until(lambda: victim not in service.workers() and len(service.workers()) == WORKERS)
    assert {(await client("POST", UPLOADS)).status for _ in range(12)} == {202}
    service.config.write_text(good + "read_only = true\n")
    service.process.send_signal(signal.SIGHUP)
    await until(lambda: "the settings were read anew" in service.log.read_text())
    await until(lambda: len(service.workers()) == WORKERS)
    assert {(await client("POST", UPLOADS)).status for _ in range(12)} == {405}


async def test_a_hangup_waits_for_no_upload_and_an_end_for_all(client: Client, service: Service) -> None:
    before = service.workers()
    data = bytes(100_000)
    location = await client.begin()
    reader, writer = await asyncio.open_connection(*service.url.removeprefix("http://").split(":"))
    digest = digest_of(data)
    writer.write(f"PUT {location}?digest={digest} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n".encode())
    writer.write(data[:50_000])
    await writer.drain()
    async with asyncio.timeout(60):  # until a worker has begun with it: this question is the other one in flight
        while b"scow_registry_requests_in_flight 2\n" not in (await client("GET", "/metrics")).body:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    service.process.send_signal(signal.SIGHUP)
    await until(lambda: "the settings were read anew" in service.log.read_text())
    await until(lambda: len(before & service.workers()) == 1)  # the one that takes the upload
    ending = asyncio.create_task(asyncio.to_thread(service.stop))
    await asyncio.sleep(0.3)
    writer.write(data[50_000:])
    async with asyncio.timeout(60):
        assert (await reader.readline()).startswith(b"HTTP/1.1 201 ")
        writer.close()
        assert await ending == 0


async def test_a_worker_that_drains_takes_nothing_from_the_numbers_of_the_one_that_follows_it(
    client: Client, service: Service
) -> None:
    location = await client.begin()
    _, writer = await asyncio.open_connection(*service.url.removeprefix("http://").split(":"))
    writer.write(f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n".encode())
    await writer.drain()
    await until_in_flight(client, 2)
    before = service.workers()
    service.process.send_signal(signal.SIGHUP)
    await until(lambda: len(before & service.workers()) == 1)  # the one that waits for the upload's bytes
    assert await in_flight(client) == 2
    (draining,) = before & service.workers()
    writer.close()
    await until(lambda: draining not in service.workers())
    await until_in_flight(client, 1)


async def test_requests_are_counted_over_all_workers(client: Client, service: Service) -> None:
    before = service.workers()
    service.config.write_text(service.config.read_text() + "limits = { requests_per_s = 0.01, burst = 20 }\n")
    service.process.send_signal(signal.SIGHUP)
    await until(lambda: len(service.workers()) == WORKERS and not before & service.workers())
    statuses = [(await client("GET", "/v2/")).status for _ in range(40)]
    assert statuses == [200] * 20 + [429] * 20
    victim = min(service.workers())
    os.kill(victim, signal.SIGKILL)  # nothing is forgiven because a worker died
    await until(lambda: victim not in service.workers())
    assert {(await client("GET", "/v2/")).status for _ in range(10)} == {429}


async def test_the_numbers_of_all_workers_are_added_up(client: Client) -> None:
    for _ in range(30):
        await client("GET", "/v2/")
    lines = (await client("GET", "/metrics")).body.decode().splitlines()
    assert 'scow_registry_requests_total{endpoint="ping",method="GET",status="2xx"} 30' in lines


def test_a_port_that_another_registry_shares_among_its_workers_is_taken(service: Service, tmp_path: Path) -> None:
    address = service.url.removeprefix("http://")
    command = [sys.executable, "-m", "scow.registry", "serve", "--listen", address, "--workers", "2"]
    done = subprocess.run([*command, "--storage", tmp_path / "x"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, f"scow registry: cannot listen on {address}: the address is in use\n")


class TestAlone:
    """One process without a supervisor."""

    @pytest.fixture
    def service(self, tmp_path: Path) -> Iterator[Service]:
        started = Service(tmp_path, 1)
        assert not started.workers()
        yield started
        if started.process.poll() is None:
            assert started.stop() == 0, started.log.read_text()

    async def test_a_hangup_brings_new_settings_and_cuts_nobody_off(self, client: Client, service: Service) -> None:
        location = await client.begin()
        reader, writer = await asyncio.open_connection(*service.url.removeprefix("http://").split(":"))
        data = bytes(100_000)
        digest = digest_of(data)
        writer.write(f"PUT {location}?digest={digest} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n".encode())
        writer.write(data[:50_000])
        await writer.drain()
        await until_in_flight(client, 2)
        good = service.config.read_text()
        service.config.write_text(good + "read_only = true\nlimits = { requests_per_s = 0.01, burst = 20 }\n")
        service.process.send_signal(signal.SIGHUP)
        await until(lambda: "the settings were read anew" in service.log.read_text())
        assert (await client("POST", UPLOADS)).status == 405
        writer.write(data[50_000:])
        async with asyncio.timeout(15):
            assert (await reader.readline()).startswith(b"HTTP/1.1 201 ")
        writer.close()
        assert (await client("GET", f"/v2/test/repo/blobs/{digest}")).body == data
        service.process.send_signal(signal.SIGHUP)
        await until(lambda: service.log.read_text().count("the settings were read anew") == 2)
        statuses = [(await client("GET", "/v2/")).status for _ in range(20)]
        assert statuses == [200] * 18 + [429] * 2  # new settings forgive nobody

    @pytest.mark.parametrize(
        ("added", "why"),
        [
            ("colour = 1\n", "unknown key colour"),
            ("[auth]\nhtpasswd = '/nowhere/htpasswd'\n", "auth.htpasswd: /nowhere/htpasswd: No such file or directory"),
            ("[tls]\ncert = '/nowhere/cert'\nkey = '/nowhere/key'\n", "/nowhere/cert: No such file or directory"),
            ("listen = '127.0.0.1:1'\n", "listen: can only be changed by a restart"),
            ("workers = 3\n", "workers: can only be changed by a restart"),
        ],
    )
    async def test_settings_that_cannot_be_used_change_nothing(
        self, added: str, why: str, client: Client, service: Service
    ) -> None:
        lines = service.config.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.partition(" ")[0] != added.partition(" ")[0]]
        service.config.write_text("read_only = true\n" + "".join(kept) + added)
        service.process.send_signal(signal.SIGHUP)
        await until(lambda: "the settings are kept as they were" in service.log.read_text())
        assert why in service.log.read_text()
        assert "Traceback" not in service.log.read_text()
        assert (await client("POST", UPLOADS)).status == 202


def test_workers_that_cannot_start_are_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "scow.registry", "serve", "--listen", "127.0.0.1:0", "--workers", "2"]
    done = subprocess.run([*command, "--storage", tmp_path / "file" / "x"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "Not a directory" in done.stderr
    assert "worker 0 did not start" in done.stderr


def _runs(process: int) -> bool:
    """Whether a process is there, a zombie not counted."""
    with contextlib.suppress(OSError):
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    return False
