"""conmon: its command line and the conversation at its start.

conmon forks itself away, has the runtime create the container, and writes one JSON line to the pipe whose number
stands in _OCI_SYNCPIPE: the container's pid, or -1 and what the runtime said. Its pid file is written by the process
that we started, before that ends.
"""

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from scow.linux.process import Child, ProcessIdentity, is_alive, send_signal, spawn
from scow.runtime.failures import RuntimeFailed, start_error
from scow.runtime.oci_runtime import OciRuntime

PROGRAM: Final = Path("/usr/bin/conmon")
CREATE_TIMEOUT_S: Final = 120.0
END_TIMEOUT_S: Final = 5.0  # it may stand still: it waits for a client that stopped reading
_ENVIRONMENT: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
_PID_FILE: Final = "conmon.pid"
_ERRORS: Final = "conmon.err"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a monitor is to do. All paths are absolute."""

    id: str
    bundle: Path
    exits: Path
    state: Path  # the runtime's --root
    runtime: OciRuntime
    terminal: bool
    open_stdin: bool
    keep_stdin: bool  # when an attachment ends
    log_path: Path | None
    log_max_size: int | None
    shm_size: int | None
    owner: tuple[int, int]  # of the tmpfs: the user and group that are root in the container
    args: tuple[str, ...]  # for messages only


class Launched(NamedTuple):
    """A conmon that was started: the process that will fork itself away, and our end of its pipe."""

    child: Child
    sync_fd: int


class Pids(NamedTuple):
    """Who watches, and who is watched."""

    monitor: int
    container: int


class _Greeting(msgspec.Struct):
    data: int  # the pid: what api-version 1 calls it
    message: str = ""


def command(plan: Plan) -> list[str | Path]:
    """conmon's command line."""
    line: list[str | Path] = [
        PROGRAM,
        "--api-version",
        "1",
        "--cid",
        plan.id,
        "--cuuid",
        plan.id,
        "--name",
        plan.id,
        "--runtime",
        plan.runtime.path,
        "--bundle",
        plan.bundle,
        "--persist-dir",
        plan.bundle,
        "--conmon-pidfile",
        plan.bundle / _PID_FILE,
        "--container-pidfile",
        plan.bundle / "pid",
        "--exit-dir",
        plan.exits,
        "--log-level",
        "error",
        "--log-path",
        f"k8s-file:{plan.log_path}" if plan.log_path is not None else "none",
        # The attach socket lies in the bundle, without a link elsewhere.
        "--full-attach",
        # No fsync at the end: a log is no more durable under docker.
        "--no-sync-log",
        "--runtime-arg",
        "--root",
        "--runtime-arg",
        plan.state,
    ]
    for argument in plan.runtime.arguments:
        line += ["--runtime-arg", argument]
    if plan.log_path is not None and plan.log_max_size:
        line += ["--log-size-max", str(plan.log_max_size)]
    if plan.terminal:
        line.append("--terminal")
    if plan.open_stdin:
        line.append("--stdin")
        if plan.keep_stdin:
            line.append("--leave-stdin-open")
    return line


def launch(plan: Plan) -> Launched:
    """Start conmon. It belongs to a session of its own and holds nothing of ours. Raises RuntimeFailed."""
    ours, theirs = os.pipe()
    try:
        errors = os.open(plan.bundle / _ERRORS, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            child = spawn(
                command(plan),
                environment={**_ENVIRONMENT, "_OCI_SYNCPIPE": str(theirs)},
                cwd=plan.bundle,  # conmon drops an `oom` file where it stands
                stderr=errors,
                pass_fds=(theirs,),
                new_session=True,
            )
        finally:
            os.close(errors)
    except OSError as error:
        os.close(ours)
        raise RuntimeFailed(f"failed to start {PROGRAM}: {error.strerror}") from error
    finally:
        os.close(theirs)
    return Launched(child, ours)


async def handshake(plan: Plan, launched: Launched) -> Pids:
    """Wait until the container is created. Closes the pipe. Raises what `start_error` makes of the runtime's words."""
    try:
        async with asyncio.timeout(CREATE_TIMEOUT_S):
            await launched.child.wait()
            line = await _read_line(launched.sync_fd)
    except TimeoutError as error:
        raise RuntimeFailed(f"the runtime did not create container {plan.id} within {CREATE_TIMEOUT_S:g} s") from error
    finally:
        os.close(launched.sync_fd)
        launched.child.reap()
    if not line:
        reason = await asyncio.to_thread((plan.bundle / _ERRORS).read_text, errors="replace")
        raise start_error(reason, runtime=plan.runtime.name, args=plan.args)
    greeting = msgspec.json.decode(line, type=_Greeting)
    if greeting.data <= 0:
        raise start_error(greeting.message, runtime=plan.runtime.name, args=plan.args)
    return Pids(monitor=int((plan.bundle / _PID_FILE).read_text()), container=greeting.data)


async def end(monitor: ProcessIdentity) -> None:
    """Wait until conmon, whose container has ended, has ended too; it gets a moment, and is then killed.

    Its last deeds are the exit file and to unlink the attach socket, and would befall the container's next run.
    """
    try:
        fd = os.pidfd_open(monitor.pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    try:
        if not is_alive(monitor):
            return
        loop.add_reader(fd, ended.set)
        try:
            async with asyncio.timeout(END_TIMEOUT_S):
                await ended.wait()
        except TimeoutError:
            send_signal(monitor, signal.SIGKILL)
            await ended.wait()
        finally:
            loop.remove_reader(fd)
    finally:
        os.close(fd)


async def _read_line(fd: int) -> bytes:
    """What is written to a pipe up to a newline or its end."""
    loop = asyncio.get_running_loop()
    os.set_blocking(fd, False)
    data = bytearray()
    while not data.endswith(b"\n"):
        readable = loop.create_future()
        loop.add_reader(fd, readable.set_result, None)
        try:
            await readable
        finally:
            loop.remove_reader(fd)
        with contextlib.suppress(BlockingIOError):
            piece = os.read(fd, 16 << 10)
            if not piece:
                break
            data += piece
    return bytes(data)
