"""Commands inside running containers. Engine API, /containers/{id}/exec and /exec."""

import asyncio
import base64
import secrets
from dataclasses import dataclass, field

from scow.engine.attachment import Attachment, parse_detach_keys
from scow.engine.container import Container, ContainerTable
from scow.engine.creation import attributes_of
from scow.engine.events import Events, shown_command
from scow.engine.lifecycle import NotRunning
from scow.engine.resources import Resources
from scow.engine.streams import Duplex
from scow.engine.tasks import Tasks
from scow.errors import Conflict, InvalidArgument, NotFound, ScowError
from scow.runtime.exec import ExecProcess
from scow.runtime.monitor import Paused
from scow.wire.exec import ExecCreateRequest, ExecInspect, ExecStartRequest, ProcessConfig

KEPT = 256
"""How many ended execs can still be inspected."""


class NoSuchExec(NotFound):
    """No exec has the ID."""

    def __init__(self, id: str) -> None:
        super().__init__(f"No such exec instance: {id}")
        self.id = id


@dataclass
class Exec:
    """One exec: `exit_code` is None until it has ended."""

    id: str
    container: Container
    request: ExecCreateRequest
    detach_keys: bytes
    exit_code: int | None = None
    process: ExecProcess | None = None
    started: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self.process is not None and self.exit_code is None


class Execs:
    """All execs that run, and the latest that have ended."""

    def __init__(self, table: ContainerTable, resources: Resources, events: Events, tasks: Tasks) -> None:
        self._table = table
        self._resources = resources
        self._events = events
        self._tasks = tasks
        self._execs: dict[str, Exec] = {}

    async def create(self, ref: str, request: ExecCreateRequest) -> str:
        """POST /containers/{id}/exec. Raises NotRunning, Conflict for a paused container."""
        container = self._table.get(ref)
        _check_running(container, ref)
        if not request.cmd:
            raise InvalidArgument("No exec command specified")
        self._resources.expect_processes()
        self._forget_old()
        one = Exec(
            id=secrets.token_hex(32),
            container=container,
            request=request,
            detach_keys=parse_detach_keys(request.detach_keys, "escape"),
        )
        self._execs[one.id] = one
        self._emit(one, f"exec_create: {shown_command(request.cmd)}")
        return one.id

    async def start(self, id: str, request: ExecStartRequest) -> "ExecAttachment | None":
        """POST /exec/{id}/start: None if detached, else what connects the client.

        The process starts when the client's stream runs, so that nothing of its output comes before the 101. Raises
        Conflict if it was started before or its container doesn't run.
        """
        one = self._get(id)
        if one.started:
            raise Conflict(f"exec {id} has already been started" if one.exit_code is None else f"exec {id} has exited")
        _check_running(one.container, one.container.id)
        one.started = True
        if request.detach:
            await self._run(one, attached=False, console_size=request.console_size)
            return None
        return ExecAttachment(self, one, request)

    async def _run(self, one: Exec, *, attached: bool, console_size: list[int] | None) -> ExecProcess:
        request = one.request
        self._emit(one, f"exec_start: {shown_command(request.cmd or ())}")
        try:
            process = await self._resources.exec(
                one.container, request, attached=attached, console_size=console_size or request.console_size
            )
        except ScowError as error:
            one.exit_code = getattr(error, "exit_code", 126)
            one.ended.set()
            raise
        one.process = process
        one.container.execs[one.id] = process.pid
        self._tasks.start(self._watch(one, process), f"exec {one.id[:12]}")
        return process

    async def _watch(self, one: Exec, process: ExecProcess) -> None:
        try:
            one.exit_code = await process.wait()
        finally:
            one.container.execs.pop(one.id, None)
            one.ended.set()
        self._emit(one, "exec_die", exitCode=str(one.exit_code))

    async def inspect(self, id: str) -> ExecInspect:
        """GET /exec/{id}/json."""
        one = self._get(id)
        request = one.request
        command = request.cmd or []
        return ExecInspect(
            id=one.id,
            running=one.running,
            exit_code=one.exit_code,
            process_config=ProcessConfig(
                tty=request.tty,
                entrypoint=command[0] if command else "",
                arguments=command[1:],
                privileged=request.privileged,
                user=request.user,
            ),
            open_stdin=request.attach_stdin,
            open_stderr=request.attach_stderr,
            open_stdout=request.attach_stdout,
            can_remove=one.exit_code is not None,
            container_id=one.container.id,
            detach_keys=base64.b64encode(one.detach_keys).decode() if one.request.detach_keys else "",
            pid=one.process.pid if one.process is not None and one.running else 0,
        )

    async def resize(self, id: str, height: int, width: int) -> None:
        """POST /exec/{id}/resize."""
        one = self._get(id)
        if one.process is None or not one.running:
            # The client resizes as soon as it has its stream, maybe before the process is there: it asks again.
            raise Conflict(f"exec {id} is not running")
        await one.process.resize(height, width)

    def _get(self, id: str) -> Exec:
        one = self._execs.get(id)
        if one is None:
            raise NoSuchExec(id)
        return one

    def forget(self, container: Container) -> None:
        """Drop the execs of a container that is removed."""
        for id in [id for id, one in self._execs.items() if one.container is container]:
            del self._execs[id]

    def _forget_old(self) -> None:
        ended = [id for id, one in self._execs.items() if one.exit_code is not None]
        for id in ended[: max(0, len(ended) - KEPT)]:
            del self._execs[id]

    def _emit(self, one: Exec, action: str, **more: str) -> None:
        container = one.container
        self._events.emit("container", action, container.id, {**attributes_of(container), "execID": one.id, **more})


class ExecAttachment:
    """The client of an exec that is not detached: its process starts with the stream."""

    def __init__(self, execs: Execs, one: Exec, start: ExecStartRequest) -> None:
        self._execs = execs
        self._one = one
        self._start = start

    @property
    def tty(self) -> bool:
        """Whether the client wants output without frames: as with docker the start says so, not the creation."""
        return self._start.tty

    async def run(self, client: Duplex) -> None:
        """Start the process and pump until it ends."""
        request = self._one.request
        attachment = Attachment(
            tty=request.tty,
            stdin=request.attach_stdin,
            stdout=request.attach_stdout,
            stderr=request.attach_stderr,
            close_stdin=True,
            detach_keys=self._one.detach_keys,
        )
        # A failure is raised: the API writes it into the stream, which has begun, and the client takes the exit code
        # from inspect.
        process = await self._execs._run(self._one, attached=True, console_size=self._start.console_size)
        attachment.connect(process)
        await attachment.run(client)
        if attachment.output_ended:
            # Clients ask for the exit code as soon as the stream is closed: it has to be there by then.
            waits = {asyncio.ensure_future(self._one.ended.wait()), asyncio.ensure_future(client.wait_closed())}
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in waits:
                    each.cancel()


def _check_running(container: Container, ref: str) -> None:
    status = container.state.status
    if status == "paused":
        raise Paused(ref)
    if status == "restarting":
        raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
    if status != "running":
        raise NotRunning(container)
