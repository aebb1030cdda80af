"""nftables, by libnftables (libnftables(3)): commands in nft's own language, each script one transaction.

The library lives in a small process of its own (nftables_child.py, which says why): a question costs a message more,
and a crash costs a new process instead of the engine.
"""

import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final, Self

from scow.linux import nftables_child as child

_CHILD: Final = str(Path(child.__file__))


class NftablesMissing(OSError):
    """The machine has no libnftables."""


class NftablesFailed(OSError):
    """The kernel or the parser refused a script; none of it took effect. `script` is what was asked."""

    def __init__(self, answer: str, script: str) -> None:
        super().__init__(f"nftables: {answer.strip() or 'refused without a reason'}")
        self.script = script


class NftablesCrashed(NftablesFailed):
    """The library's process ended over a script: all of it took effect, or nothing. The next script gets a new one."""


class Nftables:
    """A process with a libnftables context. Calls are serialised by a lock and wait for the kernel: use threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        """The process, None while there is none."""
        return self._process.pid if self._process is not None else None

    def begin(self) -> None:
        """Start the process now, for the first script to find it ready. A second call does nothing."""
        with self._lock:
            if not self._closed and self._connection is None:
                self._start()

    def run(self, script: str, *, json: bool = False) -> str:
        """Run a script, all of it or nothing, and return what it prints.

        Raises NftablesFailed, NftablesCrashed and NftablesMissing.
        """
        with self._lock:
            if self._closed:
                raise NftablesFailed("context is closed", script)
            if self._process is not None and self._process.poll() is not None:
                self._stop()
            connection = self._connection or self._start()
            try:
                child.send(connection, json, script.encode())
                answer = child.receive(connection)
            except ConnectionError:
                answer = None
            if answer is None:
                raise NftablesCrashed(f"the process that runs it ended ({self._stop()})", script)
            kind, data = answer
            text = data.decode(errors="replace")
            if kind == child.MISSING:
                raise NftablesMissing(f"libnftables can't be loaded (package libnftables1 or nftables): {text}")
            if kind == child.REFUSED:
                raise NftablesFailed(text, script)
            return text

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                # Isolated and without site: what it imports is known, and it is there in some 20 ms.
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", _CHILD, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
            except BaseException:
                ours.close()
                raise
        self._connection = ours
        return ours

    def _stop(self) -> str:
        """End the process; how it ended."""
        assert self._connection is not None
        assert self._process is not None
        self._connection.close()
        status = self._process.wait()
        self._process = self._connection = None
        return f"signal {-status}" if status < 0 else f"status {status}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process; a second call does nothing."""
        with self._lock:
            self._closed = True
            if self._connection is not None:
                self._stop()
