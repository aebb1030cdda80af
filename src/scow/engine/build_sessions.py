"""What clients hand over before a build and fetch after it: secrets and agents, archives, caches.

All of it waits for ten minutes under a name that nobody can guess, and is gone then or once it was taken.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from scow.build.cache import Record
from scow.engine.image_archives import SavedArchive
from scow.errors import InvalidArgument, NotFound
from scow.store.store import Store
from scow.wire.build import SessionRequest

if TYPE_CHECKING:
    from scow.build.context import Context

T = TypeVar("T")

_WAIT_S: Final = 600.0


class _Waiting(Generic[T]):
    """Things that wait to be taken once."""

    def __init__(self) -> None:
        self._things: dict[str, T] = {}

    def put(self, thing: T, id: str = "") -> str:
        id = id or secrets.token_hex(16)
        self._things[id] = thing
        return id

    def take(self, id: str) -> T | None:
        return self._things.pop(id, None)


class BuildSessions:
    """What waits for builds, and what builds left to be fetched."""

    def __init__(self, folder: Path, store: Store) -> None:
        self._folder = folder
        self._store = store
        self._sessions: _Waiting[SessionRequest] = _Waiting()
        self._uploads: _Waiting[Context] = _Waiting()
        self._caches: _Waiting[Sequence[Record]] = _Waiting()
        self._closing: set[asyncio.Task[None]] = set()

    async def open(self, request: SessionRequest) -> str:
        """Take secrets and agents for a build; they are nowhere but in memory. Raises InvalidArgument."""
        for name, path in request.agents.items():
            if not await asyncio.to_thread(Path(path).is_socket):
                raise InvalidArgument(f"ssh agent {name!r}: there is no socket {path} on the engine's machine")
        id = self._sessions.put(request)
        asyncio.get_running_loop().call_later(_WAIT_S, self._sessions.take, id)
        return id

    def take(self, id: str) -> SessionRequest:
        """Hand over what `open` took, once. Raises InvalidArgument."""
        found = self._sessions.take(id) if id else SessionRequest()
        if found is None:
            raise InvalidArgument("no such build session: it was used already, or is too old")
        return found

    async def receive(self, content: AsyncIterator[bytes]) -> str:
        """Take an archive for a build: files of a named context, or a cache. Raises ContextRefused."""
        from scow.build import context as contexts  # as below: with the first build, not with the engine

        archive = await contexts.receive(content, self._folder / f"upload-{secrets.token_hex(8)}")
        id = self._uploads.put(archive)
        asyncio.get_running_loop().call_later(_WAIT_S, self._drop, id)
        return id

    def take_upload(self, id: str) -> "Context":
        """Hand over what `receive` took, once; it is the caller's to close. Raises InvalidArgument."""
        found = self._uploads.take(id)
        if found is None:
            raise InvalidArgument(f"nothing was sent as {id!r}, or it was used already, or is too old")
        return found

    def _drop(self, id: str) -> None:
        found = self._uploads.take(id)
        if found is not None:
            task = asyncio.ensure_future(found.aclose())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def keep_cache(self, id: str, records: Sequence[Record]) -> None:
        """Keep a build's steps for the client, under a name that it chose."""
        self._caches.put(records, id)
        asyncio.get_running_loop().call_later(_WAIT_S, self._caches.take, id)

    async def cache(self, id: str) -> SavedArchive:
        """The archive of an OCI layout with the cache that a build kept. Raises NotFound."""
        from scow.build.cache_export import cache_layout

        records = self._caches.take(id)
        if records is None:
            raise NotFound(f"no build has left a cache as {id!r}, or it was fetched already, or is too old")
        async with AsyncExitStack() as keep:
            await keep.enter_async_context(self._store.leases.hold())
            return SavedArchive(await cache_layout(records, self._store), keep.pop_all())
