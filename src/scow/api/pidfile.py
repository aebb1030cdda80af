"""The file that names the daemon's process, and keeps a second daemon from starting over the first."""

import contextlib
import os
from pathlib import Path
from typing import Final

from scow.errors import Conflict

_HEAD: Final = 5  # words of a command line, in which Python's options and the program are


class StillRunning(Conflict):
    """The process that a PID file names is alive."""

    def __init__(self, path: Path, pid: int) -> None:
        super().__init__(f"process with PID {pid} is still running (PID file {path})")
        self.pid = pid


class PidFile:
    """A PID file that is ours from `write` to `remove`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self) -> None:
        """Name this process. Raises StillRunning; a file that a dead process left is replaced."""
        pid = self._named()
        if pid is not None and pid != os.getpid() and _alive(pid):
            raise StillRunning(self._path, pid)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        temporary.write_text(str(os.getpid()))
        temporary.replace(self._path)

    def remove(self) -> None:
        """Remove the file if it still names this process."""
        if self._named() == os.getpid():
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()

    def _named(self) -> int | None:
        try:
            return int(self._path.read_text().strip())
        except (FileNotFoundError, ValueError):
            return None


def _alive(pid: int) -> bool:
    # A PID that was given to another program since (a reboot, a container) must not keep the engine down for ever: a
    # conmon, which names our folders, or a registry. An engine is `scowd`, or Python with it or its module.
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:_HEAD]
    except OSError:
        return False
    return any(word.rpartition(b"/")[2] == b"scowd" or word.startswith(b"scow.api.") for word in words)
