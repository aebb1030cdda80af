"""One request to the API, as its handler sees it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from aiohttp import web

from scow.api import query
from scow.api.connection import Connection
from scow.api.errors import RequestTooLarge
from scow.api.interfaces import EngineApi
from scow.api.versions import ApiVersion
from scow.errors import InvalidArgument
from scow.wire.message import decode

T = TypeVar("T")
_log = logging.getLogger(__name__)

JSON: Final = "application/json"
MAX_BODY: Final = 16 << 20
"""Larger than any JSON that a client sends; a build's context or an archive is streamed and has no such limit."""


class UnsupportedContentType(InvalidArgument):
    """A body that should be JSON is declared as something else, or as nothing."""

    def __init__(self, content_type: str) -> None:
        if content_type:
            super().__init__(f"unsupported Content-Type header ({content_type}): must be 'application/json'")
        else:
            super().__init__("malformed Content-Type header (): mime: no media type")


def _tell_the_log(task: asyncio.Task[Any]) -> None:
    """Say how work failed whose client has hung up."""
    error = None if task.cancelled() else task.exception()
    if error is not None:
        _log.warning("the client has hung up, and its request failed: %s", error)


class Background:
    """Work that goes on when the client who asked for it has hung up: a stop is not half done."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work`; if the caller is cancelled meanwhile, the work goes on."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_tell_the_log)
            raise

    async def aclose(self, patience_s: float) -> None:
        """Wait for what still runs, and cancel what takes too long."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience_s)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # the caller may be gone: then nobody else fetches it


class Call:
    """One request: the engine, the API version that was asked for, and the values in path, query and body."""

    __slots__ = ("background", "begun", "engine", "params", "query", "request", "version")

    def __init__(
        self,
        request: web.Request,
        engine: EngineApi,
        background: Background,
        version: ApiVersion,
        params: Mapping[str, str],
    ) -> None:
        self.request = request
        self.engine = engine
        self.background = background
        self.version = version
        self.params = params
        self.query: query.Query = request.query
        self.begun: web.StreamResponse | None = None

    def flag(self, name: str, default: bool = False) -> bool:
        return query.boolean(self.query, name, default)

    def text(self, name: str) -> str | None:
        """A parameter's text, None if it is absent or empty."""
        return self.query.get(name) or None

    def filters(self) -> query.Filters:
        return query.filters(self.query)

    @property
    def upgrade(self) -> bool:
        """Whether the client wants to leave HTTP."""
        protocol = self.request.protocol
        return "Upgrade" in self.request.headers or (isinstance(protocol, Connection) and protocol.upgrade)

    async def body(self, kind: type[T]) -> T:
        """Read the body as a message; an empty one gives the message's zero value. Raises InvalidArgument."""
        self.check_json()
        data = await self.read()
        return decode(kind, data or b"{}")

    async def body_required(self, kind: type[T]) -> T:
        """Read the body as a message that has to be there. Raises InvalidArgument."""
        self.check_json()
        return decode(kind, await self.read())

    async def read(self) -> bytes:
        """Read the whole body. Raises RequestTooLarge."""
        length = self.request.content_length
        if length is not None and length > MAX_BODY:
            raise RequestTooLarge(MAX_BODY)
        parts: list[bytes] = []
        size = 0
        async for part in self.request.content.iter_any():
            size += len(part)
            if size > MAX_BODY:
                raise RequestTooLarge(MAX_BODY)
            parts.append(part)
        return b"".join(parts)

    def check_json(self) -> None:
        """Refuse a body that isn't declared as JSON. Raises UnsupportedContentType."""
        declared = self.request.headers.get("Content-Type", "")
        if not declared and not self._may_have_body():
            return
        if declared.partition(";")[0].strip().lower() != JSON:
            raise UnsupportedContentType(declared)

    def _may_have_body(self) -> bool:
        length = self.request.content_length
        return "Transfer-Encoding" in self.request.headers or (length is not None and length > 0)

    @asynccontextmanager
    async def stream(self, content_type: str) -> AsyncIterator[Callable[[bytes], Coroutine[Any, Any, None]]]:
        """Begin a chunked reply, its head sent at once; gives the function that sends more of it."""
        response = web.StreamResponse(headers={"Content-Type": content_type})
        if self.request.version >= (1, 1):
            response.enable_chunked_encoding()
        self.begun = response
        await response.prepare(self.request)
        yield response.write
        await response.write_eof()

    def streamed(self) -> web.StreamResponse:
        """The reply that `stream` made."""
        assert self.begun is not None
        return self.begun


def no_content() -> web.Response:
    return web.Response(status=204)


def not_modified() -> web.Response:
    return web.Response(status=304)


def empty(status: int) -> web.Response:
    """Answer with a status and no body. aiohttp would declare one as octets."""
    return web.Response(status=status)


def json_bytes(body: bytes, status: int = 200) -> web.Response:
    """Answer with JSON that is encoded already, as Go's encoder ends it."""
    return web.Response(status=status, body=body + b"\n", headers={"Content-Type": JSON})
