"""Files in and out of containers as tar streams. Engine API, /containers/{id}/archive and /export.

A worker process for each request does the work (`archive_worker`): the event loop only passes bytes on.
"""

import asyncio
import contextlib
import json
import os
import posixpath
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, Self

from scow.engine import rooted
from scow.engine.container import Container, ContainerTable
from scow.engine.creation import attributes_of
from scow.engine.events import Events
from scow.engine.roots import Roots
from scow.engine.volumes import Volumes
from scow.errors import Internal, InvalidArgument, NotFound
from scow.runtime.user import resolve_user
from scow.wire.archive import PathStat
from scow.wire.times import format_time

PIECE: Final = 1 << 18
_HEAD_LIMIT: Final = 1 << 16
_END_TIMEOUT_S: Final = 10.0


class NoSuchFile(NotFound):
    """Nothing is at the path in the container."""

    def __init__(self, path: str, ref: str) -> None:
        super().__init__(f"Could not find the file {path} in container {ref}")
        self.path = path
        self.ref = ref


class TarStream(AsyncIterator[bytes]):
    """A tar on its way out. It fails by raising Internal; `aclose` gives everything back."""

    def __init__(self, worker: "_Worker", close: AsyncExitStack, stat: PathStat | None) -> None:
        self.stat = stat
        self._worker = worker
        self._close = close

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        data = await self._worker.output.read(PIECE)
        if data:
            return data
        await self._worker.check_end()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Stop, and unmount what was mounted. Idempotent."""
        await self._close.aclose()


class Archives:
    """Reads and writes containers' and volumes' files."""

    def __init__(
        self,
        table: ContainerTable,
        roots: Roots,
        volumes: Volumes,
        events: Events,
        user_namespace: Callable[[Container], Path | None] = lambda container: None,
    ) -> None:
        self._user_namespace = user_namespace
        self._volumes = volumes
        self._table = table
        self._roots = roots
        self._events = events

    async def stat(self, ref: str, path: str) -> PathStat:
        """HEAD /containers/{id}/archive. Raises NoSuchFile."""
        container, path = self._table.get(ref), _checked(path)
        async with AsyncExitStack() as close:
            worker = await self._begin(close, container, "stat", path)
            return _stat(await worker.answer(path, ref))

    async def get(self, ref: str, path: str) -> TarStream:
        """GET /containers/{id}/archive: what is at the path, with all beneath it. Raises NoSuchFile."""
        container, path = self._table.get(ref), _checked(path)
        async with AsyncExitStack() as close:
            worker = await self._begin(close, container, "get", path)
            stat = _stat(await worker.answer(path, ref))
            self._emit(container, "archive-path")
            return TarStream(worker, close.pop_all(), stat)

    async def put(
        self,
        ref: str,
        path: str,
        content: AsyncIterator[bytes],
        *,
        keep_kinds: bool,
        own: bool,
    ) -> None:
        """PUT /containers/{id}/archive: unpack a tar, compressed or not, into a directory of the container.

        With `keep_kinds` a directory isn't replaced by something else nor the other way round; with `own` everything
        belongs to the container's user, if it has one. Raises NoSuchFile, InvalidArgument, Internal.
        """
        container, path = self._table.get(ref), _checked(path)
        async with AsyncExitStack() as close:
            owner = None
            if own and container.record.config.user:
                root = await close.enter_async_context(self._roots.mounted(container))
                user = await asyncio.to_thread(resolve_user, root, container.record.config.user)
                owner = (user.uid, user.gid)
            worker = await self._begin(close, container, "put", path, keep_kinds=keep_kinds, owner=owner)
            await worker.feed(content)
            await worker.answer(path, ref)
        self._emit(container, "extract-to-dir")

    async def export(self, ref: str) -> TarStream:
        """GET /containers/{id}/export: the root file system, without volumes."""
        container = self._table.get(ref)
        async with AsyncExitStack() as close:
            worker = await self._begin(close, container, "export", "/")
            await worker.answer("/", ref)
            self._emit(container, "export")
            return TarStream(worker, close.pop_all(), None)

    async def export_volume(self, name: str) -> TarStream:
        """GET /scow/volumes/{name}/export: all that is in a volume. Raises NoSuchVolume."""
        async with AsyncExitStack() as close:
            path = await close.enter_async_context(self._volumes.mounted(name))
            worker = await _Worker.start({"operation": "get", "root": str(path), "path": "/.", "mounts": []})
            close.push_async_callback(worker.end)
            await worker.answer("/", name)
            return TarStream(worker, close.pop_all(), None)

    async def import_volume(self, name: str, content: AsyncIterator[bytes]) -> None:
        """POST /scow/volumes/{name}/import: unpack a tar, compressed or not, into a volume, over what is there.

        Raises NoSuchVolume, Internal for what is no tar; what came before it stopped making sense stays.
        """
        async with self._volumes.mounted(name) as path, AsyncExitStack() as close:
            request = {"operation": "put", "root": str(path), "path": "/", "mounts": [], "keep_kinds": False}
            worker = await _Worker.start(request)
            close.push_async_callback(worker.end)
            await worker.feed(content)
            await worker.answer("/", name)

    async def _begin(
        self, close: AsyncExitStack, container: Container, operation: str, path: str, **more: object
    ) -> "_Worker":
        root = await close.enter_async_context(self._roots.mounted(container))
        mounts = [] if operation == "export" else await asyncio.to_thread(self._roots.mounts, container)
        mounts = [each for each in mounts if _concerns(str(each["destination"]), path)]
        if operation == "put":
            await asyncio.to_thread(_check_writable, container, root, path, mounts)
        namespace = await asyncio.to_thread(self._user_namespace, container)
        request = {"operation": operation, "root": str(root), "path": path, "mounts": mounts, **more}
        if namespace is not None:
            request["user_namespace"] = str(namespace)
        worker = await _Worker.start(request)
        close.push_async_callback(worker.end)
        return worker

    def _emit(self, container: Container, action: str) -> None:
        self._events.emit("container", action, container.id, attributes_of(container))


async def stream_trees(close: AsyncExitStack, trees: Sequence[Mapping[str, object]], mtime: int | None) -> TarStream:
    """A tar of directories that nobody changes: of each its `root`, `prefix` in the tar, and `files` by their names.

    `close` is the stream's from now on. All entries get `mtime`, if there is one.
    """
    async with close:
        worker = await _Worker.start({"operation": "trees", "trees": trees, "mtime": mtime})
        close.push_async_callback(worker.end)
        await worker.answer("/", "")
        return TarStream(worker, close.pop_all(), None)


class _Worker:
    """One worker process, from its start to its end."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        assert process.stdout is not None
        self.output = process.stdout

    @classmethod
    async def start(cls, request: dict[str, object]) -> Self:
        environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "LC_ALL": "C.UTF-8"}
        pipe = asyncio.subprocess.PIPE
        # -S: all that it imports is on PYTHONPATH already, and site's work is a third of its start.
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-S", "-m", "scow.engine.archive_worker", json.dumps(request)),
            stdin=pipe if request["operation"] == "put" else asyncio.subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            env=environment,
            cwd="/",
            limit=PIECE,
        )
        return cls(process)

    async def feed(self, content: AsyncIterator[bytes]) -> None:
        """Hand over the input. One that the worker doesn't want to its end is left: the answer says why."""
        stdin = self._process.stdin
        assert stdin is not None
        try:
            async for data in content:
                stdin.write(data)
                await stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            if self._process.stdin is None:
                raise
        finally:
            stdin.close()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                await stdin.wait_closed()

    async def answer(self, path: str, ref: str) -> dict[str, Any]:
        """The first line that it writes. Raises what it says."""
        line = await self.output.readline()
        if not line:
            await self.check_end()
            raise Internal("the archive worker ended without an answer")
        message: dict[str, Any] = json.loads(line)
        kind, text = message.get("error"), message.get("message", "")
        if kind is None:
            return message
        if kind == "missing":
            raise NoSuchFile(path, ref)
        if kind == "refused" and text.startswith("extraction point"):
            raise InvalidArgument(text)
        if kind == "archive":
            raise Internal(f"Error processing tar file: archive/tar: {text}")
        raise Internal(text)

    async def check_end(self) -> None:
        """Wait for its end. Raises Internal if it failed."""
        assert self._process.stderr is not None
        said = (await self._process.stderr.read(_HEAD_LIMIT)).decode(errors="replace").strip()
        if await self._process.wait() != 0:
            raise Internal(said.splitlines()[-1] if said else "the archive worker was killed")

    async def end(self) -> None:
        """End it, if it hasn't ended."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            async with asyncio.timeout(_END_TIMEOUT_S):
                await self._process.wait()


def _checked(path: str) -> str:
    if not path:
        raise InvalidArgument("bad parameter: path cannot be empty")
    if "\0" in path:
        raise InvalidArgument("bad parameter: path has a zero byte")
    return rooted.clean(path)


def _stat(found: dict[str, Any]) -> PathStat:
    return PathStat(
        name=found["name"],
        size=found["size"],
        mode=found["mode"],
        mtime=format_time(found["mtime_ns"]),
        link_target=found["link_target"],
    )


def _concerns(destination: str, path: str) -> bool:
    """Whether a mount may matter to a path. A path through symlinks may lead anywhere, so most mounts do."""
    network_file = destination in ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
    simple = path.rstrip("/.") or "/"
    return not network_file or simple in ("/", "/etc", destination)


def _check_writable(container: Container, root: Path, path: str, mounts: list[dict[str, object]]) -> None:
    """Raise InvalidArgument, in docker's words, if the container itself could not write there."""
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        resolved = rooted.follow(fd, path)
    finally:
        os.close(fd)
    for mount in reversed(mounts):
        destination = posixpath.normpath(str(mount["destination"]))
        if resolved == destination or resolved.startswith(destination.rstrip("/") + "/"):
            if not mount["rw"]:
                raise InvalidArgument("mounted volume is marked read-only")
            return
    if container.record.host_config.readonly_rootfs:
        raise InvalidArgument("container rootfs is marked read-only")
