"""Attached streams: nothing is lost before the start, after half a close, or at the end; terminals and detach keys."""

import fcntl
import hashlib
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.utils.socket import frames_iter

from support import raw
from support.daemon import Daemon

SPEAKER = ["sh", "-c", "echo out; echo err >&2"]
ATTACH = "stream=1&stdout=1&stderr=1"


def create(engine: Daemon, name: str = "", **body: Any) -> str:
    query = f"?name={name}" if name else ""
    return str(engine.json("POST", f"/containers/create{query}", {"Image": "busybox", **body})["Id"])


def test_early_attach_loses_nothing_of_a_short_run_by_the_raw_api(engine: Daemon) -> None:
    def once(_: int) -> dict[int, bytes]:
        id = create(engine, Cmd=SPEAKER)
        with raw.connected(engine) as attached:
            attached.ask("POST", f"/v1.50/containers/{id}/attach?{ATTACH}", headers=raw.UPGRADE)
            assert attached.status == 101
            engine.json("POST", f"/containers/{id}/start")
            return raw.joined(attached.rest())

    with ThreadPoolExecutor(4) as crowd:
        assert list(crowd.map(once, range(25))) == [{1: b"out\n", 2: b"err\n"}] * 25


def test_early_attach_loses_nothing_of_a_short_run_by_docker(engine: Daemon) -> None:
    with ThreadPoolExecutor(3) as crowd:
        runs = list(crowd.map(lambda _: engine.docker("run", "--rm", "busybox", *SPEAKER), range(25)))
    assert {(done.stdout, done.stderr) for done in runs} == {("out\n", "err\n")}


def test_a_container_whose_stream_has_ended_is_not_running(engine: Daemon) -> None:
    for _ in range(10):
        id = create(engine, Cmd=["sh", "-c", "exit 3"])
        with raw.connected(engine) as attached:
            attached.ask("POST", f"/v1.50/containers/{id}/attach?{ATTACH}", headers=raw.UPGRADE)
            engine.json("POST", f"/containers/{id}/start")
            attached.rest()
        state = engine.json("GET", f"/containers/{id}/json")["State"]
        assert (state["Status"], state["ExitCode"]) == ("exited", 3)
        engine.json("DELETE", f"/containers/{id}")


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_early_attach_loses_nothing_of_a_short_run_by_docker_py(engine: Daemon, docker_py: docker.DockerClient) -> None:
    for _ in range(20):
        container = docker_py.containers.create("busybox", SPEAKER)
        attached = container.attach_socket(params={"stdout": 1, "stderr": 1, "stream": 1})
        container.start()
        found: dict[int, bytes] = {}
        for stream, data in frames_iter(attached, tty=False):
            found[stream] = found.get(stream, b"") + data
        attached._sock.close()
        assert found == {1: b"out\n", 2: b"err\n"}


def test_the_head_of_a_hijack_and_its_content_types(engine: Daemon) -> None:
    id = create(engine, Cmd=["true"])
    terminal = create(engine, Cmd=["true"], Tty=True)
    multiplexed, plain = "application/vnd.docker.multiplexed-stream", "application/vnd.docker.raw-stream"
    for ref, version, upgrade, status, kind in (
        (id, "v1.50", raw.UPGRADE, 101, multiplexed),
        (id, "v1.42", raw.UPGRADE, 101, multiplexed),
        (id, "v1.41", raw.UPGRADE, 101, plain),
        (id, "v1.50", {}, 200, plain),
        (terminal, "v1.50", raw.UPGRADE, 101, plain),
    ):
        with raw.connected(engine) as attached:
            attached.ask("POST", f"/{version}/containers/{ref}/attach?{ATTACH}", headers=upgrade)
            assert (attached.status, attached.headers["content-type"]) == (status, kind)
            assert attached.headers.get("upgrade") == upgrade.get("Upgrade")


def test_input_goes_on_being_answered_after_the_client_closed_its_half(engine: Daemon) -> None:
    id = create(engine, Cmd=["sh", "-c", "cat; echo done"], OpenStdin=True, StdinOnce=True, AttachStdin=True)
    with raw.connected(engine) as attached:
        attached.ask("POST", f"/v1.50/containers/{id}/attach?stdin=1&{ATTACH}", headers=raw.UPGRADE)
        attached.send(b"early ")
        attached.end()
        engine.json("POST", f"/containers/{id}/start")
        assert raw.joined(attached.rest()) == {1: b"early done\n"}


def test_the_end_of_one_client_s_input_is_not_the_process_s_unless_asked(engine: Daemon) -> None:
    id = create(engine, Cmd=["cat"], OpenStdin=True)
    engine.json("POST", f"/containers/{id}/start")
    for word in (b"one\n", b"two\n"):
        with raw.connected(engine) as attached:
            attached.ask("POST", f"/v1.50/containers/{id}/attach?stdin=1&{ATTACH}", headers=raw.UPGRADE)
            attached.send(word)
            attached.end()
            assert attached.until(word).endswith(word)
    assert engine.json("GET", f"/containers/{id}/json")["State"]["Running"]


