"""Commands in running containers: the runtime's `exec` as our child, on pipes or a terminal of our own.

conmon could stand between as it does for containers, for 10 ms and a process more; an exec needn't outlive the engine.
The runtime stays as the parent of the command and ends with its exit code. Whether the command was started at all is
told by the pid file: without one, the runtime's log says why not.

With a terminal, crun hands over the one that it makes in the container through a console socket, as conmon has it.
Left to copy between that one and ours it ends with its command, and loses what it hasn't copied by then (seen with
1.8.1: one short command in ten). runc takes a console socket only when detached, where nobody learns the exit code; but
it copies to the end. So with runc there are two terminals: ours, in raw mode, and the inner one.
"""

import asyncio
import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import termios
import tty
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from scow.linux.process import Child, spawn
from scow.runtime.apparmor import profile_for
from scow.runtime.attach import STDERR, STDOUT
from scow.runtime.bundle import capability_sets, security_options, user_section
from scow.runtime.capabilities import bounding_set, container_capabilities
from scow.runtime.environment import environment
from scow.runtime.failures import RuntimeFailed, start_error
from scow.runtime.limits import rlimits
from scow.runtime.monitor import Monitors, NoSuchRun, Paused
from scow.runtime.oci_runtime import ENVIRONMENT
from scow.runtime.room import needing_room
from scow.runtime.streams import ProcessStreams
from scow.runtime.user import ProcessUser
from scow.wire.container import ContainerConfig
from scow.wire.host_config import HostConfig, Ulimit

START_TIMEOUT_S: Final = 60.0
DRAIN_TIMEOUT_S: Final = 2.0
"""How long output may go on after the command has ended: something it left behind holds the streams. As docker."""

_HANDED_OVER_S: Final = 10.0  # from the end of a command, with its terminal underway
_KILLED: Final = 128 + signal.SIGKILL
_PIPE_SIZE: Final = 1 << 20
_PROCESS: Final = "process.json"
_PID: Final = "pid"
_LOG: Final = "log"
_CONSOLE: Final = "console"
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
    selinux_label: str = ""
    owner: tuple[int, int] | None = None  # who owns the pipes, if the command's user isn't root of the machine
    no_new_privileges: bool = False  # unless the container's own options say otherwise


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

    Raises NoSuchRun, Paused, CommandNotFound, CommandNotExecutable, RuntimeFailed.
    """
    runtime = monitors.runtime_of(id)
    program = runtime.path
    folder = monitors.bundle(id) / f"exec-{secrets.token_hex(8)}"
    hands_over = spec.tty and program.name.startswith("crun")
    stdio = _nothing() if hands_over else _terminal(spec) if spec.tty else _pipes(spec)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(needing_room(monitors.root))
            await asyncio.to_thread(_prepare, folder, spec)
            console = stack.enter_context(_Console(folder)) if hands_over else None
            command: list[str | Path] = [
                program,
                *runtime.arguments,
                *("--root", monitors.state, "--log", folder / _LOG, "--log-format", "json"),
                *("exec", "--process", folder / _PROCESS, "--pid-file", folder / _PID),
                *(() if console is None else ("--console-socket", console.path)),
                id,
            ]
            changed = stack.enter_context(monitors.watched(folder))
            child = await _spawn(command, stdio)
            pid = await _started(child, folder / _PID, changed)
            if pid and console is not None:
                stdio.take(await _handed_over(child, console), spec)
            if not pid:
                said = await asyncio.to_thread(_read_text, folder / _LOG)
                raise start_error(said, runtime=program.name, args=tuple(spec.args), exec=True)
        return ExecProcess(child, pid, stdio)
    except (RuntimeFailed, FileNotFoundError) as error:
        await stdio.streams.aclose()
        # In a container that is just ending, runtimes fail in a dozen ways, and the bundle may be gone.
        if monitors.is_ending(id):
            raise NoSuchRun(id) from error
        if monitors.is_frozen(id):
            raise Paused(id) from error
        raise
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


async def _handed_over(child: Child, console: "_Console") -> int:
    """Wait for the terminal of a command that was started; the end of a short one may be seen first."""
    receiving = asyncio.ensure_future(console.receive())
    exited: asyncio.Future[Any] = asyncio.ensure_future(child.wait())
    try:
        await asyncio.wait({receiving, exited}, return_when=asyncio.FIRST_COMPLETED, timeout=START_TIMEOUT_S)
        async with asyncio.timeout(_HANDED_OVER_S):  # sent before the end: it only has to be taken
            return await receiving
    except TimeoutError as error:
        raise RuntimeFailed("the runtime did not hand over the terminal of a command that it started") from error
    except OSError as error:
        raise RuntimeFailed(f"the runtime handed over no terminal: {error}") from error
    finally:
        exited.cancel()
        receiving.cancel()


class _Console:
    """Where the runtime hands over the terminal that it makes for a command. runtime-spec, console socket."""

    def __init__(self, folder: Path) -> None:
        # By the number of the folder: the address of a socket has room for 107 bytes, and folders can be deep.
        self._folder = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.setblocking(False)

    def __enter__(self) -> "_Console":
        try:
            self._listener.bind(f"/proc/self/fd/{self._folder}/{_CONSOLE}")
            self._listener.listen(1)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        self._listener.close()
        os.close(self._folder)

    @property
    def path(self) -> str:
        """The socket, as another process finds it."""
        return f"/proc/{os.getpid()}/fd/{self._folder}/{_CONSOLE}"

    async def receive(self) -> int:
        """Wait for the terminal's descriptor, the caller's to close. Raises OSError if something else came."""
        loop = asyncio.get_running_loop()
        connection, _ = await loop.sock_accept(self._listener)
        with connection:
            readable: asyncio.Future[None] = loop.create_future()
            loop.add_reader(connection.fileno(), _set, readable)
            try:
                await readable
            finally:
                loop.remove_reader(connection.fileno())
            _, descriptors, _, _ = socket.recv_fds(connection, 4096, 1, socket.MSG_CMSG_CLOEXEC)
        if not descriptors:
            raise OSError("the connection was closed")
        return descriptors[0]


class _Stdio:
    """The runtime's standard descriptors, and our ends of them."""

    def __init__(self, theirs: tuple[int, int, int], outputs: dict[int, int], input: int | None) -> None:
        self.stdin, self.stdout, self.stderr = theirs
        self.streams = ProcessStreams(outputs, input)

    def close_theirs(self) -> None:
        """Close what the child has by now."""
        for fd in {self.stdin, self.stdout, self.stderr} - {subprocess.DEVNULL}:
            os.close(fd)

    def take(self, terminal: int, spec: ExecSpec) -> None:
        """Let a terminal that was handed over be our end."""
        self.streams = ProcessStreams({terminal: STDOUT}, terminal)
        if spec.console_size is not None:
            termios.tcsetwinsize(terminal, spec.console_size)
        if not spec.attached:
            self.streams.discard()


