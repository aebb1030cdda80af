"""What containers use, sample by sample."""

from contextlib import aclosing
from typing import Final

import msgspec
from aiohttp import web

from scow.api.call import JSON, Call

_LINE: Final = b"\n"


async def stats(call: Call) -> web.StreamResponse:
    """Stream samples, or answer with exactly one object: docker-py decodes the whole body."""
    samples = await call.engine.stats.read(
        call.params["name"],
        stream=call.flag("stream", True),
        one_shot=call.version >= (1, 41) and call.flag("one-shot"),
    )
    async with aclosing(samples), call.stream(JSON) as send:
        async for sample in samples:
            await send(msgspec.json.encode(sample) + _LINE)
    return call.streamed()