@pytest.mark.parametrize("client", ["docker", "scow"])
def test_a_hundred_megabytes_pass_through_cat(engine: Daemon, client: str, tmp_path: Path) -> None:
    size = 100 << 20
    block = os.urandom(1 << 20)
    (tmp_path / "in").write_bytes(block * (size >> 20))
    program = "docker" if client == "docker" else str(Path(sys.executable).with_name("scow"))
    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as target:
        subprocess.run(
            [program, "run", "--rm", "-i", "--log-driver", "none", "busybox", "cat"],
            env=engine.environment(),
            stdin=source,
            stdout=target,
            check=True,
            timeout=100,
        )
    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("rb") as target:
        assert hashlib.file_digest(target, "sha256").digest() == hashlib.file_digest(source, "sha256").digest()


@pytest.mark.parametrize("client", ["docker", "scow"])
def test_input_is_piped_and_its_absence_is_an_end(engine: Daemon, client: str) -> None:
    run = getattr(engine, client)
    assert run("run", "--rm", "-i", "busybox", "cat", input=b"x\n").stdout == "x\n"
    assert run("run", "--rm", "-i", "busybox", "cat").stdout == ""
    assert run("run", "--rm", "busybox", "cat").stdout == ""


def test_several_clients_see_the_same_output(engine: Daemon) -> None:
    id = create(engine, Cmd=["sh", "-c", "read x; echo $x; echo $x >&2"], OpenStdin=True)
    with raw.connected(engine) as first, raw.connected(engine) as second, raw.connected(engine) as errors:
        for each, streams in ((first, f"stdin=1&{ATTACH}"), (second, ATTACH), (errors, "stream=1&stderr=1")):
            each.ask("POST", f"/v1.50/containers/{id}/attach?{streams}", headers=raw.UPGRADE)
        engine.json("POST", f"/containers/{id}/start")
        first.send(b"word\n")
        assert raw.joined(first.rest()) == raw.joined(second.rest()) == {1: b"word\n", 2: b"word\n"}
        assert raw.joined(errors.rest()) == {2: b"word\n"}


def test_attach_with_logs_begins_with_what_was_said_before(engine: Daemon) -> None:
    id = create(engine, Cmd=["sh", "-c", "echo before; read x; echo after"], OpenStdin=True)
    engine.json("POST", f"/containers/{id}/start")
    with raw.connected(engine) as follower:
        follower.ask("GET", f"/v1.50/containers/{id}/logs?follow=1&stdout=1")
        follower.until(b"before\n")
    with raw.connected(engine) as attached:
        attached.ask("POST", f"/v1.50/containers/{id}/attach?logs=1&stdin=1&{ATTACH}", headers=raw.UPGRADE)
        attached.send(b"\n")
        assert raw.joined(attached.rest()) == {1: b"before\nafter\n"}


def test_the_wait_is_answered_at_once_and_ends_with_the_run(engine: Daemon) -> None:
    id = create(engine, Cmd=["sh", "-c", "exit 3"], HostConfig={"AutoRemove": True})
    with raw.connected(engine) as next_exit, raw.connected(engine) as removed:
        next_exit.ask("POST", f"/v1.50/containers/{id}/wait?condition=next-exit")
        removed.ask("POST", f"/v1.50/containers/{id}/wait?condition=removed", headers={"Connection": "close"})
        assert (next_exit.status, removed.status) == (200, 200)
        assert next_exit.headers["content-type"] == "application/json"
        engine.json("POST", f"/containers/{id}/start")
        assert b'{"StatusCode":3}' in next_exit.until(b"}")
        assert b'{"StatusCode":3}' in removed.rest()
    assert engine.request("GET", f"/containers/{id}/json")[0] == 404


class Terminal:
    """A client on a pseudo terminal."""

    def __init__(self, engine: Daemon, *args: str, rows: int = 33, columns: int = 101) -> None:
        self.master, slave = pty.openpty()
        self.resize(rows, columns)
        self.process = subprocess.Popen(
            args, env=engine.environment(), stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)
        self.seen = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def expect(self, pattern: bytes) -> "re.Match[bytes]":
        end = time.monotonic() + 60
        while not (found := re.search(pattern, self.seen)):
            assert select.select([self.master], [], [], end - time.monotonic())[0], self.seen
            self.seen += os.read(self.master, 65536)
        self.seen = self.seen[found.end() :]
        return found

    def close(self) -> int:
        code = self.process.wait(60)
        os.close(self.master)
        return code


def program_of(client: str) -> str:
    return "docker" if client == "docker" else str(Path(sys.executable).with_name("scow"))


