"""Running containers: conmon watches each, and outlives this process.

A run's life: `create` writes the bundle, starts conmon, which has the runtime create the container, and returns the
pid of its first process, which waits; `attach` as often as wanted; `start` lets the process go; when it ends, conmon
writes an exit file, which comes out of `on_exit` once; `delete` removes what is left. After a restart of the engine
`probe` tells for each container what became of it.

Below the exec root: containers/ID is the bundle (config.json, conmon's pid file, attach socket, control pipe and
`oom` file, and our record), exits/ID the exit file, oci the runtimes' own state. It belongs on a tmpfs: nothing of it
is worth anything after the machine has restarted.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from scow import points
from scow.errors import Conflict, Internal
from scow.linux import cgroup
from scow.linux.inotify import IN_CLOSE_WRITE, IN_MOVED_TO, IN_ONLYDIR, IN_Q_OVERFLOW, Change, Inotify
from scow.linux.mount import MS_NODEV, MS_NOEXEC, MS_NOSUID, ensure_unmounted, mount
from scow.linux.process import ProcessIdentity, identify, is_alive, is_ending, send_signal
from scow.linux.unix_diag import waiting_connections
from scow.runtime import conmon, controllers, record
from scow.runtime.attach import AttachStream, connect
from scow.runtime.failures import RuntimeFailed
from scow.runtime.filters import Filters
from scow.runtime.oci_runtime import OciRuntime
from scow.runtime.record import MonitorRecord
from scow.runtime.room import has_room, needing_room

log = logging.getLogger(__name__)

T = TypeVar("T")

LOST_EXIT_CODE: Final = 137
_GROUP_TIMEOUT_S: Final = 10.0
_GROUP_POLL_S: Final = 0.002  # the kernel has no event for "this v1 group is empty" (or frozen)
_ACCEPT_TIMEOUT_S: Final = 10.0
_ACCEPT_POLL_S: Final = 0.0002  # nor for "this connection was accepted"
_THAW_EVERY: Final = 10


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """A run has ended. `at` is in nanoseconds since the epoch; a signal's number counts from 128."""

    id: str
    exit_code: int
    oom_killed: bool
    at: int
    error: str = ""  # why, if it was not the container's own doing


class Alive(msgspec.Struct, frozen=True):
    """The container runs; its exit will come out of `on_exit`."""

    pid: int


class Exited(msgspec.Struct, frozen=True):
    """The container ended while nobody looked."""

    exit: Exit


class Lost(msgspec.Struct, frozen=True):
    """Nothing runs and nobody knows how it ended: the machine was restarted, or the monitor killed."""


class NoSuchRun(Conflict):
    """There is no monitor for this container."""

    def __init__(self, id: str) -> None:
        super().__init__(f"container {id} is not running")
        self.id = id


class Paused(Conflict):
    """The container's processes are frozen, so that no other can be started among them. The words are docker's."""

    def __init__(self, id: str) -> None:
        super().__init__(f"Container {id} is paused, unpause the container before exec")
        self.id = id


class Run:
    """A run that this process knows of."""

    def __init__(self, record: MonitorRecord) -> None:
        self.record = record
        self.exited = False
        self.monitor_fd = -1
        self.attached = False  # whether anybody was yet
        self.connections: set[socket.socket] = set()  # of those who are attached
        self.parked: list[socket.socket] = []  # attachments that ended, kept so that standard input stays open

    @property
    def container(self) -> ProcessIdentity:
        """The container's first process."""
        if self.record.container is None:
            raise Internal("the container has no process yet")
        return self.record.container


class _SpecView(msgspec.Struct, rename="camel"):
    class Linux(msgspec.Struct, rename="camel"):
        cgroups_path: str = ""

    class Process(msgspec.Struct):
        args: list[str] = []

    linux: Linux
    process: Process


