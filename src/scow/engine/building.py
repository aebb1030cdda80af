"""Builds: what POST /build asks for, from the context to the image and its names. Engine API, ImageBuild."""

import asyncio
import json
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Final

from scow.build import context as contexts
from scow.build.cache import Cache
from scow.build.classic import ClassicLines
from scow.build.context import Context
from scow.build.dockerfile import Dockerfile, parse
from scow.build.entitlements import NETWORK_HOST, granted
from scow.build.errors import DockerfileError
from scow.build.executor import Execution
from scow.build.git import is_git
from scow.build.ignore import Ignore
from scow.build.selection import Keep, everything
from scow.build.sources import Remote, is_remote, open_url
from scow.build.tools import Build, Options, Tools
from scow.engine.build_cache import BuildCache
from scow.engine.build_checks import BuildChecks, ignore_of
from scow.engine.build_runner import BuildRuns, clear_folders
from scow.engine.config import EngineConfig
from scow.engine.events import Events
from scow.engine.image_lookup import find_image
from scow.engine.resources import Resources
from scow.engine.streams import ProgressStream
from scow.errors import InvalidArgument, ScowError
from scow.oci.image_config import ImageConfig
from scow.oci.platform import Platform, parse_platform, satisfies
from scow.oci.reference import Reference, parse_reference
from scow.store.images import Image
from scow.store.snapshots import finish
from scow.store.store import Store
from scow.store.tree import Node
from scow.transfer.credentials import Credentials, decode_registry_auth
from scow.transfer.pull import pull
from scow.transfer.registries import Registries
from scow.wire.build import BuildRequest, SessionRequest
from scow.wire.progress import ProgressMessage

Emit = Callable[[ProgressMessage], None]
DOCKERFILE: Final = "Dockerfile"
_FILE_LIMIT: Final = 16 << 20
_SENT_ALONG: Final = ".dockerfile."
_SESSION_S: Final = 600.0


class Builds:
    """Executes builds, and has their cache."""

    def __init__(
        self,
        config: EngineConfig,
        store: Store,
        registries: Registries,
        resources: Resources,
        events: Events,
        cache: Cache,
    ) -> None:
        self._config = config
        self._store = store
        self._registries = registries
        self._events = events
        self.cache = cache
        self.runs = BuildRuns(config, store, resources)
        self._folder = config.data_root / "build"
        self._tools = Tools(store, cache, self._folder / "work", config.exec_root / "build")
        self._running: dict[str, asyncio.Task[object]] = {}
        self._sessions: dict[str, SessionRequest] = {}
        self.usage = BuildCache(cache, store)

    @classmethod
    def open(
        cls, config: EngineConfig, store: Store, registries: Registries, resources: Resources, events: Events
    ) -> "Builds":
        """Open the cache, and remove what builds of a killed engine left. Blocks for a moment: at start."""
        folder = config.data_root / "build"
        shutil.rmtree(folder / "work", ignore_errors=True)
        (folder / "work").mkdir(mode=0o700, parents=True)
        clear_folders(config.exec_root)
        cache = Cache(store.db, folder)
        cache.reconcile()
        store.leases.pin(cache.pins)
        return cls(config, store, registries, resources, events, cache)

    async def build(
        self,
        request: BuildRequest,
        content: AsyncIterator[bytes],
        registry_config: str | None,
    ) -> ProgressStream:
        """POST /build. The context is read before this returns; an error until then becomes a status."""
        names = [_tag(name) for name in request.tags]
        allowed = granted(request.allow, self._config.builder.entitlements.names())
        if request.network_mode == "host":
            allowed |= {NETWORK_HOST}  # every step has it already
        options = _options(request, self.take_session(request.session), allowed)
        context = await self._context(request, content, options)
        try:
            # In a thread: it reads, parses and checks a Dockerfile, which may be large.
            work = await finish(
                asyncio.to_thread(_Work, self, request, options, context, names, _credentials(registry_config))
            )
        except BaseException:
            await context.aclose()
            raise

        async def run(emit: Emit) -> None:
            task = asyncio.current_task()
            if request.build_id and task is not None:
                self._running[request.build_id] = task
            try:
                await work.run(emit)
            finally:
                self._running.pop(request.build_id, None)
                await context.aclose()

        return ProgressStream(run)

    def cancel(self, id: str) -> None:
        """POST /build/cancel: end the build that gave this ID. Idempotent."""
        task = self._running.get(id)
        if task is not None:
            task.cancel()

    def open_session(self, request: SessionRequest) -> str:
        """Take secrets and agents for a build that comes within ten minutes; they are nowhere but in memory."""
        id = secrets.token_hex(16)
        self._sessions[id] = request
        asyncio.get_running_loop().call_later(_SESSION_S, self._sessions.pop, id, None)
        return id

    def take_session(self, id: str) -> SessionRequest:
        """Hand over what `open_session` took, once. Raises InvalidArgument."""
        found = self._sessions.pop(id, None) if id else SessionRequest()
        if found is None:
            raise InvalidArgument("no such build session: it was used already, or is too old")
        return found

    async def _context(self, request: BuildRequest, content: AsyncIterator[bytes], options: Options) -> Context:
        folder = self._folder / "work" / f"context-{secrets.token_hex(8)}"
        remote = request.remote
        if not remote or remote == "client-session":
            return await contexts.receive(content, folder)
        async for _ in content:  # a client may send an empty body
            pass
        if is_git(remote):
            checkout = folder.with_name(folder.name + "-git")
            keep = options.build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR", "").lower() in ("1", "true") or None
            source = Remote(remote, options.git_access, keep_git_dir=keep)
            try:
                tree = await source.fetch(checkout)
                return await asyncio.to_thread(contexts.of_directory, tree, source.folder, folder)
            finally:
                await asyncio.to_thread(shutil.rmtree, checkout, True)
        if not is_remote(remote):
            raise InvalidArgument(f"unable to prepare context: path {remote!r} not found")
        return await asyncio.to_thread(_fetch_context, remote, folder)