@pytest.mark.parametrize(("started", "terminal"), [(True, True), (False, True), (True, False)])
def test_the_start_of_an_exec_says_whether_its_output_has_frames(engine: Daemon, started: bool, terminal: bool) -> None:
    engine.docker("run", "-d", "--name", "box", "busybox", "sleep", "600")
    asked = {"Cmd": ["echo", "out"], "AttachStdout": True, "Tty": terminal}
    id = engine.json("POST", "/containers/box/exec", asked)["Id"]
    data = engine.request("POST", f"/exec/{id}/start", {"Tty": started})[1]
    out = b"out\r\n" if terminal else b"out\n"
    assert (data if started else raw.frames(data)) == (out if started else [(1, out)])


@pytest.mark.parametrize("client", ["docker", "scow"])
def test_a_shell_on_a_terminal_knows_its_size_and_follows_it(engine: Daemon, client: str) -> None:
    terminal = Terminal(engine, program_of(client), "run", "--rm", "-it", "busybox", "sh")
    terminal.expect(rb"# ")
    terminal.type(b"stty size\r")
    terminal.expect(rb"33 101\r\n")
    terminal.resize(20, 70)
    os.kill(terminal.process.pid, 28)  # SIGWINCH
    terminal.type(b"while [ \"$(stty size)\" != '20 70' ]; do sleep 0.05; done; echo o'k'\r")
    terminal.expect(rb"\nok\r\n")
    terminal.type(b"exit 4\r")
    assert terminal.close() == 4


@pytest.mark.parametrize("client", ["docker", "scow"])
def test_detach_keys_leave_the_container_running_and_attach_comes_back(engine: Daemon, client: str) -> None:
    terminal = Terminal(engine, program_of(client), "run", "--name", "box", "-it", "busybox", "sh")
    terminal.expect(rb"# ")
    terminal.type(b"\x10\x11")
    assert terminal.close() == 0
    assert engine.json("GET", "/containers/box/json")["State"]["Running"]
    again = Terminal(engine, program_of(client), "attach", "--detach-keys", "ctrl-a,b", "box")
    again.type(b"echo sti'l'l\r")
    again.expect(rb"still\r\n")
    again.type(b"\x01b")
    assert again.close() in (0, 1)
    assert engine.json("GET", "/containers/box/json")["State"]["Running"]


@pytest.mark.parametrize("client", ["docker", "scow"])
def test_exec_on_a_terminal(engine: Daemon, client: str) -> None:
    engine.docker("run", "-d", "--name", "box", "busybox", "sleep", "60")
    terminal = Terminal(engine, program_of(client), "exec", "-it", "box", "sh")
    terminal.expect(rb"# ")
    terminal.type(b"stty size; tty\r")
    terminal.expect(rb"33 101\r\n/dev/pts/\d+\r\n")
    terminal.type(b"exit 9\r")
    assert terminal.close() == 9


def test_output_of_a_terminal_is_raw(engine: Daemon) -> None:
    id = create(engine, Cmd=["echo", "x"], Tty=True)
    with raw.connected(engine) as attached:
        attached.ask("POST", f"/v1.50/containers/{id}/attach?{ATTACH}", headers=raw.UPGRADE)
        engine.json("POST", f"/containers/{id}/start")
        assert attached.rest() == b"x\r\n"
    assert engine.request("GET", f"/containers/{id}/logs?stdout=1") == (200, b"x\r\n")


@pytest.mark.parametrize("how", ["kill", "stop?t=0"])
def test_a_client_that_reads_no_more_holds_no_end_up(engine: Daemon, how: str) -> None:
    id = engine.json("POST", "/containers/create", {"Image": "busybox", "Cmd": ["yes", "x" * 1000]})["Id"]
    with raw.connected(engine) as client, raw.connected(engine) as follower:
        client.ask("POST", f"/v1.50/containers/{id}/attach?stdout=1&stream=1", headers=raw.UPGRADE)
        engine.json("POST", f"/containers/{id}/start")
        follower.ask("GET", f"/v1.50/containers/{id}/logs?stdout=1&follow=1")
        for _ in range(1_200):  # about as much as fits between the container and the client
            follower.until(b"x" * 1000)
        engine.json("POST", f"/containers/{id}/{how}")
        assert engine.json("GET", f"/containers/{id}/json")["State"]["Status"] == "exited"


def test_a_client_that_goes_away_leaves_the_container_alone(engine: Daemon) -> None:
    id = create(engine, Cmd=["sh", "-c", "yes | head -c 3000000; read x"], OpenStdin=True)
    with raw.connected(engine) as attached:
        attached.ask("POST", f"/v1.50/containers/{id}/attach?{ATTACH}", headers=raw.UPGRADE)
        engine.json("POST", f"/containers/{id}/start")
        attached.until(b"y\n")
    with raw.connected(engine) as attached:
        attached.ask("POST", f"/v1.50/containers/{id}/attach?stdin=1&{ATTACH}", headers=raw.UPGRADE)
        attached.send(b"\n")
        attached.rest()
    assert engine.json("GET", f"/containers/{id}/json")["State"]["ExitCode"] == 0
