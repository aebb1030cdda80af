"""Serving an attachment over a connection that leaves HTTP."""

import logging

from aiohttp import web

from scow.api import mux
from scow.api.call import Call
from scow.api.hijack import Gone, Hijacked, Taken
from scow.api.interfaces import Attachment
from scow.errors import ScowError

_log = logging.getLogger(__name__)


async def serve_attachment(call: Call, attachment: Attachment, failure_stream: int = mux.STDERR) -> web.StreamResponse:
    """Take the connection over, send the head, and pump until one side ends it."""
    if call.request.transport is None:
        await attachment.run(Gone())  # it is registered with the engine, and this is what ends it
        return Taken()
    client = Hijacked.take_over(call.request)
    client.start(tty=attachment.tty, upgrade=call.upgrade, multiplexed=call.version >= (1, 42))
    try:
        await attachment.run(client)
    except ConnectionError:
        client.abort()
    except ScowError as error:
        # The status went out with the head; all that is left is to say it in the stream.
        _log.debug("%s: %s", call.request.path, error)
        try:
            await client.send([(failure_stream, f"{error}\r\n".encode())])
        except ConnectionError:
            client.abort()
    except BaseException:
        client.abort()
        raise
    await client.finish()
    return Taken()
