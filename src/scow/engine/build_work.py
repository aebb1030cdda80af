"""One build, after its context has come: the Dockerfile read and checked, then executed, told and named."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from scow.build.classic import ClassicLines
from scow.build.context import Context
from scow.build.dockerfile import Dockerfile, parse
from scow.build.errors import DockerfileError
from scow.build.executor import Execution
from scow.build.ignore import Ignore
from scow.build.selection import Keep, everything
from scow.build.tools import Build, Options, Tools
from scow.engine.build_bases import ImageBases
from scow.engine.build_checks import BuildChecks, ignore_of
from scow.engine.build_runner import BuildRuns
from scow.engine.events import Events
from scow.errors import InvalidArgument, ScowError
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
        build = Build(means.tools, self._options, means.runs.runner(request.host_config()), bases)
        quiet = request.quiet
        lines: ClassicLines | None = None
        async with store.leases.hold():
            try:
                execution = Execution(
                    build, self._file, self._context, lambda event: lines(event) if lines else None, self._keep
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
        if quiet:
            emit(ProgressMessage(stream=f"{result.id}\n"))
            return
        self._checks.warn(emit, execution.environments)
        emit(ProgressMessage(aux={"ID": result.id}))
        emit(ProgressMessage(stream=f"Successfully built {result.id.partition(':')[2][:12]}\n"))
        for name in self._names:
            emit(ProgressMessage(stream=f"Successfully tagged {name.familiar}\n"))


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
