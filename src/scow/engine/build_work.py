"""One build, after its context has come: the Dockerfile read and checked, then executed, told and named."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Final, NamedTuple

from scow.build.cache_imports import Imports
from scow.build.classic import ClassicLines
from scow.build.context import Context
from scow.build.dockerfile import Dockerfile, parse
from scow.build.errors import DockerfileError
from scow.build.executor import Execution
from scow.build.ignore import Ignore
from scow.build.named_contexts import UPLOAD, NamedContexts
from scow.build.selection import Keep, everything
from scow.build.tools import Build, Options, Tools
from scow.engine.build_bases import ImageBases
from scow.engine.build_caches import BuildCaches, parse_export, parse_import
from scow.engine.build_checks import BuildChecks, ignore_of
from scow.engine.build_runner import BuildRuns
from scow.engine.build_sessions import BuildSessions
from scow.engine.events import Events
from scow.errors import InvalidArgument, ScowError
from scow.oci.platform import host_platform
from scow.oci.reference import Reference
from scow.store.snapshots import finish
from scow.store.store import Store
from scow.store.tree import Node
from scow.transfer.credentials import Credentials
from scow.transfer.registries import Registries
from scow.wire.build import BuildRequest
from scow.wire.progress import ProgressMessage

Emit = Callable[[ProgressMessage], None]
DOCKERFILE: Final = "Dockerfile"
_SENT_ALONG: Final = ".dockerfile."


class Means(NamedTuple):
    """What the engine's builds share."""

    store: Store
    registries: Registries
    events: Events
    tools: Tools
    runs: BuildRuns
    sessions: BuildSessions


class BuildWork:
    """One build, after its context has come."""

    def __init__(
        self,
        means: Means,
        request: BuildRequest,
        options: Options,
        context: Context,
        names: list[Reference],
        credentials: Mapping[str, Credentials],
    ) -> None:
        self._means = means
        self._request = request
        self._options = options
        self._context = context
        self._names = names
        self._credentials = credentials
        self._imports = [parse_import(text) for text in request.cache_from]
        self._exports = [parse_export(text) for text in request.cache_to]
        name = request.dockerfile or DOCKERFILE
        data = context.read(name)
        if data is None and name == DOCKERFILE:
            data = context.read("dockerfile")
        if data is None:
            raise InvalidArgument(f"Cannot locate specified Dockerfile: {name}")
        if not data:
            raise InvalidArgument(f"the Dockerfile ({name}) cannot be empty")
        self._file = _parsed(data, name)
        ignore = ignore_of(context, name)
        self._keep = _ignoring(ignore, name)
        self._checks = BuildChecks(self._file, options, ignore)

    async def run(self, emit: Emit) -> None:
        means, request = self._means, self._request
        if request.check:
            self._checks.report(emit)
            return
        await finish(asyncio.to_thread(self._checks.refuse))
        store = means.store
        bases = ImageBases(store, means.registries, self._credentials, pull=request.pull)
        caches = BuildCaches(store, means.registries, means.sessions)
        quiet = request.quiet
        lines: ClassicLines | None = None
        async with AsyncExitStack() as keep, store.leases.hold():
            try:
                platform = self._options.platform or host_platform()
                imports = Imports(await caches.sources(self._imports, platform, bases.credentials_for, keep))
                keep.push_async_callback(imports.aclose)
                build = Build(means.tools, self._options, means.runs.runner(request.host_config()), bases, imports)
                named = await self._named(bases, keep)
                execution = Execution(
                    build, self._file, self._context, lambda event: lines(event) if lines else None, self._keep, named
                )
                lines = ClassicLines(emit, execution.needed, quiet=quiet, remove=request.remove)
                result = await execution.run()
            except ScowError as error:
                if lines is not None:
                    lines.flush()
                if isinstance(error, DockerfileError):
                    raise InvalidArgument(error.report) from error
                raise
            finally:
                await bases.aclose()
                await asyncio.shield(asyncio.ensure_future(means.tools.cache.flush()))
            for name in self._names:
                await store.images.tag(str(name), result.id)
                means.events.emit("image", "tag", result.id, {"name": name.familiar})
            await caches.export(
                self._exports, execution.records, bases.credentials_for, (lambda message: None) if quiet else emit
            )
        if quiet:
            emit(ProgressMessage(stream=f"{result.id}\n"))
            return
        self._checks.warn(emit, execution.environments)
        emit(ProgressMessage(aux={"ID": result.id}))
        emit(ProgressMessage(stream=f"Successfully built {result.id.partition(':')[2][:12]}\n"))
        for name in self._names:
            emit(ProgressMessage(stream=f"Successfully tagged {name.familiar}\n"))

    async def _named(self, bases: ImageBases, keep: AsyncExitStack) -> NamedContexts:
        """The named contexts; `keep` ends them, and closes those that the client sent."""
        given = self._request.contexts or {}
        uploads = {}
        for id in dict.fromkeys(value.removeprefix(UPLOAD) for value in given.values() if value.startswith(UPLOAD)):
            uploads[id] = self._means.sessions.take_upload(id)
            keep.push_async_callback(uploads[id].aclose)
        named = NamedContexts(given, uploads, self._means.tools, bases, self._options.git_access)
        keep.push_async_callback(named.aclose)
        return named


def _ignoring(ignore: Ignore | None, dockerfile: str) -> Keep:
    """What the context's ignore file leaves for COPY. Clients leave the rest out already, if they can."""
    if ignore is None:
        return everything if not dockerfile.startswith(_SENT_ALONG) else _not_sent_along

    def keep(path: bytes, node: Node) -> bool:
        return _not_sent_along(path, node) and not ignore.excludes(path.decode("utf-8", "surrogateescape"))

    return keep


def _not_sent_along(path: bytes, node: Node) -> bool:
    """Whether a path is of the context itself: clients put a Dockerfile from elsewhere beside it, by this name."""
    return not path.startswith(_SENT_ALONG.encode())


def _parsed(data: bytes, name: str) -> Dockerfile:
    """The Dockerfile. Raises InvalidArgument that shows the place of an error."""
    try:
        return parse(data, name)
    except DockerfileError as error:
        raise InvalidArgument(error.report) from error
