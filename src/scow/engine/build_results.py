"""Results of builds that a client still has to fetch: archives and trees of files. Kept for a while, in memory only.

What they need of the store is pinned meanwhile; an engine that ends forgets them, and the collection takes the rest.
"""

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final

import msgspec

from scow.engine.archive import TarStream, stream_trees
from scow.engine.image_archives import SavedArchive
from scow.errors import InvalidArgument, NotFound
from scow.oci.descriptor import Descriptor
from scow.oci.digest import DiffID, Digest
from scow.oci.reference import Reference
from scow.store.store import Store
from scow.transfer.save import plan_form

KEPT_S: Final = 600.0


class NoSuchResult(NotFound):
    """Nobody waits for this any more."""

    def __init__(self, id: str, number: int) -> None:
        super().__init__(f"no such build result: {id}/{number}, it was fetched by its client only, within ten minutes")


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """An image as an archive: what is at its top, and the image that docker's list in it tells of."""

    top: Descriptor
    manifest: Digest
    id: Digest
    diff_ids: tuple[DiffID, ...]
    names: tuple[Reference, ...]


class Tree(msgspec.Struct, frozen=True, kw_only=True):
    """A file system, or one of several below a prefix; `files` are content that lies beside its own, by name."""

    prefix: str
    diff_ids: tuple[DiffID, ...]
    files: dict[str, Digest]


class Trees(msgspec.Struct, frozen=True, kw_only=True):
    """The file systems of one output; `mtime` is the time that everything gets, in seconds, if there is one."""

    trees: tuple[Tree, ...]
    mtime: int | None


class _Result(msgspec.Struct, frozen=True, kw_only=True):
    outputs: tuple[Form | Trees, ...]
    digests: frozenset[str]


class _Pins:
    """What no collection may take."""

    def __init__(self, results: dict[str, _Result]) -> None:
        self._results = results

    def __contains__(self, digest: object) -> bool:
        return any(digest in result.digests for result in self._results.values())


class BuildResults:
    """The results that wait for their clients."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._results: dict[str, _Result] = {}
        store.leases.pin(_Pins(self._results))

    def keep(self, outputs: Sequence[Form | Trees], digests: frozenset[str]) -> str:
        """Keep what belongs to one build for ten minutes; the name under which it is fetched."""
        id = secrets.token_hex(16)
        self._results[id] = _Result(outputs=tuple(outputs), digests=digests)
        asyncio.get_running_loop().call_later(KEPT_S, self._results.pop, id, None)
        return id

    def forget(self, id: str) -> None:
        """Let a result go: its client has all of it. Idempotent."""
        self._results.pop(id, None)

    async def archive(self, id: str, number: int) -> SavedArchive:
        """An image as an archive. Raises NoSuchResult, InvalidArgument."""
        form = self._find(id, number)
        if not isinstance(form, Form):
            raise InvalidArgument(f"output {number} is no archive of an image")
        async with AsyncExitStack() as keep:
            await keep.enter_async_context(self._store.leases.hold())
            parts = await plan_form(self._store, form.top, form.manifest, form.id, form.diff_ids, form.names)
            return SavedArchive(parts, keep.pop_all())

    async def trees(self, id: str, number: int) -> TarStream:
        """File systems as one tar. Raises NoSuchResult, InvalidArgument."""
        output = self._find(id, number)
        if not isinstance(output, Trees):
            raise InvalidArgument(f"output {number} is no tree of files")
        content = self._store.content
        async with AsyncExitStack() as close:
            trees = []
            for tree in output.trees:
                files = {name: str(content.path(digest)) for name, digest in tree.files.items()}
                root = ""
                if tree.diff_ids:
                    root = str(await close.enter_async_context(self._store.snapshots.view(tree.diff_ids)))
                trees.append({"root": root, "prefix": tree.prefix, "files": files})
            return await stream_trees(close.pop_all(), trees, output.mtime)

    def _find(self, id: str, number: int) -> Form | Trees:
        result = self._results.get(id)
        if result is None or not 0 <= number < len(result.outputs):
            raise NoSuchResult(id, number)
        return result.outputs[number]
