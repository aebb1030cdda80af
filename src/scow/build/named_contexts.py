"""Named contexts: what FROM, COPY --from and mounts find under names that the caller of a build gave.

An image is what it would be without; files are a layer on nothing, made when the first step needs them. They come
from a repository, a URL, or with the build.
"""

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

from scow.build.compose import Owner
from scow.build.context import Context
from scow.build.git import GitAccess
from scow.build.image_state import ImageState, state_of, with_path
from scow.build.layering import compose_layer
from scow.build.plan import context_name
from scow.build.selection import Selected
from scow.build.sources import Remote, archive_tree, is_remote
from scow.build.tools import Bases, Tools
from scow.build.trees import ContextRefused, Tree, find
from scow.errors import InvalidArgument
from scow.oci.image_config import ExecConfig
from scow.oci.platform import Platform
from scow.store.snapshots import finish
from scow.wire.progress import ProgressMessage

IMAGE: Final = "docker-image://"
UPLOAD: Final = "upload://"
"""What a client has sent before, by the name that it got then."""


class NamedContexts:
    """The named contexts of one build."""

    def __init__(
        self, given: Mapping[str, str], uploads: Mapping[str, Context], tools: Tools, bases: Bases, access: GitAccess
    ) -> None:
        """`uploads` are the contexts that came before, by ID. Raises InvalidArgument for a value that means nothing."""
        self._values = {context_name(name): value for name, value in given.items()}
        self._uploads = uploads
        self._tools = tools
        self._bases = bases
        self._access = access
        self._found: dict[str, asyncio.Task[ImageState]] = {}
        for name, value in self._values.items():
            if not (value.startswith((IMAGE, UPLOAD)) or is_remote(value)):
                raise InvalidArgument(f"named context {name!r}: unknown kind of value {value!r}")

    @property
    def names(self) -> frozenset[str]:
        """What they are called, as `context_name` has it."""
        return frozenset(self._values)

    async def find(
        self, name: str, platform: Platform | None, host: Platform, emit: Callable[[ProgressMessage], None]
    ) -> ImageState:
        """What a stage on it begins with, and what is copied from it. Raises InvalidArgument, NotFound, Unavailable."""
        task = self._found.get(name)
        if task is None:
            task = self._found[name] = asyncio.ensure_future(self._get(name, platform, host, emit))
        return await asyncio.shield(task)

    async def aclose(self) -> None:
        """End what still runs."""
        for task in self._found.values():
            task.cancel()
        await asyncio.gather(*self._found.values(), return_exceptions=True)

    async def _get(
        self, name: str, platform: Platform | None, host: Platform, emit: Callable[[ProgressMessage], None]
    ) -> ImageState:
        value = self._values[name]
        if value.startswith(IMAGE):
            image, config = await self._bases.find(value.removeprefix(IMAGE), platform, emit)
            return state_of(config, image.id)
        async with self._files(value) as (tree, top):
            layer = await compose_layer(
                self._tools.store, (), lambda composer: composer.copy(tree, [top], "/", owner=Owner(0, 0))
            )
        return ImageState(
            platform=host,
            config=with_path(ExecConfig()),
            diff_ids=() if layer is None else (layer.diff_id,),
        )

    @asynccontextmanager
    async def _files(self, value: str) -> AsyncIterator[tuple[Tree, Selected]]:
        """A tree, and its directory that is meant."""
        if value.startswith(UPLOAD):
            context = self._uploads[value.removeprefix(UPLOAD)]
            async with context.used():
                yield context.tree, Selected(b"", context.tree.root, b"")
            return
        folder = self._tools.folder / f"named-{secrets.token_hex(8)}"
        try:
            remote = Remote(value, self._access)
            fetched = await remote.fetch(folder)
            inner = None if remote.is_git else await archive_tree(fetched, folder)
            try:
                tree: Tree = fetched if inner is None else inner
                yield tree, await finish(asyncio.to_thread(_folder, tree, remote.folder))
            finally:
                if inner is not None:
                    inner.close()
        finally:
            await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(shutil.rmtree, folder, True)))


def _folder(tree: Tree, name: str) -> Selected:
    found = find(tree, name.strip("/").encode())
    if found is None or not found[1].is_directory:
        raise ContextRefused(f"the repository has no folder {name!r}")
    return Selected(*found, b"")
