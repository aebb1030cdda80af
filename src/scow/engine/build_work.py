"""One build, after its context has come: the Dockerfile read and checked, then executed, told and delivered."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final, NamedTuple

import msgspec

from scow.build.attestation import Request, parse_requests
from scow.build.cache import Record
from scow.build.cache_export import Mode
from scow.build.cache_imports import Imports
from scow.build.classic import ClassicLines
from scow.build.context import Context
from scow.build.dockerfile import Dockerfile, parse
from scow.build.errors import DockerfileError
from scow.build.executor import Execution, Result
from scow.build.flights import Pace, at_once
from scow.build.ignore import Ignore
from scow.build.lint import KnownBase
from scow.build.named_contexts import UPLOAD, NamedContexts
from scow.build.output import Annotation, Output, decode_outputs, parse_annotation
from scow.build.packing import Outcome
from scow.build.plan import find_target
from scow.build.provenance import Material
from scow.build.report import Report, StageEnded, StepEvent
from scow.build.selection import Keep, everything
from scow.build.tools import Anew, Build, Options, Tools
from scow.build.trace import Trace
from scow.engine import build_statements
from scow.engine.build_bases import ImageBases
from scow.engine.build_caches import BuildCaches, parse_export, parse_import
from scow.engine.build_checks import BuildChecks, ignore_of
from scow.engine.build_delivery import Delivered, Delivery
from scow.engine.build_results import BuildResults
from scow.engine.build_runner import BuildRuns
from scow.engine.build_sessions import BuildSessions
from scow.engine.build_statements import Statements
from scow.engine.events import Events
from scow.errors import InvalidArgument, ScowError
from scow.oci.platform import Platform, host_platform, parse_platform
from scow.oci.reference import Reference
from scow.store.snapshots import finish
from scow.store.store import Store
from scow.store.tree import Node
from scow.transfer.credentials import Credentials
from scow.transfer.flights import together
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
    results: BuildResults


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """What is to come out of a build."""

    platforms: tuple[Platform | None, ...]  # None: this machine's, or what the Dockerfile says
    outputs: tuple[Output, ...]
    annotations: tuple[Annotation, ...]
    attestations: Mapping[str, Request]


def parse_wishes(request: BuildRequest) -> Wishes:
    """Read what is to come out. Raises InvalidArgument."""
    words = [word.strip() for word in request.platform.split(",")]
    attestations = parse_requests(request.attestations)
    build_statements.check(attestations)
    return Wishes(
        platforms=tuple(dict.fromkeys(parse_platform(word) for word in words if word)) or (None,),
        outputs=decode_outputs(request.outputs),
        annotations=tuple(each for text in request.annotations for each in parse_annotation(text)),
        attestations=attestations,
    )


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
        self._wishes = parse_wishes(request)
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
        self._file = _parsed(data, name, request.target)
        ignore = ignore_of(context, name)
        self._keep = _ignoring(ignore, name)
        self._checks = BuildChecks(self._file, options, ignore)
        self._bases: Mapping[int, KnownBase] = {}
        self._epoch: int | None = None
        self._provenance: dict[str, Any] = {}
        self._trace: Trace | None = None

    async def run(self, emit: Emit, pace: Pace = at_once) -> None:
        """Build and deliver; or only check, if that was asked."""
        request = self._request
        if request.check:
            self._check(emit)
            return
        await finish(asyncio.to_thread(self._checks.refuse))
        means, wishes = self._means, self._wishes
        if request.trace:
            self._trace = Trace(emit, self._file, [str(each) for each in wishes.platforms])
        async with AsyncExitStack() as keep, means.store.leases.hold():
            outcomes, export = await self._build(emit, pace, keep)
            exporting = self._trace and self._trace.begin("exporting to image")
            delivered = await Delivery(
                *(means.store, means.events, means.results),
                outcomes,
                self._names,
                wishes.annotations,
                self._epoch,
            ).run(wishes.outputs)
            if self._trace and exporting:
                self._trace.end(exporting)
            await export()
        if request.quiet:
            emit(ProgressMessage(stream=f"{delivered.id}\n"))
        if not request.quiet or delivered.result or request.metadata:
            emit(ProgressMessage(aux=self._told(delivered)))
        if not request.quiet:
            if request.squash:
                emit(ProgressMessage(id="moby.image.id", aux={"ID": delivered.id}))
            self._checks.warn(emit, self._bases)
            if self._epoch is None and any(each.rewrite_timestamp for each in wishes.outputs):
                emit(ProgressMessage(stream=_NO_EPOCH))
            emit(ProgressMessage(stream=f"Successfully built {delivered.id.partition(':')[2][:12]}\n"))
            for name in delivered.names:
                emit(ProgressMessage(stream=f"Successfully tagged {name.familiar}\n"))

    def _check(self, emit: Emit) -> None:
        request = self._request
        if request.call in ("", "check"):
            self._checks.report(emit)
            return
        try:
            self._checks.describe(request.call, emit, request.contexts or ())
        except DockerfileError as error:
            raise InvalidArgument(error.report) from error

    def _told(self, delivered: Delivered) -> dict[str, Any]:
        """What programs learn: the image's ID, and more if they asked for what classic clients don't know."""
        told: dict[str, Any] = {"ID": delivered.id}
        if delivered.result:
            told["Result"] = delivered.result
        if self._request.metadata:
            told["Provenance"] = self._provenance
            if delivered.top is not None:
                told["Descriptor"] = msgspec.to_builtins(delivered.top)
        return told

    async def _build(
        self, emit: Emit, pace: Pace, keep: AsyncExitStack
    ) -> tuple[list[Outcome], Callable[[], Awaitable[None]]]:
        """Build for all platforms, beside each other; told one after the other. Gives the export of caches, too."""
        request, means, began = self._request, self._means, time.time()
        several = len(self._wishes.platforms) > 1
        bases = ImageBases(means.store, means.registries, self._credentials, pull=request.pull, several=several)
        caches = BuildCaches(means.store, means.registries, means.sessions)
        lines: list[ClassicLines | Trace] = []
        try:
            builds = await self._prepared(bases, caches, lines, pace, keep)
            stages = [
                number * len(self._file.stages) + stage
                for number, (_, execution) in enumerate(builds)
                for stage in execution.needed
            ]
            classic = ClassicLines(
                emit, stages, quiet=request.quiet, remove=request.remove, force_remove=request.force_remove
            )
            lines.append(self._trace or classic)
            results = await together(*(execution.run() for _, execution in builds))
        except ScowError as error:
            told = InvalidArgument(error.report) if isinstance(error, DockerfileError) else error
            for each in lines:
                each.fail(str(told))
            raise told from error
        finally:
            await bases.aclose()
            await asyncio.shield(asyncio.ensure_future(means.tools.cache.flush()))
        self._bases = builds[0][1].bases
        self._epoch = builds[0][0].options.epoch

        def records(mode: Mode) -> list[Record]:
            found = {record.key: record for _, execution in builds for record in execution.records(mode)}
            return list(found.values())

        async def export() -> None:
            say: Emit = (lambda message: None) if request.quiet else emit
            await caches.export(self._exports, records, bases.credentials_for, say)

        materials = {build: [*bases.materials, *build.materials] for build, _ in builds}
        return await self._outcomes(results, materials, began), export

    async def _prepared(
        self,
        bases: ImageBases,
        caches: BuildCaches,
        lines: Sequence[ClassicLines | Trace],
        pace: Pace,
        keep: AsyncExitStack,
    ) -> list[tuple[Build, Execution]]:
        """An execution for each platform, planned. They tell `lines`, once there are any."""
        request, means = self._request, self._means
        uploads, anew = self._uploads(keep), Anew()
        sent = [spec for spec in self._imports if spec.type == "upload"]
        elsewhere = [spec for spec in self._imports if spec.type != "upload"]
        shared = await caches.sources(sent, host_platform(), bases.credentials_for, keep)
        builds = []
        for number, platform in enumerate(self._wishes.platforms):
            options = msgspec.structs.replace(self._options, platform=platform)
            sources = await caches.sources(elsewhere, platform or host_platform(), bases.credentials_for, keep)
            imports = Imports([*shared, *sources])
            keep.push_async_callback(imports.aclose)
            runner = means.runs.runner(request.host_config())
            build = Build(means.tools, options, runner, bases, imports, anew, pace)
            named = NamedContexts(request.contexts or {}, uploads, means.tools, bases, options.git_access)
            keep.push_async_callback(named.aclose)
            report = self._report(number, lines)
            builds.append((build, Execution(build, self._file, self._context, report, self._keep, named)))
        return builds

    def _report(self, number: int, lines: Sequence[ClassicLines | Trace]) -> Report:
        """How the platform with this number tells `lines`: its stages come after those of the platforms before it."""
        platforms = self._wishes.platforms
        first = number * len(self._file.stages)

        def tell(event: StepEvent | StageEnded) -> None:
            if len(platforms) > 1:
                event = msgspec.structs.replace(event, stage=first + event.stage)
                if isinstance(event, StepEvent) and event.kind == "start":
                    event = msgspec.structs.replace(event, text=f"[{platforms[number]}] {event.text}")
            for each in lines:
                each(event)

        return tell

    async def _outcomes(
        self, results: Sequence[Result], builds: Mapping[Build, Sequence[Material]], began: float
    ) -> list[Outcome]:
        """What was built, with what is to be said of it. `builds` come with what went into them."""
        name = self._names[0].familiar if self._names else ""
        statements = Statements(self._means.store, self._wishes.attestations, self._file, self._context, name, began)
        outcomes = []
        for result, (build, materials) in zip(results, builds.items(), strict=True):
            state, options = result.state, build.options
            if self._request.metadata:
                self._provenance[str(state.platform)] = statements.provenance(state, options, materials, {}).value
            outcomes.append(
                Outcome(
                    platform=state.platform,
                    id=state.id,
                    state=state,
                    inherited=len(result.base.diff_ids),
                    predicates=await statements.make(state, options, materials),
                )
            )
        return outcomes

    def _uploads(self, keep: AsyncExitStack) -> dict[str, Context]:
        """The named contexts that the client has sent; `keep` closes them."""
        uploads = {}
        given = (self._request.contexts or {}).values()
        for id in dict.fromkeys(value.removeprefix(UPLOAD) for value in given if value.startswith(UPLOAD)):
            uploads[id] = self._means.sessions.take_upload(id)
            keep.push_async_callback(uploads[id].aclose)
        return uploads


_NO_EPOCH: Final = "[Warning] rewrite-timestamp is specified, but no SOURCE_DATE_EPOCH: files keep their times\n"


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


def _parsed(data: bytes, name: str, target: str) -> Dockerfile:
    """The Dockerfile. Raises InvalidArgument that shows the place of an error, and for a target that isn't in it."""
    try:
        file = parse(data, name)
        find_target(file, target)
        return file
    except DockerfileError as error:
        raise InvalidArgument(error.report) from error
