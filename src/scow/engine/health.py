"""Health checks: a command run inside the container now and then, and what its exit codes say.

A monitor is a task that sleeps; between two probes there is no process. It follows the container by its events: it
begins with `start` and `unpause`, ends with `pause` and `die`. What it knows is kept in a file beside the container's
log, so that an engine that was restarted takes over where the last one was.
"""

import asyncio
import logging
import secrets
import signal
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from scow import points
from scow.engine.container import Container, ContainerTable
from scow.engine.creation import attributes_of
from scow.engine.events import Events, shown_command
from scow.engine.lifecycle import Lifecycle
from scow.engine.record import now_ns
from scow.engine.resources import Resources
from scow.engine.tasks import Tasks
from scow.errors import ScowError
from scow.linux.process import ProcessIdentity, identify, send_signal
from scow.runtime.exec import ExecProcess
from scow.wire.container import Health, HealthcheckResult
from scow.wire.event import Event
from scow.wire.exec import ExecCreateRequest
from scow.wire.times import format_time

log = logging.getLogger(__name__)

STARTING: Final = "starting"
HEALTHY: Final = "healthy"
UNHEALTHY: Final = "unhealthy"
DEFAULT_INTERVAL_NS: Final = 30 * 10**9
DEFAULT_TIMEOUT_NS: Final = 30 * 10**9
DEFAULT_START_INTERVAL_NS: Final = 5 * 10**9
DEFAULT_RETRIES: Final = 3
LOG_ENTRIES: Final = 5
OUTPUT_LIMIT: Final = 4096  # bytes
DEFAULT_SHELL: Final = ("/bin/sh", "-c")
FILE: Final = "health.json"
ON_FAILURE: Final = "scow.health.on-failure"
"""Label: what is done with a container that became unhealthy: restart, kill or stop."""


def probe_command(container: Container) -> list[str] | None:
    """What is to be run inside; None if there is no health check."""
    config = container.record.config
    test: Sequence[str] = (config.healthcheck.test if config.healthcheck else None) or ()
    if len(test) < 2 or test[0] == "NONE":
        return None
    if test[0] == "CMD-SHELL":
        return [*(config.shell or DEFAULT_SHELL), test[1]]
    return list(test[1:]) if test[0] == "CMD" else None


def judge(health: Health, result: HealthcheckResult, *, retries: int, in_start_period: bool) -> Health:
    """What is known of a container after one more probe. Failures while it starts don't count. Pure."""
    entries = [*health.log, result][-LOG_ENTRIES:]
    if result.exit_code == 0:
        return Health(status=HEALTHY, failing_streak=0, log=entries)
    if health.status == STARTING and in_start_period:
        return Health(status=STARTING, failing_streak=health.failing_streak, log=entries)
    streak = health.failing_streak + 1
    return Health(status=UNHEALTHY if streak >= retries else health.status, failing_streak=streak, log=entries)


