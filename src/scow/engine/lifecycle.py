"""The life of a container's run: start, what its exit leads to, stop, kill, restart, pause.

What is made for a run (mounts, network, bundle, monitor) is made in `Resources.acquire` and given back in
`Resources.release`; this module decides when, keeps the record true, and tells those who wait.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from scow import points
from scow.engine.attachment import Attachment
from scow.engine.container import Container, ContainerTable, Outcome
from scow.engine.creation import attributes_of
from scow.engine.events import Events
from scow.engine.record import now_ns
from scow.engine.resources import Resources
from scow.engine.restart import BACKOFF_RESET_S, next_backoff, should_restart
from scow.engine.tasks import Tasks
from scow.errors import Conflict, Internal, ScowError
from scow.linux.signals import parse_signal
from scow.runtime.failures import CommandNotExecutable, CommandNotFound, RuntimeFailed
from scow.runtime.monitor import Exit, NoSuchRun

log = logging.getLogger(__name__)

DEFAULT_STOP_TIMEOUT_S = 10
KILL_TIMEOUT_S = 10
READ_TIMEOUT_S = 2  # for clients to take the last output of a container that was killed


class NotRunning(Conflict):
    """The container has no processes to do this to."""

    def __init__(self, container: Container, what: str = "") -> None:
        super().__init__(what or f"container {container.id} is not running")


class Lifecycle:
    """Starts and ends containers."""

    def __init__(self, table: ContainerTable, resources: Resources, events: Events, tasks: Tasks) -> None:
        self._table = table
        self._resources = resources
        self._events = events
        self._tasks = tasks
        self._closing = False
        self.remove_hook: Callable[[Container], Coroutine[Any, Any, None]] | None = None  # auto-removal; the engine's

    # --- start

    async def start(self, container: Container) -> bool:
        """Start; False if it was running already. Raises Conflict if it is paused or being removed,
        and what the runtime says: CommandNotFound, CommandNotExecutable, RuntimeFailed."""
        async with container.lock:
            state = container.state
            if state.status == "paused":
                raise Conflict("cannot start a paused container, try unpause instead")
            if state.status == "running":
                return False
            if container.removing or state.status in ("dead", "removing"):
                raise Conflict("container is marked for removal and cannot be started")
            self._cancel_restart(container)
            try:
                await self._run(container, restart_count=0, backoff_s=0.0)
                return True
            except (ScowError, OSError) as error:
                failure = error
        # As with dockerd: whoever is told that a container of `--rm` didn't start doesn't find it any more.
        if container.removal is not None:
            await asyncio.wait([container.removal])
        raise failure

    async def _run(self, container: Container, *, restart_count: int, backoff_s: float) -> None:
        """Bring one run up; the caller holds the lock."""
        await self._table.set_state(
            container,
            status="starting",
            error="",
            exit_code=0,
            oom_killed=False,
            stopped_by_user=False,
            restart_count=restart_count,
            backoff_s=backoff_s,
        )
        try:
            await points.at("start.recorded")
            pid = await self._resources.acquire(container, self._connect_attachments)
        except BaseException as error:
            await self._failed(container, error)
            raise
        self._emit_volumes(container, "mount")
        await self._table.set_state(
            container, status="running", pid=pid, started_at=now_ns(), finished_at=0, ever_started=True
        )
        await points.at("start.running")
        self._emit(container, "start")

    async def _connect_attachments(self, container: Container) -> None:
        for attachment in tuple(container.attachments):
            stream = await self._resources.attach(container, stdin=attachment.takes_input)
            attachment.connect(stream, until=container.next_exit)
            container.attachments.discard(attachment)

    async def _failed(self, container: Container, error: BaseException) -> None:
        code = start_exit_code(error)
        text = str(error) or type(error).__name__
        before = "exited" if container.state.ever_started else "created"
        await self._table.set_state(
            container, status=before, pid=0, exit_code=code, error=text, finished_at=container.state.finished_at
        )
        for attachment in tuple(container.attachments):
            attachment.connect(None)
        container.attachments.clear()
        # Without the text: who asked for the start gets it, and a client that waits as well would show it twice.
        container.ended(Outcome(code))
        if container.record.host_config.auto_remove and not container.state.ever_started:
            self._auto_remove(container)

    async def attach(self, container: Container, attachment: Attachment) -> None:
        """Connect to the current run, or keep the attachment for the next one."""
        async with container.lock:  # a start that is under way has passed the point at which it connects them
            if container.state.live:
                stream = await self._resources.attach(container, stdin=attachment.takes_input)
                attachment.connect(stream, until=container.next_exit)
            else:
                container.attachments.add(attachment)

    # --- the end of a run

    def exited(self, ended: Exit) -> None:
        """Called by the monitors when a container's process has ended."""
        container = self._table.find(ended.id)
        if container is not None:
            self._tasks.start(self._exited(container, ended), f"exit of {container.id[:12]}")

    def ran_out_of_memory(self, id: str) -> None:
        """Called when the kernel has killed a process of a container for want of memory."""
        container = self._table.find_id(id)
        if container is not None and container.state.live and not container.told_of_oom:
            container.told_of_oom = True
            self._emit(container, "oom")

    async def _exited(self, container: Container, ended: Exit) -> None:
        async with container.lock:
            if container.state.live:
                await self.settle(
                    container, ended.exit_code, oom_killed=ended.oom_killed, error=ended.error, at=ended.at
                )

    async def settle(
        self,
        container: Container,
        exit_code: int,
        *,
        oom_killed: bool = False,
        error: str = "",
        at: int = 0,
        schedule: bool = True,
    ) -> None:
        """Record that a run ended and do what follows from it; the caller holds the lock.

        With `schedule` false a restart that is due is left to the caller.
        """
        state = container.state
        finished_at = at or now_ns()
        await points.at("exit.seen")
        policy = container.record.host_config.restart_policy
        restarting = not self._closing and should_restart(
            policy, exit_code, state.restart_count, stopped_by_user=state.stopped_by_user
        )
        ran_s = (finished_at - state.started_at) / 1e9
        backoff_s = next_backoff(0.0 if ran_s > BACKOFF_RESET_S else state.backoff_s) if restarting else 0.0
        ended = container.record.with_state(
            status="restarting" if restarting else "exited",
            backoff_s=backoff_s,
            pid=0,
            exit_code=exit_code,
            oom_killed=oom_killed,
            error=error,
            finished_at=finished_at,
        )
        # Written first, since with the run's files goes what tells its exit code; shown when its ports are free again.
        await self._table.try_write(ended)
        await points.at("exit.recorded")
        if oom_killed and not container.told_of_oom:
            self._emit(container, "oom")
        try:
            await self._resources.release(container)
        except (ScowError, OSError):
            # What is left goes with the next start, the removal, or the engine's next start.
            log.exception("container %s has ended, but not all that it used could be given back", container.id)
        await points.at("exit.released")
        self._table.show(container, ended)
        self._emit_volumes(container, "unmount")
        duration_s = max(0, finished_at - state.started_at) // 10**9 if state.started_at else 0
        self._emit(container, "die", exitCode=str(exit_code), execDuration=str(duration_s))
        container.ended(Outcome(exit_code, error))
        if restarting:
            if schedule:
                self.schedule_restart(container)
        elif container.record.host_config.auto_remove:
            self._auto_remove(container)

    def schedule_restart(self, container: Container, after: Collection[asyncio.Task[None]] = ()) -> asyncio.Task[None]:
        """Start the container again when its back-off and `after` are over, as its restart policy says."""
        after_s = max(0.0, container.state.backoff_s - (now_ns() - container.state.finished_at) / 1e9)
        container.restart = self._tasks.start(
            self._restart_later(container, after_s, after), f"restart of {container.id[:12]}"
        )
        return container.restart

    async def _restart_later(self, container: Container, after_s: float, after: Collection[asyncio.Task[None]]) -> None:
        if after:
            await asyncio.wait(after)
        await asyncio.sleep(after_s)
        async with container.lock:
            if container.state.status != "restarting":
                return
            container.restart = None
            try:
                state = container.state
                await self._run(container, restart_count=state.restart_count + 1, backoff_s=state.backoff_s)
            except (ScowError, OSError) as error:
                log.warning("container %s could not be restarted: %s", container.id, error)

    def start_in_background(self, container: Container, after: Collection[asyncio.Task[None]]) -> asyncio.Task[None]:
        """Start a container because its restart policy says so at the engine's start, and `after` these others."""
        return self._tasks.start(self._start_quietly(container, after), f"start of {container.id[:12]}")

    async def _start_quietly(self, container: Container, after: Collection[asyncio.Task[None]]) -> None:
        if after:
            await asyncio.wait(after)
        try:
            await self.start(container)
        except (ScowError, OSError) as error:
            log.warning("container %s could not be started: %s", container.id, error)

    def _cancel_restart(self, container: Container) -> None:
        if container.restart is not None:
            container.restart.cancel()
            container.restart = None

    def _auto_remove(self, container: Container) -> None:
        if self.remove_hook is not None and not self._closing:
            container.removal = self._tasks.start(self.remove_hook(container), f"removal of {container.id[:12]}")

    # --- ending it

    async def stop(self, container: Container, timeout_s: int | None, stop_signal: str | None) -> bool:
        """Ask it to end, and end it after `timeout_s` (-1: never); False if it wasn't running."""
        number = parse_signal(stop_signal or container.record.config.stop_signal or "SIGTERM")
        if timeout_s is None:
            asked = container.record.config.stop_timeout
            timeout_s = DEFAULT_STOP_TIMEOUT_S if asked is None else asked
        async with container.lock:
            if container.state.status == "restarting":
                await self._give_up_restarting(container)
                return True
            if not container.state.live:
                return False
            await self._table.note(container, container.record.with_state(stopped_by_user=True))
            ended = container.next_exit
            await points.at("stop.recorded")
            await self._signal(container, number)
            await points.at("stop.signalled")
        if not await self._wait_exit(ended, timeout_s if timeout_s >= 0 else None):
            async with container.lock:
                if container.state.live and not ended.done():
                    await self._signal(container, signal.SIGKILL)
            if not await self._wait_killed(container, ended):
                raise Internal(
                    f"cannot stop container: {container.id}: tried to kill container, but did not receive an exit event"
                )
        self._emit(container, "stop")
        return True

    async def _give_up_restarting(self, container: Container) -> None:
        self._cancel_restart(container)
        await self._table.set_state(container, status="exited", stopped_by_user=True)
        container.stopped(Outcome(container.state.exit_code, container.state.error))
        self._emit(container, "stop")

    async def _wait_exit(self, ended: asyncio.Future[Outcome], timeout_s: float | None) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(ended)
        return ended.done()

    async def _wait_killed(self, container: Container, ended: asyncio.Future[Outcome]) -> bool:
        if await self._wait_exit(ended, READ_TIMEOUT_S):
            return True
        self._resources.cut(container)
        return await self._wait_exit(ended, KILL_TIMEOUT_S)

    async def kill(self, container: Container, signal_name: str | None) -> None:
        """Send a signal. Raises NotRunning."""
        number = parse_signal(signal_name) if signal_name else int(signal.SIGKILL)
        async with container.lock:
            own_stop = container.record.config.stop_signal
            # dockerd's rule: without a stop signal of its own any signal is meant to end it.
            ends = number == signal.SIGKILL or not own_stop or number == parse_signal(own_stop)
            if container.state.status == "restarting":
                if ends:
                    await self._give_up_restarting(container)
                return
            if not container.state.live:
                raise NotRunning(container)
            if ends:
                await self._table.note(container, container.record.with_state(stopped_by_user=True))
            ended = container.next_exit
            await self._signal(container, number, thaw=ends)
        if number == signal.SIGKILL and not await self._wait_killed(container, ended):
            raise Internal(
                f"cannot kill container: {container.id}: tried to kill container, but did not receive an exit event"
            )

    async def _signal(self, container: Container, number: int, *, thaw: bool = True) -> None:
        await self._resources.kill(container, number)
        container.dying = container.dying or number == signal.SIGKILL
        self._emit(container, "kill", signal=str(number))
        if container.state.status == "paused" and thaw:
            # A frozen process acts on no signal until it is thawed. If it has ended meanwhile, it needs none.
            with contextlib.suppress(NoSuchRun):
                await self._resources.resume(container)
            if not container.dying:
                await self._table.note(container, container.record.with_state(status="running"))
                self._emit(container, "unpause")

    async def restart(self, container: Container, timeout_s: int | None, stop_signal: str | None) -> None:
        """Stop, if it runs, and start again."""
        await self.stop(container, timeout_s, stop_signal)
        await self.start(container)
        self._emit(container, "restart")

    # --- pause

    async def pause(self, container: Container) -> None:
        """Freeze all processes. Raises NotRunning, and Conflict if it is paused already."""
        async with container.lock:
            if container.state.status == "paused":
                raise Conflict(f"container {container.id} is already paused")
            if container.state.status == "restarting":
                raise Conflict(f"container {container.id} is restarting, wait until the container is running")
            if container.state.status != "running" or container.dying:  # one that is frozen now could never die
                raise NotRunning(container)
            await self._resources.pause(container)
            await self._table.set_state(container, status="paused")
            self._emit(container, "pause")

    async def unpause(self, container: Container) -> None:
        """Let a paused container go on. Raises Conflict if it isn't paused."""
        async with container.lock:
            if container.state.status != "paused":
                raise Conflict(f"container {container.id} is not paused")
            await self._resources.resume(container)
            await self._table.set_state(container, status="running")
            self._emit(container, "unpause")

    def close(self) -> None:
        """From now on nothing is restarted or removed by itself: the engine is stopping, its containers are not."""
        self._closing = True
        for container in self._table:
            self._cancel_restart(container)  # the next engine goes on with it

    def _emit_volumes(self, container: Container, action: str) -> None:
        for mount in container.record.mounts:
            if mount.type == "volume":
                attributes = {"container": container.id, "driver": mount.driver or "local"}
                if action == "mount":
                    read_write = "true" if mount.rw else "false"
                    attributes |= {"destination": mount.destination, "propagation": "", "read/write": read_write}
                self._events.emit("volume", action, mount.name, attributes)

    def _emit(self, container: Container, action: str, **more: str) -> None:
        self._events.emit("container", action, container.id, {**attributes_of(container), **more})


def start_exit_code(error: BaseException) -> int:
    """Docker's exit code for a failed start: 127 not found, 126 not executable, else 128."""
    return error.exit_code if isinstance(error, CommandNotFound | CommandNotExecutable | RuntimeFailed) else 128
