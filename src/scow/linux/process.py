"""Processes: spawn one without threads, wait for it on its pidfd, and name one so that its pid can't be mistaken.

A pid is reused; a pid together with the time the process started is not. What is recorded about a process that isn't
our child is such a pair.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

_STATE: Final = 0  # fields of /proc/PID/stat counted from the one after the command's name
_FLAGS: Final = 6
_STARTED: Final = 19
_EXITING: Final = 0x4  # PF_EXITING of the kernel's sched.h


class ProcessIdentity(msgspec.Struct, frozen=True):
    """A process that isn't mistaken for a later one with the same pid; `started` is in clock ticks since boot."""

    pid: int
    started: int


class Child:
    """A child process. Whoever spawned it awaits `wait`, or hands it to `reap` if its status doesn't matter."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        self._exited: asyncio.Future[int] | None = None

    @property
    def pid(self) -> int:
        """The child's pid: its own until the status has been waited for."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The status once it has been waited for; negative for a signal."""
        return self._process.returncode

    async def wait(self) -> int:
        """Return the exit status, the signal's number negated if a signal ended it. Several may wait at once."""
        return await asyncio.shield(self._watch())

    def reap(self) -> None:
        """Leave no zombie, without waiting for the end here."""
        self._watch()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal, unless the child was waited for already."""
        self._process.send_signal(number)

    def _watch(self) -> asyncio.Future[int]:
        if self._exited is not None:
            return self._exited
        loop = asyncio.get_running_loop()
        exited = self._exited = loop.create_future()
        code = self._process.poll()
        if code is not None:
            exited.set_result(code)
            return exited
        pidfd = os.pidfd_open(self._process.pid)

        def on_exit() -> None:
            loop.remove_reader(pidfd)
            os.close(pidfd)
            code = self._process.wait()  # the pidfd was readable: it doesn't block
            if not exited.done():
                exited.set_result(code)

        loop.add_reader(pidfd, on_exit)
        return exited


def spawn(
    arguments: Sequence[str | Path],
    *,
    environment: Mapping[str, str],
    cwd: Path | str = "/",
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
    stderr: int = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
    new_session: bool = False,
) -> Child:
    """Start a program by vfork; only the named descriptors are inherited. Raises OSError if it can't be executed.

    Nothing is done between fork and exec that would force a real fork (no `preexec_fn`, no user).
    """
    process = subprocess.Popen(
        [os.fspath(argument) for argument in arguments],
        env=dict(environment),
        cwd=cwd,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        pass_fds=tuple(pass_fds),
        start_new_session=new_session,
    )
    return Child(process)


def identify(pid: int) -> ProcessIdentity | None:
    """The identity of a living process; None if there is none, or only its zombie is left."""
    fields = _stat_fields(pid)
    if fields is None or fields[_STATE] in (b"Z", b"X"):
        return None
    return ProcessIdentity(pid, int(fields[_STARTED]))


def is_alive(identity: ProcessIdentity) -> bool:
    """Whether that very process runs (a zombie doesn't)."""
    return identify(identity.pid) == identity


def is_ending(identity: ProcessIdentity) -> bool:
    """Whether that very process has ended or is about to: its namespaces may be left already, with no zombie yet."""
    fields = _stat_fields(identity.pid)
    if fields is None or fields[_STATE] in (b"Z", b"X") or int(fields[_STARTED]) != identity.started:
        return True
    return bool(int(fields[_FLAGS]) & _EXITING)


def send_signal(identity: ProcessIdentity, number: int) -> bool:
    """Signal that very process, whatever its pid is used for by now; False if it has ended."""
    try:
        pidfd = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return False
    try:
        # The pidfd is bound to whoever has the pid now, so the comparison holds for the signal that follows.
        if not is_alive(identity):
            return False
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


def _stat_fields(pid: int) -> list[bytes] | None:
    try:
        data = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name stands in brackets and may itself hold brackets and blanks.
    return data[data.rindex(b")") + 2 :].split()