class _Work:
    """One build, after its context has come."""

    def __init__(
        self,
        builds: Builds,
        request: BuildRequest,
        options: Options,
        context: Context,
        names: list[Reference],
        credentials: Mapping[str, Credentials],
    ) -> None:
        self._builds = builds
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
        builds, request = self._builds, self._request
        if request.check:
            self._checks.report(emit)
            return
        await finish(asyncio.to_thread(self._checks.refuse))
        store = builds._store
        bases = _Bases(builds, self._credentials, pull=request.pull)
        build = Build(builds._tools, self._options, builds.runs.runner(request.host_config()), bases)
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
                await asyncio.shield(asyncio.ensure_future(builds.cache.flush()))
            for name in self._names:
                await store.images.tag(str(name), result.id)
                builds._events.emit("image", "tag", result.id, {"name": name.familiar})
        if quiet:
            emit(ProgressMessage(stream=f"{result.id}\n"))
            return
        self._checks.warn(emit, execution.environments)
        emit(ProgressMessage(aux={"ID": result.id}))
        emit(ProgressMessage(stream=f"Successfully built {result.id.partition(':')[2][:12]}\n"))
        for name in self._names:
            emit(ProgressMessage(stream=f"Successfully tagged {name.familiar}\n"))


class _Bases:
    """Images for FROM and COPY --from: local ones, else pulled."""

    def __init__(self, builds: Builds, credentials: Mapping[str, Credentials], *, pull: bool) -> None:
        self._builds = builds
        self._credentials = credentials
        self._pull = pull
        self._found: dict[tuple[str, str], asyncio.Task[Image]] = {}

    async def find(self, reference: str, platform: Platform | None, emit: Emit) -> tuple[Image, ImageConfig]:
        """As Bases.find; what several stages name is looked for once."""
        key = reference, str(platform or "")
        task = self._found.get(key)
        if task is None:
            task = self._found[key] = asyncio.ensure_future(self._get(reference, platform, emit))
        image = await asyncio.shield(task)
        return image, await self._builds._store.images.config(image.id)

    async def aclose(self) -> None:
        """End what still runs."""
        for task in self._found.values():
            task.cancel()
        await asyncio.gather(*self._found.values(), return_exceptions=True)

    async def _get(self, reference: str, platform: Platform | None, emit: Emit) -> Image:
        store = self._builds._store
        image = None if self._pull else find_image(store.images, reference)
        if image is not None and platform is not None and not satisfies(image.platform, platform):
            image = None
        if image is None:
            parsed = parse_reference(reference)
            image = await pull(
                parsed,
                registries=self._builds._registries,
                store=store,
                emit=emit,
                credentials=self._credentials_for(parsed),
                platform=platform,
            )
        for diff_id in image.diff_ids:
            store.layers.find(diff_id)  # so that the build's lease has them
        return image

    def _credentials_for(self, reference: Reference) -> Credentials | None:
        host = reference.domain
        for name in (host, f"https://{host}", "https://index.docker.io/v1/" if host == "docker.io" else ""):
            if name in self._credentials:
                return self._credentials[name]
        return None


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


def _tag(name: str) -> Reference:
    reference = parse_reference(name)
    if reference.digest is not None:
        raise InvalidArgument("refusing to create a tag with a digest reference")
    return reference.with_default_tag()


def _options(request: BuildRequest, given: SessionRequest, allowed: frozenset[str]) -> Options:
    arguments = {name: value for name, value in (request.build_args or {}).items() if value is not None}
    options = Options(
        dockerfile=request.dockerfile or DOCKERFILE,
        build_args=arguments,
        labels=request.labels or {},
        target=request.target,
        no_cache=request.no_cache,
        squash=request.squash,
        platform=parse_platform(request.platform) if request.platform else None,
        allowed=allowed,
        no_cache_filter=tuple(name.lower() for name in request.no_cache_filter),
        secrets=given.secrets,
        agents={name: Path(path) for name, path in given.agents.items()},
        known_hosts=given.known_hosts,
    )
    _ = options.epoch  # a bad one is refused before anything is done
    return options


def _credentials(header: str | None) -> dict[str, Credentials]:
    """Read `X-Registry-Config`: credentials by host. What can't be read is ignored, as dockerd does."""
    if not header:
        return {}
    import base64

    try:
        padded = header.strip().replace("+", "-").replace("/", "_")
        document = json.loads(base64.urlsafe_b64decode(padded + "=" * (-len(padded) % 4)))
        found = {
            host: decode_registry_auth(base64.urlsafe_b64encode(json.dumps(each).encode()).decode())
            for host, each in document.items()
        }
    except (ValueError, AttributeError):
        return {}
    return {host: each for host, each in found.items() if each is not None}


def _fetch_context(url: str, folder: Path) -> Context:
    """A tar as it is, anything else as a Dockerfile. Blocks."""
    with open_url(url) as answer:
        kind = answer.headers.get_content_type()
        if kind.startswith("text/") or kind in ("application/octet-stream", "application/x-dockerfile"):
            data = answer.read(_FILE_LIMIT + 1)
            if len(data) > _FILE_LIMIT or b"\0" in data:
                raise InvalidArgument(f"{url}: neither a Dockerfile nor declared as an archive")
            return contexts.of_dockerfile(data, folder)
        try:
            return contexts.take(answer, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