class HealthChecks:
    """The monitors of all running containers that have a health check."""

    def __init__(
        self, table: ContainerTable, resources: Resources, events: Events, lifecycle: Lifecycle, tasks: Tasks
    ) -> None:
        self._lifecycle = lifecycle
        self._tasks = tasks
        self._table = table
        self._resources = resources
        self._events = events
        self._monitors: dict[str, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        events.observers.append(self._observe)

    def adopt(self) -> None:
        """Take over the running containers of an earlier engine process, and what it knew of their health."""
        for container in self._table:
            if probe_command(container) is None:
                continue
            if container.health is None:
                container.health = _read(container.folder / FILE)
            if container.state.status == "running" and container.id not in self._monitors:
                if container.health is None:
                    container.health = Health(status=STARTING)
                self._begin(container)
            elif not container.state.live and container.health is not None:
                container.health = msgspec.structs.replace(container.health, status=UNHEALTHY)

    async def aclose(self) -> None:
        """End the monitors and the probes that run; the containers don't notice."""
        self._events.observers.remove(self._observe)
        for id in list(self._monitors):
            self._end(id)
        if self._ending:
            await asyncio.gather(*self._ending, return_exceptions=True)

    def _observe(self, event: Event) -> None:
        if event.type != "container" or event.action not in ("start", "unpause", "pause", "die", "destroy"):
            return
        container = self._table.find(event.actor.id)
        self._end(event.actor.id)
        if container is None or probe_command(container) is None:
            return
        if event.action in ("start", "unpause"):
            if event.action == "start" or container.health is None:
                known = container.health.log if container.health else []
                container.health = Health(status=STARTING, log=known)
            self._begin(container)
        elif event.action == "die" and container.health is not None:
            # As docker has it: what isn't watched isn't healthy.
            container.health = msgspec.structs.replace(container.health, status=UNHEALTHY)

    def _begin(self, container: Container) -> None:
        task = asyncio.get_running_loop().create_task(self._watch(container), name=f"health of {container.id[:12]}")
        self._monitors[container.id] = task

    def _end(self, id: str) -> None:
        task = self._monitors.pop(id, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _watch(self, container: Container) -> None:
        check = container.record.config.healthcheck
        assert check is not None
        while True:
            health = container.health or Health(status=STARTING)
            in_start_period = now_ns() - container.state.started_at < check.start_period
            interval = check.interval or DEFAULT_INTERVAL_NS
            if in_start_period and health.status == STARTING:
                interval = check.start_interval or DEFAULT_START_INTERVAL_NS
            await asyncio.sleep(interval / 1e9)
            try:
                await self._probe(container)
            except Exception:
                log.exception("health check of container %s failed", container.id)

    async def _probe(self, container: Container) -> None:
        check, command = container.record.config.healthcheck, probe_command(container)
        assert check is not None
        assert command is not None
        began = now_ns()
        code, output = await self._run(container, command, (check.timeout or DEFAULT_TIMEOUT_NS) / 1e9)
        if not container.state.live:
            return  # its end took the probe with it: that says nothing
        result = HealthcheckResult(
            start=format_time(began), end=format_time(now_ns()), exit_code=code, output=output.decode(errors="replace")
        )
        before = container.health or Health(status=STARTING)
        health = judge(
            before,
            result,
            retries=check.retries or DEFAULT_RETRIES,
            in_start_period=began - container.state.started_at < check.start_period,
        )
        if health.status == before.status:
            container.health = health
            return
        # Written before it is shown: what a client has seen is so after a kill, too.
        await asyncio.to_thread(_write, container.folder / FILE, health)
        await points.at("health.written")
        container.health = health
        self._emit(container, f"health_status: {health.status}")
        if health.status == UNHEALTHY:
            self._react(container)

    def _react(self, container: Container) -> None:
        wish = (container.record.config.labels or {}).get(ON_FAILURE, "")
        work: Coroutine[Any, Any, object]
        if wish == "restart":
            work = self._lifecycle.restart(container, None, None)
        elif wish == "kill":
            work = self._lifecycle.kill(container, "SIGKILL")
        elif wish == "stop":
            work = self._lifecycle.stop(container, None, None)
        else:
            return
        # A task of its own: it ends the monitor that asks for it.
        self._tasks.start(work, f"{wish} of unhealthy {container.id[:12]}")

    async def _run(self, container: Container, command: list[str], timeout_s: float) -> tuple[int, bytes]:
        """Run the probe: its exit code, and the beginning of its output."""
        exec_id = secrets.token_hex(32)
        shown = shown_command(command)
        request = ExecCreateRequest(cmd=command, attach_stdout=True, attach_stderr=True)
        self._emit(container, f"exec_create: {shown}", execID=exec_id)
        self._emit(container, f"exec_start: {shown}", execID=exec_id)
        output = bytearray()
        process: ExecProcess | None = None
        command_process: ProcessIdentity | None = None
        code = -1
        try:
            async with asyncio.timeout(timeout_s):
                process = await self._resources.exec(container, request, attached=True, console_size=None)
                command_process = identify(process.pid)
                while chunks := await process.read():
                    for _, data in chunks:
                        output += data[: max(0, OUTPUT_LIMIT + 1 - len(output))]
                code = await process.wait()
        except TimeoutError:
            said = b": " + output if output else b""
            output[:] = f"Health check exceeded timeout ({_duration(timeout_s)})".encode() + said
        except ScowError as error:
            output[:] = str(error).encode()
        finally:
            if process is not None:
                if code < 0 and command_process is not None:
                    send_signal(command_process, signal.SIGKILL)
                await process.aclose()
        self._emit(container, "exec_die", execID=exec_id, exitCode=str(code))
        if len(output) > OUTPUT_LIMIT:
            output[OUTPUT_LIMIT:] = b"..."
        return code, bytes(output)

    def _emit(self, container: Container, action: str, **more: str) -> None:
        self._events.emit("container", action, container.id, {**attributes_of(container), **more})


def _duration(seconds: float) -> str:
    """A duration as Go prints it, for those that people write."""
    if seconds < 1:
        return f"{seconds * 1000:g}ms"
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}m{rest:g}s" if minutes else f"{rest:g}s"


def _read(path: Path) -> Health | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Health)
    except (OSError, msgspec.DecodeError):
        return None


def _write(path: Path, health: Health) -> None:
    temporary = path.with_suffix(".new")
    try:
        temporary.write_bytes(msgspec.json.encode(health))
        temporary.rename(path)
    except FileNotFoundError:
        pass  # the container is being removed
