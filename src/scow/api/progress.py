"""Serving a progress stream: one JSON object a line, an error as the last line once the reply has begun."""

import logging

from aiohttp import web

from scow.api.call import JSON, Call
from scow.api.interfaces import ProgressStream
from scow.errors import ScowError
from scow.wire.message import encode
from scow.wire.progress import ErrorDetail, ProgressMessage

_log = logging.getLogger(__name__)


async def serve_progress(call: Call, progress: ProgressStream) -> web.StreamResponse:
    """Send each message as it comes. A client that hangs up cancels the work."""
    try:
        async with call.stream(JSON) as send:
            try:
                async for message in progress:
                    await send(encode(message) + b"\r\n")
            except ConnectionError:
                raise
            except Exception as error:
                if not isinstance(error, ScowError):
                    _log.exception("%s failed", call.request.path)
                failure = ProgressMessage(error_detail=ErrorDetail(message=str(error)), error=str(error))
                await send(encode(failure) + b"\r\n")
    finally:
        await progress.aclose()
    return call.streamed()
