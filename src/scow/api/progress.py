"""Serving a stream of messages: one JSON object a line, an error as the last line once the reply has begun."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import msgspec
from aiohttp import web

from scow.api.call import JSON, Call
from scow.api.errors import sentence
from scow.build.runner import CommandFailed
from scow.errors import ScowError
from scow.wire.message import encode
from scow.wire.progress import ErrorDetail, ProgressMessage

_log = logging.getLogger(__name__)


class Messages(Protocol):
    """What the engine has to tell, and goes on telling until it is closed."""

    def __aiter__(self) -> AsyncIterator[Any]:
        """The messages."""

    def aclose(self) -> Awaitable[None]:
        """End the work."""


def progress_failure(error: Exception) -> ProgressMessage:
    """An error as docker's streams end with it."""
    text = sentence(error)
    code = error.code if isinstance(error, CommandFailed) else 0
    return ProgressMessage(error_detail=ErrorDetail(code=code, message=text), error=text)


async def serve_progress(
    call: Call, messages: Messages, failure: Callable[[Exception], msgspec.Struct] = progress_failure
) -> web.StreamResponse:
    """Send each message as it comes. A client that hangs up cancels the work."""
    try:
        async with call.stream(JSON) as send:
            try:
                async for message in messages:
                    await send(encode(message) + b"\r\n")
            except ConnectionError:
                raise
            except Exception as error:
                if not isinstance(error, ScowError):
                    _log.exception("%s failed", call.request.path)
                await send(encode(failure(error)) + b"\r\n")
    finally:
        await messages.aclose()
    return call.streamed()
