"""Commands in running containers: the runtime's `exec` as our child, on pipes or a terminal of our own.

conmon could stand between as it does for containers, for 10 ms and a process more; an exec needn't outlive the engine.
The runtime stays as the parent of the command and ends with its exit code. Whether the command was started at all is
told by the pid file: without one, the runtime's log says why not.

With a terminal there are two: the runtime makes the inner one in the container, and copies between it and ours, which
it puts into raw mode. That works with crun and runc alike; a console socket doesn't (runc wants to be detached then).
"""

import asyncio
import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import stat
import subprocess
import termios
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from scow.linux.process import Child, spawn
from scow.runtime.attach import STDERR, STDOUT
from scow.runtime.bundle import capability_sets, security_options, user_section
from scow.runtime.capabilities import bounding_set, container_capabilities
from scow.runtime.environment import environment
from scow.runtime.failures import RuntimeFailed, start_error
from scow.runtime.limits import rlimits
from scow.runtime.monitor import Monitors
from scow.runtime.oci_runtime import ENVIRONMENT
from scow.runtime.streams import ProcessStreams
from scow.runtime.user import ProcessUser
from scow.wire.container import ContainerConfig
from scow.wire.host_config import HostConfig, Ulimit

START_TIMEOUT_S: Final = 60.0
DRAIN_TIMEOUT_S: Final = 2.0
"""How long output may go on after the command has ended: something it left behind holds the streams. As docker."""

_KILLED: Final = 128 + signal.SIGKILL
_PIPE_SIZE: Final = 1 << 20
_PROCESS: Final = "process.json"
_PID: Final = "pid"
_LOG: Final = "log"
_PTY_MAJORS: Final = range(136, 144)


class ExecSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be run, in which container (`config`, `host`), and how it is attached."""

    args: Sequence[str]
    config: ContainerConfig
    host: HostConfig
    user: ProcessUser
    env: Sequence[str] = ()
    cwd: str = "/"
    tty: bool = False
    privileged: bool = False
    attached: bool = True  # else output goes nowhere
    stdin: bool = False
    console_size: tuple[int, int] | None = None  # rows, columns
    default_ulimits: Sequence[Ulimit] = ()


class ExecProcess:
    """A command that runs. Read its output to the end or `aclose`; `wait` gives its exit code, to several too."""

    def __init__(self, child: Child, pid: int, stdio: "_Stdio") -> None:
        self.pid = pid  # of the command, as the machine sees it
        self._child = child
        self._streams = stdio.streams
        self._ended = asyncio.get_running_loop().create_task(self._end())

    async def read(self) -> list[tuple[int, bytes]]:
        """Return all that is there, at least one (stream, data); [] at the end of all output."""
        return await self._streams.read()

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send input. Raises BrokenPipeError when the command reads no more."""
        await self._streams.write(data)

    async def close_stdin(self) -> None:
        """End the input; a terminal's stays open."""
        await self._streams.close_stdin()

    async def resize(self, height: int, width: int) -> None:
        """Tell the terminal its size in characters; nothing happens without one, or after the end."""
        if self._child.returncode is None and self._streams.resize(height, width):
            # The runtime would have to be told by a signal, which crun passes on instead of heeding it.
            _resize_terminal_of(self.pid, height, width)

    async def wait(self) -> int:
        """Return the exit code; a signal's number counts from 128."""
        return await asyncio.shield(self._ended)

    async def aclose(self) -> None:
        """Let go of the streams: the command goes on, its output thrown away if it has a terminal. Idempotent."""
        await self._streams.aclose()

    async def _end(self) -> int:
        code = await self._child.wait()
        asyncio.get_running_loop().call_later(DRAIN_TIMEOUT_S, self._streams.cut)
        return code if code >= 0 else _KILLED


async def start_exec(monitors: Monitors, id: str, spec: ExecSpec) -> ExecProcess:
    """Run a command in a running container; returns when it runs.

    Raises NoSuchRun, CommandNotFound, CommandNotExecutable, RuntimeFailed.
    """
    program, state = monitors.runtime_program(id)
    folder = monitors.bundle(id) / f"exec-{secrets.token_hex(8)}"
    stdio = _terminal(spec) if spec.tty else _pipes(spec)
    try:
        await asyncio.to_thread(_prepare, folder, spec)
        command: list[str | Path] = [
            *(program, "--root", state, "--log", folder / _LOG, "--log-format", "json"),
            *("exec", "--process", folder / _PROCESS, "--pid-file", folder / _PID, id),
        ]
        with monitors.watched(folder) as changed:
            child = await _spawn(command, stdio)
            pid = await _started(child, folder / _PID, changed)
        if not pid:
            said = await asyncio.to_thread(_read_text, folder / _LOG)
            raise start_error(said, runtime=program.name, args=tuple(spec.args), exec=True)
        return ExecProcess(child, pid, stdio)
    except BaseException:
        await stdio.streams.aclose()
        raise
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, True)


