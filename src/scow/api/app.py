"""The API as a web application: one entrance that finds the version and the handler, and answers errors."""

import asyncio
import logging
import re
import time
from typing import Final

from aiohttp import web

from scow.api.call import Background, Call
from scow.api.connection import Connection
from scow.api.errors import error_response, status_of
from scow.api.interfaces import EngineApi
from scow.api.routes import Routes, split_version
from scow.api.versions import NEWEST, OLDEST, PRODUCT, ApiVersion, parse_version, text_of
from scow.errors import ScowError

_log = logging.getLogger(__name__)

PATIENCE_S: Final = 10.0
"""How long a shutdown waits for changes that are under way."""

_PRIVATE: Final = re.compile(r"([?&](?:buildargs|buildcontexts|remote|fromSrc)=)[^&]+")
_HEADERS: Final = {
    "Api-Version": text_of(NEWEST),
    "Ostype": "linux",
    "Server": f"Docker/{PRODUCT} (linux)",
}


class Api:
    """The entrance for all requests."""

    def __init__(self, engine: EngineApi, background: Background, oldest: ApiVersion) -> None:
        self._engine = engine
        self._oldest = oldest
        self._background = background
        self._routes = Routes()
        self._streams: set[asyncio.Task[object]] = set()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request, whatever goes wrong with it."""
        began = time.perf_counter() if _log.isEnabledFor(logging.DEBUG) else 0.0
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        call: Call | None = None
        try:
            version_text, path = split_version(request.rel_url.raw_path)
            handler, params = self._routes.find(request.method, path)
            call = Call(request, self._engine, self._background, parse_version(version_text, self._oldest), params)
            response = await handler(call)
        except web.HTTPException as error:
            response = error
        except Exception as error:
            is_gone = request.transport is None or request.transport.is_closing()
            if not isinstance(error, ScowError) and not (is_gone and isinstance(error, ConnectionError)):
                _log.exception("%s %s failed", request.method, request.path)
            response = _refuse(request, call, error)
        finally:
            self._streams.discard(task)
            if isinstance(request.protocol, Connection) and request.content.is_eof():
                request.protocol.request_done()
        if began:
            spent_ms = (time.perf_counter() - began) * 1000
            _log.debug("%s %s %d %.1f ms", request.method, loggable(request.path_qs), response.status, spent_ms)
        return response

    async def aclose(self, app: web.Application) -> None:
        """End the streams, which else go on for ever, and wait for changes that are under way."""
        me = asyncio.current_task()
        await self._background.aclose(PATIENCE_S)
        for task in [task for task in self._streams if task is not me]:
            task.cancel()


def loggable(path: str) -> str:
    """A path with its query, less what may hold passwords: build arguments, and URLs to be fetched."""
    return _PRIVATE.sub(r"\1...", path)


def _refuse(request: web.Request, call: Call | None, error: Exception) -> web.StreamResponse:
    _log.debug("%s %s: %d %s", request.method, request.path, status_of(error), error)
    if call is None or call.begun is None:
        return error_response(error)
    # Half an answer is out already: cutting the connection is the one way left to say that it is not whole.
    if request.transport is not None:
        request.transport.abort()
    return call.begun


def make_app(engine: EngineApi, oldest: ApiVersion = OLDEST, *, experimental: bool = False) -> web.Application:
    """Make the application that serves `engine`. Its shutdown ends all streams; it doesn't close the engine.

    Versions of the API before `oldest` are refused. Clients offer some of their flags to `experimental` engines only.
    """
    headers = {**_HEADERS, "Docker-Experimental": "true" if experimental else "false"}

    async def add_headers(request: web.BaseRequest, response: web.StreamResponse) -> None:
        response.headers.update(headers)

    api = Api(engine, Background(), oldest)
    app = web.Application(client_max_size=0)
    app.router.add_route("*", "/{path:.*}", api.handle)
    app.on_response_prepare.append(add_headers)
    app.on_shutdown.append(api.aclose)
    return app
