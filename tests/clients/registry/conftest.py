"""A registry as its own process, as people run it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


class Process:
    """`scow registry serve` on a free port."""

    def __init__(self, root: Path, *flags: str) -> None:
        self.root = root
        self.flags = flags
        self.host = ""

    def start(self) -> None:
        command = [sys.executable, "-m", "scow.registry", "serve", "--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            [*command, "--storage", str(self.root), *self.flags], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:"), line
        self.host = line.split("//")[1].strip()

    def stop(self) -> int:
        self.process.terminate()
        code = self.process.wait(60)
        assert self.process.stdout
        self.process.stdout.close()
        return code

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)
        assert self.process.stdout
        self.process.stdout.close()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Process]:
    process = Process(tmp_path / "registry")
    process.start()
    yield process
    if process.process.returncode is None:
        assert process.stop() == 0
