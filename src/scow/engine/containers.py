"""Containers as the API knows them: each method is one endpoint, on a container found by what the user typed."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

import msgspec

from scow.engine import listing
from scow.engine.attachment import Attachment, parse_detach_keys
from scow.engine.container import Container, ContainerTable, NameInUse
from scow.engine.creation import Creation, attributes_of
from scow.engine.events import Events
from scow.engine.inspecting import Inspector
from scow.engine.lifecycle import Lifecycle, NotRunning
from scow.engine.logs import LogStream, open_log
from scow.engine.names import check_name
from scow.engine.processes import top
from scow.engine.removal import Removal
from scow.engine.resources import Resources
from scow.engine.tasks import Tasks
from scow.engine.waiting import Waiter, wait_for
from scow.errors import Conflict, InvalidArgument
from scow.oci.digest import Digest
from scow.wire.container import (
    ContainerInspect,
    ContainerSummary,
    CreateReply,
    CreateRequest,
    TopReply,
)

Filters = Mapping[str, Sequence[str]]


class Containers:
    """The engine's containers."""

    def __init__(
        self,
        table: ContainerTable,
        creation: Creation,
        lifecycle: Lifecycle,
        removal: Removal,
        resources: Resources,
        inspector: Inspector,
        events: Events,
        tasks: Tasks,
        image_ids: Callable[[str], Iterable[Digest]],
    ) -> None:
        self._table = table
        self._creation = creation
        self._lifecycle = lifecycle
        self._removal = removal
        self._resources = resources
        self._inspector = inspector
        self._events = events
        self._tasks = tasks
        self._image_ids = image_ids

    async def create(self, request: CreateRequest, name: str | None, platform: str | None) -> CreateReply:
        """POST /containers/create."""
        self._resources.expect_processes()
        return await self._tasks.finish(self._creation.create(request, name, platform), "create")

    async def list(self, *, all: bool, limit: int | None, size: bool, filters: Filters) -> list[ContainerSummary]:
        """GET /containers/json."""
        found = listing.select(self._table, all=all, limit=limit, filters=filters, image_ids=self._image_ids)
        return await self._inspector.summaries(found, size=size)

    async def inspect(self, ref: str, size: bool = False) -> ContainerInspect:
        """GET /containers/{id}/json."""
        return await self._inspector.inspect(self._table.get(ref), size=size)

    async def start(self, ref: str) -> bool:
        """POST /containers/{id}/start; False if it was running."""
        return await self._tasks.finish(self._lifecycle.start(self._table.get(ref)), f"start {ref}")

    async def stop(self, ref: str, timeout_s: int | None, signal: str | None) -> bool:
        """POST /containers/{id}/stop; False if it wasn't running."""
        return await self._lifecycle.stop(self._table.get(ref), timeout_s, signal)

    async def restart(self, ref: str, timeout_s: int | None, signal: str | None) -> None:
        """POST /containers/{id}/restart."""
        await self._tasks.finish(self._lifecycle.restart(self._table.get(ref), timeout_s, signal), f"restart {ref}")

    async def kill(self, ref: str, signal: str | None) -> None:
        """POST /containers/{id}/kill."""
        await self._lifecycle.kill(self._table.get(ref), signal)

    async def pause(self, ref: str) -> None:
        """POST /containers/{id}/pause."""
        await self._lifecycle.pause(self._table.get(ref))

    async def unpause(self, ref: str) -> None:
        """POST /containers/{id}/unpause."""
        await self._lifecycle.unpause(self._table.get(ref))

    async def rename(self, ref: str, name: str) -> None:
        """POST /containers/{id}/rename. Raises NameInUse, InvalidName."""
        container = self._table.get(ref)
        if not name or name == "/":
            raise InvalidArgument("Neither old nor new names may be empty")
        async with container.lock:
            old = container.name
            if name.removeprefix("/") == old:
                raise InvalidArgument("Renaming a container with the same name as its current name")
            try:
                name = check_name(f"/{name.removeprefix('/')}")
                self._table.reserve(name)
            except InvalidArgument as error:
                raise InvalidArgument(f"Error when allocating new name: {error}") from error
            except NameInUse as error:
                raise Conflict(f"Error when allocating new name: {error}") from error
            try:
                await self._table.save(container, msgspec.structs.replace(container.record, name=name))
            finally:
                self._table.release(name)
            await self._resources.renamed(container)
        self._events.emit("container", "rename", container.id, {**attributes_of(container), "oldName": f"/{old}"})

    async def remove(self, ref: str, *, force: bool, volumes: bool, link: bool) -> None:
        """DELETE /containers/{id}."""
        if link:
            return await self._resources.links.remove(ref)
        container = self._table.get(ref)
        await self._tasks.finish(self._removal.remove(container, force=force, volumes=volumes), f"remove {ref}")

    async def resize(self, ref: str, height: int, width: int) -> None:
        """POST /containers/{id}/resize."""
        container = self._table.get(ref)
        if not container.state.live:
            raise NotRunning(container)
        await self._resources.resize(container, height, width)
        self._events.emit(
            "container",
            "resize",
            container.id,
            {**attributes_of(container), "height": str(height), "width": str(width)},
        )

    async def waiter(self, ref: str, condition: str) -> Waiter:
        """POST /containers/{id}/wait."""
        return wait_for(self._table.get(ref), condition)

    async def attachment(
        self,
        ref: str,
        *,
        stdin: bool,
        stdout: bool,
        stderr: bool,
        stream: bool,
        logs: bool,
        detach_keys: str | None,
    ) -> Attachment:
        """POST /containers/{id}/attach: registered when this returns, so that no output of a start after it is lost."""
        container = self._table.get(ref)
        keys = parse_detach_keys(detach_keys)
        if container.state.status == "paused":
            raise Conflict(f"container {ref} is paused, unpause the container before attach")
        if container.state.status == "restarting":
            raise Conflict(f"container {ref} is restarting, wait until the container is running")
        config = container.record.config
        history: AsyncIterator[list[tuple[int, bytes]]] | None = None
        if logs:
            history = await open_log(container, stdout=stdout, stderr=stderr, follow=False)
        attachment = Attachment(
            tty=config.tty,
            stdin=stdin and stream and config.open_stdin,
            stdout=stdout,
            stderr=stderr,
            close_stdin=config.stdin_once,
            detach_keys=keys,
            history=history,
            on_detach=lambda: self._events.emit("container", "detach", container.id, attributes_of(container)),
            on_end=container.attachments.discard,
        )
        if stream:
            await self._lifecycle.attach(container, attachment)
        else:
            attachment.connect(None)
        self._events.emit("container", "attach", container.id, attributes_of(container))
        return attachment

    async def logs(
        self,
        ref: str,
        *,
        stdout: bool,
        stderr: bool,
        follow: bool,
        tail: int | None,
        since_ns: int | None,
        until_ns: int | None,
        timestamps: bool,
        details: bool,
    ) -> LogStream:
        """GET /containers/{id}/logs."""
        return await open_log(
            self._table.get(ref),
            stdout=stdout,
            stderr=stderr,
            follow=follow,
            tail=tail,
            since_ns=since_ns,
            until_ns=until_ns,
            timestamps=timestamps,
            details=details,
        )

    async def top(self, ref: str, ps_args: str) -> TopReply:
        """GET /containers/{id}/top."""
        container: Container = self._table.get(ref)
        if container.state.status == "restarting":
            raise Conflict(f"container {container.id} is restarting, wait until the container is running")
        if not container.state.live:
            raise NotRunning(container)
        reply = await top(await self._resources.pids(container), ps_args)
        self._events.emit("container", "top", container.id, attributes_of(container))
        return reply