def _nothing() -> _Stdio:
    return _Stdio((subprocess.DEVNULL,) * 3, {}, None)


def _pipes(spec: ExecSpec) -> _Stdio:
    nothing = subprocess.DEVNULL
    input, stdin = None, nothing
    if spec.stdin and spec.attached:
        stdin, input = os.pipe()
    if not spec.attached:
        return _Stdio((stdin, nothing, nothing), {}, input)
    ours_out, stdout = os.pipe()
    ours_err, stderr = os.pipe()
    if spec.owner is not None:
        for pipe in filter(None, (input, stdout, stderr)):
            os.fchown(pipe, *spec.owner)  # so that it can open /dev/stdout
    for pipe in (ours_out, stdout):
        with contextlib.suppress(OSError):  # the user's pipe pages may be used up: a small one works too
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    return _Stdio((stdin, stdout, stderr), {ours_out: STDOUT, ours_err: STDERR}, input)


def _terminal(spec: ExecSpec) -> _Stdio:
    master, slave = os.openpty()
    # The runtime has a terminal of its own in the container and copies: what comes has its line ends already. It says
    # so itself, too, but maybe only when the first lines have come.
    tty.setraw(slave)
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
    security = security_options([f"no-new-privileges={spec.no_new_privileges}", *(host.security_opt or ())])
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
    # docker exec --privileged lifts no profile: that is the container's.
    confined = profile_for(security.apparmor, privileged=host.privileged)
    if confined:
        section["apparmorProfile"] = confined
    if spec.selinux_label:
        section["selinuxLabel"] = spec.selinux_label
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


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def _read_pid(path: Path) -> int:
    text = _read_text(path).strip()
    return int(text) if text.isdigit() else 0