async def _spawn(command: list[str | Path], stdio: "_Stdio") -> Child:
    try:
        return await asyncio.to_thread(
            spawn,
            command,
            environment=ENVIRONMENT,
            stdin=stdio.stdin,
            stdout=stdio.stdout,
            stderr=stdio.stderr,
            new_session=True,
        )
    except OSError as error:
        raise RuntimeFailed(f"failed to start {command[0]}: {error.strerror}") from error
    finally:
        stdio.close_theirs()


async def _started(child: Child, pid_file: Path, changed: asyncio.Event) -> int:
    """Wait for the command's pid; 0 if the runtime ended without having written one."""
    exited: asyncio.Future[Any] = asyncio.ensure_future(child.wait())
    waiting: asyncio.Future[Any] = asyncio.ensure_future(changed.wait())
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while not (pid := _read_pid(pid_file)) and not exited.done():
                await asyncio.wait({exited, waiting}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                changed.clear()
                waiting = asyncio.ensure_future(changed.wait())
        return pid or _read_pid(pid_file)
    except BaseException as error:
        child.kill()
        child.reap()
        if isinstance(error, TimeoutError):
            raise RuntimeFailed(f"the runtime did not start a command within {START_TIMEOUT_S:g} s") from error
        raise
    finally:
        exited.cancel()
        waiting.cancel()


class _Stdio:
    """The runtime's standard descriptors, and our ends of them."""

    def __init__(self, theirs: tuple[int, int, int], outputs: dict[int, int], input: int | None) -> None:
        self.stdin, self.stdout, self.stderr = theirs
        self.streams = ProcessStreams(outputs, input)

    def close_theirs(self) -> None:
        """Close what the child has by now."""
        for fd in {self.stdin, self.stdout, self.stderr} - {subprocess.DEVNULL}:
            os.close(fd)


def _pipes(spec: ExecSpec) -> _Stdio:
    nothing = subprocess.DEVNULL
    input, stdin = None, nothing
    if spec.stdin and spec.attached:
        stdin, input = os.pipe()
    if not spec.attached:
        return _Stdio((stdin, nothing, nothing), {}, input)
    ours_out, stdout = os.pipe()
    ours_err, stderr = os.pipe()
    for pipe in (ours_out, stdout):
        with contextlib.suppress(OSError):  # the user's pipe pages may be used up: a small one works too
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    return _Stdio((stdin, stdout, stderr), {ours_out: STDOUT, ours_err: STDERR}, input)


def _terminal(spec: ExecSpec) -> _Stdio:
    master, slave = os.openpty()
    if spec.console_size is not None:
        termios.tcsetwinsize(slave, spec.console_size)
    if not spec.attached:
        # Nobody reads: the terminal is there for the command, its output is thrown away as it comes.
        stdio = _Stdio((slave, slave, slave), {master: STDOUT}, master)
        stdio.streams.discard()
        return stdio
    return _Stdio((slave, slave, slave), {master: STDOUT}, master)


def _prepare(folder: Path, spec: ExecSpec) -> None:
    folder.mkdir(mode=0o700)
    (folder / _PROCESS).write_bytes(msgspec.json.encode(process_section(spec)))


def process_section(spec: ExecSpec) -> dict[str, Any]:
    """The process as the runtime's exec wants it. runtime-spec config.md#process."""
    host = spec.host
    security = security_options(host.security_opt)
    names = container_capabilities(
        host.cap_add, host.cap_drop, privileged=spec.privileged or host.privileged, available=bounding_set()
    )
    variables = [*(spec.config.env or ()), *spec.env]
    section: dict[str, Any] = {
        "terminal": spec.tty,
        "user": user_section(spec.user),
        "args": list(spec.args),
        "env": environment(variables, hostname=spec.config.hostname, tty=spec.tty, home=spec.user.home),
        "cwd": spec.cwd or "/",
        "capabilities": capability_sets(names),
        "noNewPrivileges": security.no_new_privileges,
    }
    if spec.tty and spec.console_size is not None:
        section["consoleSize"] = {"height": spec.console_size[0], "width": spec.console_size[1]}
    limits = rlimits(host.ulimits, spec.default_ulimits)
    if limits:
        section["rlimits"] = limits
    return section


def _resize_terminal_of(pid: int, height: int, width: int) -> None:
    """Set the size of the terminal that a process has on a standard stream, if it has one there."""
    for number in (0, 1, 2):
        try:
            # Looked at before it is opened: a container can put anything here, and opening some things has effects.
            found = os.open(f"/proc/{pid}/fd/{number}", os.O_PATH | os.O_CLOEXEC)
            try:
                status = os.fstat(found)
                if not stat.S_ISCHR(status.st_mode) or os.major(status.st_rdev) not in _PTY_MAJORS:
                    continue
                terminal = os.open(f"/proc/self/fd/{found}", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
            finally:
                os.close(found)
        except OSError:  # it has ended
            continue
        try:
            termios.tcsetwinsize(terminal, (height, width))
        finally:
            os.close(terminal)
        return


def _read_text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def _read_pid(path: Path) -> int:
    text = _read_text(path).strip()
    return int(text) if text.isdigit() else 0
