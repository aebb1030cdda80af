"""On a terminal: raw mode and its end, the window's size, the detach keys."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HELLO = "4bd78111b6914a99dbc560e6a20eab57ff6655aea4a80c50b0c5491968cbc2e6"


def play(fake: Any, folder: Path, typed: bytes) -> tuple[int, bytes, list[Any], list[Any]]:
    """Run an interactive container on a terminal and type: (exit code, screen, modes before, modes after)."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    before = termios.tcgetattr(theirs)
    environment = {**os.environ, "SCOW_HOST": fake.host, "DOCKER_CONFIG": str(folder)}
    client = subprocess.Popen(
        [sys.executable, "-m", "scow", "run", "-it", "hello-world"],
        stdin=theirs, stdout=theirs, stderr=theirs, env=environment,
    )  # fmt: skip
    assert fake.started.wait(60)
    # The client resizes after the start, and reads what is typed once it is in raw mode.
    while termios.tcgetattr(theirs)[3] & termios.ICANON:
        assert client.poll() is None
    os.write(ours, typed)
    code = client.wait(60)
    after = termios.tcgetattr(theirs)
    os.close(theirs)
    screen = b""
    try:
        while data := os.read(ours, 65536):
            screen += data
    except OSError:
        pass  # how a terminal's other side ends
    os.close(ours)
    return code, screen, before, after


@pytest.fixture
def engine(fake: Any) -> Any:
    fake.on(f"POST /containers/{HELLO}/attach", module_of(fake).Reply(raw="bye\r\n"))
    fake.on(f"POST /containers/{HELLO}/resize", module_of(fake).Reply(200))
    return fake


def module_of(fake: Any) -> ModuleType:
    return sys.modules[type(fake).__module__]


def test_the_terminal_is_raw_and_is_given_back(engine: Any, tmp_path: Path) -> None:
    code, screen, before, after = play(engine, tmp_path, b"exit\r")
    assert code == 3
    assert bytes(engine.stdin) == b"exit\r"
    assert screen.endswith(b"bye\r\n")
    assert before == after


def test_the_size_of_the_window_goes_along(engine: Any, tmp_path: Path) -> None:
    play(engine, tmp_path, b"\r")
    create = next(body for _, target, body in engine.requests if "/create" in target and body)
    assert create["HostConfig"]["ConsoleSize"] == [30, 100]
    assert [target for _, target, _ in engine.requests if "resize" in target] == [
        f"/v1.50/containers/{HELLO}/resize?h=30&w=100"
    ]


def test_the_detach_keys_leave_the_container_running(engine: Any, tmp_path: Path) -> None:
    code, _, before, after = play(engine, tmp_path, b"\x10\x11")
    assert code == 0
    assert before == after
    assert bytes(engine.stdin) == b""
