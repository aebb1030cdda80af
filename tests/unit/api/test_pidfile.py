"""A PID file keeps a second engine away, and nobody else's process does."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scow.api.pidfile import PidFile, StillRunning

SLEEP = "import time; print(flush=True); time.sleep(60)"


@contextmanager
def process(name: str, *arguments: str) -> Iterator[int]:
    """A process that sleeps, and is called what a command line begins with."""
    command = [name, "-c", SLEEP, *arguments]
    with subprocess.Popen(command, executable=sys.executable, stdout=subprocess.PIPE) as sleeper:
        try:
            assert sleeper.stdout is not None
            sleeper.stdout.readline()  # from here on the kernel tells its command line
            yield sleeper.pid
        finally:
            sleeper.kill()


def test_a_file_of_a_living_engine_is_respected(tmp_path: Path) -> None:
    file = tmp_path / "scowd.pid"
    with process("/usr/local/bin/scowd") as pid:
        file.write_text(f"{pid}\n")
        with pytest.raises(StillRunning, match=f"process with PID {pid} is still running"):
            PidFile(file).write()
    PidFile(file).write()
    assert file.read_text() != str(pid)


@pytest.mark.parametrize("name", ["conmon", "scow-registry"])
def test_a_number_that_another_program_has_got_keeps_no_engine_down(tmp_path: Path, name: str) -> None:
    file = tmp_path / "scowd.pid"
    with process(name, "--bundle", "/run/scow/containers/1") as pid:
        file.write_text(f"{pid}\n")
        PidFile(file).write()
        assert file.read_text() != str(pid)


@pytest.mark.parametrize("text", ["", "none\n", "99999999\n"])
def test_a_file_that_names_no_process_is_replaced(tmp_path: Path, text: str) -> None:
    file = tmp_path / "scowd.pid"
    file.write_text(text)
    pidfile = PidFile(file)
    pidfile.write()
    assert int(file.read_text()) > 1
    pidfile.remove()
    assert not file.exists()
