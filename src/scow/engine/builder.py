"""Takes one build after the other from the request to its work: the query read, the context received or fetched.

Engine API, ImageBuild. It and all that it stands on are imported when the first build comes (see `building`).
"""

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final

from scow.build import context as contexts
from scow.build.context import Context
from scow.build.entitlements import NETWORK_HOST, granted
from scow.build.git import is_git
from scow.build.sources import Remote, is_remote, modified, open_url
from scow.build.tools import Options
from scow.build.trees import newest
from scow.engine.build_bases import decode_credentials
from scow.engine.build_caches import parse_export
from scow.engine.build_work import DOCKERFILE, BuildWork, Means
from scow.engine.streams import ProgressStream
from scow.errors import InvalidArgument
from scow.oci.reference import Reference, parse_reference
from scow.store.snapshots import finish
from scow.wire.build import BuildRequest, SessionRequest
from scow.wire.progress import ProgressMessage

Emit = Callable[[ProgressMessage], None]
_FILE_LIMIT: Final = 16 << 20


class Builder:
    """Executes builds; `ended` is called after each."""

    def __init__(self, folder: Path, means: Means, entitlements: Sequence[str], ended: Callable[[], None]) -> None:
        self._folder = folder  # for contexts
        self._means = means
        self._entitlements = entitlements
        self._ended = ended
        self._running: dict[str, asyncio.Task[object]] = {}

    async def build(
        self,
        request: BuildRequest,
        content: AsyncIterator[bytes],
        registry_config: str | None,
    ) -> ProgressStream:
        """Begin a build; as `Builds.build`."""
        names = [_tag(name) for name in request.tags]
        allowed = granted(request.allow, self._entitlements)
        if request.network_mode == "host":
            allowed |= {NETWORK_HOST}  # every step has it already
        options = _options(request, self._means.sessions.take(request.session), allowed)
        context = await self._context(request, content, options)
        try:
            # In a thread: it reads, parses and checks a Dockerfile, which may be large.
            work = await finish(
                asyncio.to_thread(
                    BuildWork, self._means, request, options, context, names, decode_credentials(registry_config)
                )
            )
        except BaseException:
            await context.aclose()
            raise

        async def run(emit: Emit) -> None:
            task = asyncio.current_task()
            if request.build_id and task is not None:
                self._running[request.build_id] = task
            try:
                await work.run(emit, stream.room)
            finally:
                self._running.pop(request.build_id, None)
                await context.aclose()
                self._ended()

        stream = ProgressStream(run)  # its task begins later than this line ends
        return stream

    def cancel(self, id: str) -> None:
        """End the build that gave this ID. Idempotent."""
        task = self._running.get(id)
        if task is not None:
            task.cancel()

    async def _context(self, request: BuildRequest, content: AsyncIterator[bytes], options: Options) -> Context:
        folder = self._folder / f"context-{secrets.token_hex(8)}"
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
                context = await contexts.make(lambda: contexts.of_directory(tree, source.folder, folder), folder)
                context.material = source.material
                context.dated = newest(context.tree.root)  # all files have the commit's time
                return context
            finally:
                await asyncio.to_thread(shutil.rmtree, checkout, True)
        if not is_remote(remote):
            raise InvalidArgument(f"unable to prepare context: path {remote!r} not found")
        return await contexts.make(lambda: _fetch_context(remote, folder, options), folder)


def _tag(name: str) -> Reference:
    reference = parse_reference(name)
    if reference.digest is not None:
        raise InvalidArgument("refusing to create a tag with a digest reference")
    return reference.with_default_tag()


def _options(request: BuildRequest, given: SessionRequest, allowed: frozenset[str]) -> Options:
    arguments = {name: value for name, value in (request.build_args or {}).items() if value is not None}
    exports = [parse_export(text) for text in request.cache_to]
    inline = arguments.get("BUILDKIT_INLINE_CACHE", "").lower() in ("1", "true")
    inline = inline or any(each.type == "inline" for each in exports)
    options = Options(
        dockerfile=request.dockerfile or DOCKERFILE,
        build_args=arguments,
        labels=request.labels or {},
        target=request.target,
        no_cache=request.no_cache,
        squash=request.squash,
        inline_cache=inline,
        tells_cache=inline or bool(exports),
        tells_all=any(each.mode == "max" for each in exports),
        allowed=allowed,
        no_cache_filter=tuple(name.lower() for name in request.no_cache_filter),
        secrets=given.secrets,
        agents={name: Path(path) for name, path in given.agents.items()},
        known_hosts=given.known_hosts,
    )
    _ = options.epoch  # a bad one is refused before anything is done
    return options


def _fetch_context(url: str, folder: Path, options: Options) -> Context:
    """A tar as it is, anything else as a Dockerfile. Blocks."""
    with open_url(url, options.secrets) as answer:
        kind = answer.headers.get_content_type()
        if kind.startswith("text/") or kind in ("application/octet-stream", "application/x-dockerfile"):
            data = answer.read(_FILE_LIMIT + 1)
            if len(data) > _FILE_LIMIT or b"\0" in data:
                raise InvalidArgument(f"{url}: neither a Dockerfile nor declared as an archive")
            context = contexts.of_dockerfile(data, folder)
            context.dated = modified(answer)
            return context
        context = contexts.take(answer, folder)
        context.dated = modified(answer)
        if context.dated is None:
            context.dated = newest(context.tree.root)
        return context