class Monitors:
    """All monitors of one engine. `open` before use, `aclose` at the end; containers run on."""

    def __init__(self, exec_root: Path, runtime: OciRuntime, on_exit: Callable[[Exit], None]) -> None:
        self.root = exec_root
        self._bundles = exec_root / "containers"
        self._exits = exec_root / "exits"
        self._state = exec_root / "oci"
        self._runtime = runtime
        self._on_exit = on_exit
        self._filters = Filters()
        self._runs: dict[str, Run] = {}
        self._inotify: Inotify | None = None
        self._exits_watch = -1
        self._watched: dict[int, asyncio.Event] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def open(self) -> None:
        """Make the folders and listen for exits. From here on every exit of a known run is reported."""
        for folder in (self._bundles, self._exits, self._state):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._inotify = Inotify(self._on_changes)
        self._exits_watch = self._inotify.add(self._exits, IN_MOVED_TO | IN_ONLYDIR)

    async def aclose(self) -> None:
        """Stop listening and finish what was begun. The containers don't notice."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for run in self._runs.values():
            self._forget_monitor(run)
            _close_all(run.parked)
        self._runs.clear()
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None

    def bundle(self, id: str) -> Path:
        """The folder of a container's run; it exists from `create` to `delete`."""
        return self._bundles / id

    def shared_memory(self, id: str) -> Path:
        """Where the /dev/shm of a container lies that shares it with others (`BundleContext.shared_memory`)."""
        return self._bundles / id / "shm"

    def pid(self, id: str) -> int:
        """The pid of a run's first process. Raises NoSuchRun."""
        return self._get(id).container.pid

    def is_ending(self, id: str) -> bool:
        """Whether a run's first process has ended or is about to, seen before its exit is reported."""
        run = self._runs.get(id)
        return run is None or run.exited or is_ending(run.container)

    def is_frozen(self, id: str) -> bool:
        """Whether a run's processes are paused, or are just being paused. Raises NoSuchRun."""
        try:
            return cgroup.is_frozen(self._get(id).record.cgroups_path)
        except OSError:  # its group has gone
            return False

    async def create(
        self,
        id: str,
        spec: bytes,
        *,
        terminal: bool,
        open_stdin: bool,
        stdin_once: bool = False,
        log_path: Path | None = None,
        log_max_size: int | None = None,
        shm_size: int | None = None,
        owner: tuple[int, int] = (0, 0),
        runtime: OciRuntime | None = None,
    ) -> int:
        """Create the container from config.json's bytes and return the pid of its process, which waits for `start`.

        `log_path` None keeps no log; the log begins anew when it would become larger than `log_max_size` bytes.
        With `shm_size` a tmpfs of so many bytes lies at `shared_memory(id)`, for the spec to name; it belongs to
        `owner`, the user and group that are the container's root.
        Raises CommandNotFound, CommandNotExecutable or RuntimeFailed; then nothing is left behind.
        """
        chosen = runtime or self._runtime
        view = msgspec.json.decode(spec, type=_SpecView)
        plan = conmon.Plan(
            id=id,
            bundle=self.bundle(id),
            exits=self._exits,
            state=self._state,
            runtime=chosen,
            terminal=terminal,
            open_stdin=open_stdin,
            keep_stdin=terminal or not stdin_once,
            log_path=log_path,
            log_max_size=log_max_size,
            shm_size=shm_size,
            owner=owner,
            args=tuple(view.process.args),
        )
        begun = MonitorRecord(
            runtime=str(chosen.path),
            runtime_arguments=chosen.arguments,
            cgroups_path=view.linux.cgroups_path,
            terminal=terminal,
            keep_stdin=plan.keep_stdin,
        )
        # A client that hangs up must not leave a half-made container: the creation is finished, then undone.
        making = self._spawn(self._create(plan, begun, spec))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            self._spawn(self._undo(making, id))
            raise

    async def _create(self, plan: conmon.Plan, begun: MonitorRecord, spec: bytes) -> int:
        run = Run(begun)
        try:
            try:
                pids = await self._begin(plan, begun, spec)
            except RuntimeFailed:
                # Another engine may have stopped and given controllers back to version 2.
                if not await asyncio.to_thread(controllers.settle):
                    raise
                pids = await self._begin(plan, begun, spec)
            await points.at("monitor.greeted")
            monitor, container = identify(pids.monitor), identify(pids.container)
            if monitor is None or container is None:
                raise Internal(f"container {plan.id} ended before it was started")
            run.record = msgspec.structs.replace(begun, monitor=monitor, container=container)
            with needing_room(self.root):
                record.write(plan.bundle, run.record)
        except BaseException:
            self._runs[plan.id] = run
            await self.delete(plan.id)
            raise
        self._runs[plan.id] = run
        self._watch_monitor(plan.id, run)
        return pids.container

    async def _begin(self, plan: conmon.Plan, begun: MonitorRecord, spec: bytes) -> conmon.Pids:
        spec, unknown = self._filters.annotate(spec, plan.runtime)
        with needing_room(self.root):
            launched = await asyncio.to_thread(_launch, plan, begun, spec)
            await points.at("monitor.launched")
            pids = await conmon.handshake(plan, launched)
        if unknown is not None:
            await asyncio.to_thread(self._filters.learn, unknown, plan.runtime, self._state / plan.id)
        return pids

    async def _undo(self, making: "asyncio.Task[int]", id: str) -> None:
        with contextlib.suppress(Exception):
            await making
            await self.delete(id)

    async def start(self, id: str) -> None:
        """Let the created process go, when all who are attached will get its output. Raises RuntimeFailed."""
        if self._get(id).attached:
            await self._accepted(id)
        await self.runtime_of(id).start(self._state, id)

    async def kill(self, id: str, number: int, *, all: bool = False) -> None:
        """Signal the first process, or `all` of the container's; nothing happens to a run that has ended."""
        run = self._get(id)
        if all:
            for pid in await asyncio.to_thread(cgroup.processes, run.record.cgroups_path):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        else:
            send_signal(run.container, number)

    async def pause(self, id: str) -> None:
        """Freeze all processes; returns when they are frozen. Raises Internal if the machine can't."""
        await self._freeze(id, True)

    async def resume(self, id: str) -> None:
        """Let frozen processes go on."""
        await self._freeze(id, False)

    async def _freeze(self, id: str, frozen: bool) -> None:
        path = self._get(id).record.cgroups_path
        attempt = 0
        try:
            async with asyncio.timeout(_GROUP_TIMEOUT_S):
                cgroup.set_frozen(path, frozen)
                while cgroup.is_frozen(path) is not frozen:
                    await asyncio.sleep(_GROUP_POLL_S)
                    attempt += 1
                    if frozen and attempt % _THAW_EVERY == 0:
                        # v1 can stay FREEZING for ever over a process that was just being born; a thaw frees it.
                        cgroup.set_frozen(path, False)
                    cgroup.set_frozen(path, frozen)
        except (OSError, TimeoutError) as error:
            with contextlib.suppress(OSError):
                cgroup.set_frozen(path, False)
            reason = str(error) or f"it took more than {_GROUP_TIMEOUT_S:g} s"
            raise Internal(f"cannot {'pause' if frozen else 'unpause'} container {id}: {reason}") from error

    async def update(self, id: str, resources: Mapping[str, object]) -> None:
        """Change limits while the container runs: linux.resources of the runtime-spec. Raises RuntimeFailed."""
        file = self.bundle(id) / "resources.json"
        with needing_room(self.root):
            await asyncio.to_thread(file.write_bytes, msgspec.json.encode(resources))
        await self.runtime_of(id).call(self._state, "update", "--resources", str(file), id)

    async def resize(self, id: str, height: int, width: int) -> None:
        """Tell the terminal its size in characters. Raises NoSuchRun."""
        if self._get(id).record.terminal:
            self._control(id, f"1 {height} {width}\n")

    async def reopen_log(self, id: str) -> None:
        """Have conmon open the log's path anew, after the file was renamed. Raises NoSuchRun."""
        self._control(id, "2 0 0\n")

    def _control(self, id: str, line: str) -> None:
        try:
            fd = os.open(self.bundle(id) / "ctl", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:  # ENXIO: conmon is gone
            raise NoSuchRun(id) from error
        try:
            os.write(fd, line.encode())
        finally:
            os.close(fd)

    async def attach(self, id: str, *, stdin: bool = True) -> AttachStream:
        """Attach to a run. Without `stdin`, letting go of it leaves the container's input alone. Raises NoSuchRun."""
        run = self._get(id)
        try:
            try:
                connection = connect(self.bundle(id))
            except BlockingIOError:  # as many wait as may
                await self._accepted(id)
                connection = connect(self.bundle(id))
        except OSError as error:
            raise NoSuchRun(id) from error
        run.attached = True
        run.connections.add(connection)

        def close(connection: socket.socket) -> None:
            run.connections.discard(connection)
            if stdin or run.record.keep_stdin or run.exited:
                connection.close()
                return
            # conmon would end the container's input with any connection that ends. With only our receiving half shut
            # it stops sending and keeps the rest.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
            run.parked.append(connection)

        return AttachStream(connection, close)

    def cut(self, id: str) -> None:
        """End the output of all who are attached, after what they have got already.

        conmon waits for each of them. One that reads no more keeps it from everything else: the container can be dead
        and its exit unseen.
        """
        run = self._runs.get(id)
        for connection in run.connections if run is not None else ():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)

    async def _accepted(self, id: str) -> None:
        """Wait until conmon has accepted all attachments that were made so far.

        It reads output while some wait: it accepts but one at a time, and if the container has ended by the time of its
        first look at its children, none at all.
        """
        listener = self.bundle(id) / "attach"
        delay_s = _ACCEPT_POLL_S
        # Without the facility in the kernel, or with a conmon that hangs, nothing better than to go on can be done.
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_ACCEPT_TIMEOUT_S):
                while waiting_connections(listener):
                    await asyncio.sleep(delay_s)
                    delay_s = min(2 * delay_s, _GROUP_POLL_S)

    async def delete(self, id: str, *, force: bool = True, group: str = "") -> None:
        """Remove what is left of a run: processes (if `force`), groups, the runtime's state, the bundle. Idempotent.

        `group` is the control group that the run would have, for a bundle that somebody has removed.
        Raises Internal if the container runs and `force` is not given, or processes can't be ended.
        """
        run = self._runs.get(id)
        known = run.record if run is not None else await asyncio.to_thread(record.read, self.bundle(id))
        left = await asyncio.to_thread(cgroup.processes, group) if known is None and group else []
        if left:
            known = MonitorRecord(runtime="", cgroups_path=group)
        if known is not None:
            if not force and known.container is not None and is_alive(known.container):
                raise Internal(f"container {id} is running")
            if run is not None:
                run.exited = True  # its end is our doing and no news
            elif known.container is None:
                # An earlier engine process was killed while conmon and the runtime were at work, and maybe still are.
                await asyncio.to_thread(_end_makers, self.bundle(id))
            await self._end_processes(id, known)
        if run is not None:
            self._forget_monitor(run)
            _close_all(run.parked)
        if known is not None and known.monitor is not None:
            await conmon.end(known.monitor)
        if run is not None and self._runs.get(id) is run:
            del self._runs[id]
        await asyncio.to_thread(self._remove_files, id)

    async def _end_processes(self, id: str, known: MonitorRecord) -> None:
        if known.container is not None:
            send_signal(known.container, signal.SIGKILL)
        try:
            async with asyncio.timeout(_GROUP_TIMEOUT_S):
                while not cgroup.remove(known.cgroups_path):
                    for pid in cgroup.processes(known.cgroups_path):
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                    with contextlib.suppress(OSError):
                        cgroup.set_frozen(known.cgroups_path, False)  # a frozen process doesn't die
                    await asyncio.sleep(_GROUP_POLL_S)
        except TimeoutError as error:
            raise Internal(f"container {id}: processes could not be ended") from error

    def _remove_files(self, id: str) -> None:
        shutil.rmtree(self._state / id, ignore_errors=True)
        ensure_unmounted(self.shared_memory(id))
        shutil.rmtree(self.bundle(id), ignore_errors=True)
        (self._exits / id).unlink(missing_ok=True)

    async def probe(self, id: str) -> Alive | Exited | Lost:
        """Find out what became of a run that an earlier engine process began, and watch it if it is alive."""
        known = await asyncio.to_thread(record.read, self.bundle(id))
        if known is None or known.container is None or known.monitor is None:
            return Lost()
        # In this order: an exit that comes after the look at the file finds the run known, and is reported.
        run = Run(known)
        self._runs[id] = run
        found = self._read_exit(id, known)
        if found is not None:
            run.exited = True
            return Exited(found)
        if is_alive(known.monitor):
            self._watch_monitor(id, run)
            return Alive(known.container.pid)
        found = self._read_exit(id, known)
        run.exited = True
        if found is not None:
            return Exited(found)
        send_signal(known.container, signal.SIGKILL)  # nobody holds its pipes or will learn how it ends
        return Lost()

    def known_ids(self) -> set[str]:
        """IDs of all bundles on disk, for an engine that looks for what nobody remembers."""
        return {entry.name for entry in self._bundles.iterdir()} if self._bundles.exists() else set()

    def _get(self, id: str) -> Run:
        run = self._runs.get(id)
        if run is None or run.exited:
            raise NoSuchRun(id)
        return run

    def runtime_of(self, id: str) -> OciRuntime:
        """The runtime that has made this run, and does everything else with it. Raises NoSuchRun."""
        known = self._get(id).record
        path = Path(known.runtime)
        return OciRuntime(name=path.name, path=path, arguments=known.runtime_arguments)

    @property
    def state(self) -> Path:
        """The folder that runtimes are told to keep their state in: their `--root`."""
        return self._state

    def cgroups_path(self, id: str) -> str:
        """The run's group, as in its spec. Raises NoSuchRun."""
        return self._get(id).record.cgroups_path

    @contextlib.contextmanager
    def watched(self, folder: Path) -> Iterator[asyncio.Event]:
        """Give an event that is set when a file in a folder was written or moved in. Raises OSError.

        All share one inotify: the end of one takes the kernel 10 to 20 ms, in which its caller waits.
        """
        assert self._inotify is not None, "not open"
        watch = self._inotify.add(folder, IN_CLOSE_WRITE | IN_MOVED_TO | IN_ONLYDIR)
        event = self._watched[watch] = asyncio.Event()
        try:
            yield event
        finally:
            del self._watched[watch]
            if self._inotify is not None:
                self._inotify.remove(watch)

    def _on_changes(self, changes: list[Change]) -> None:
        lost = any(change.mask & IN_Q_OVERFLOW for change in changes)
        for watch in list(self._watched) if lost else {change.watch for change in changes}:
            if watch in self._watched:
                self._watched[watch].set()
        ids = list(self._runs) if lost else [each.name for each in changes if each.watch == self._exits_watch]
        for id in ids:
            self._check_exit(id)

    def _check_exit(self, id: str) -> None:
        run = self._runs.get(id)
        if run is None or run.exited:
            return
        found = self._read_exit(id, run.record)
        if found is not None:
            self._report(run, found)

    def _report(self, run: Run, found: Exit) -> None:
        run.exited = True
        self._forget_monitor(run)
        _close_all(run.parked)
        self._on_exit(found)

    def _read_exit(self, id: str, known: MonitorRecord) -> Exit | None:
        path = self._exits / id
        try:
            text = path.read_text()
            at = path.stat().st_mtime_ns
        except FileNotFoundError:
            return None
        # conmon's file comes from an event that it may not get to see when the end is near; the count stays true.
        oom_killed = cgroup.oom_kills(known.cgroups_path) > 0 or (self.bundle(id) / "oom").exists()
        return Exit(id=id, exit_code=int(text or "255"), oom_killed=oom_killed, at=at)

    def _watch_monitor(self, id: str, run: Run) -> None:
        """Notice a monitor that ends without an exit file: somebody killed it."""
        monitor = run.record.monitor
        try:
            run.monitor_fd = os.pidfd_open(monitor.pid) if monitor is not None else -1
        except ProcessLookupError:
            asyncio.get_running_loop().call_soon(self._monitor_ended, id, run)
            return
        if run.monitor_fd >= 0:
            asyncio.get_running_loop().add_reader(run.monitor_fd, self._monitor_ended, id, run)

    def _monitor_ended(self, id: str, run: Run) -> None:
        self._forget_monitor(run)
        if run.exited or self._runs.get(id) is not run:
            return
        self._check_exit(id)
        if not run.exited:
            log.error("the monitor of container %s ended before the container; ending it", id)
            send_signal(run.container, signal.SIGKILL)
            reason = "the container's monitor (conmon) was killed, and the container had to be ended"
            if not has_room(self._exits):
                reason = f"the exit code is lost: {self._exits}: no space left on device"
            self._report(run, Exit(id=id, exit_code=LOST_EXIT_CODE, oom_killed=False, at=time.time_ns(), error=reason))

    def _forget_monitor(self, run: Run) -> None:
        if run.monitor_fd >= 0:
            asyncio.get_running_loop().remove_reader(run.monitor_fd)
            os.close(run.monitor_fd)
            run.monitor_fd = -1

    def _spawn(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _launch(plan: conmon.Plan, begun: MonitorRecord, spec: bytes) -> conmon.Launched:
    ensure_unmounted(plan.bundle / "shm")
    shutil.rmtree(plan.bundle, ignore_errors=True)  # of an earlier run
    (plan.exits / plan.id).unlink(missing_ok=True)
    plan.bundle.mkdir(mode=0o700)
    (plan.bundle / "config.json").write_bytes(spec)
    record.write(plan.bundle, begun)
    if plan.shm_size is not None:
        shm = plan.bundle / "shm"
        shm.mkdir()
        mount(
            "shm",
            shm,
            "tmpfs",
            MS_NOSUID | MS_NODEV | MS_NOEXEC,
            f"mode=1777,size={plan.shm_size},uid={plan.owner[0]},gid={plan.owner[1]}",
        )
    return conmon.launch(plan)


def _end_makers(bundle: Path) -> None:
    """Kill the processes that are making a container from a bundle: their command lines name it."""
    named = os.fsencode(bundle)
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        found = identify(int(entry))
        with contextlib.suppress(OSError):
            if found is not None and named in Path(f"/proc/{entry}/cmdline").read_bytes():
                send_signal(found, signal.SIGKILL)


def _close_all(connections: list[socket.socket]) -> None:
    for connection in connections:
        connection.close()
    connections.clear()
