"""Scow's own endpoints that look into images, and check what the engine keeps. No other engine has them."""

from aiohttp import web

from scow.api.call import Call, json_bytes
from scow.api.errors import sentence
from scow.api.progress import serve_progress
from scow.errors import InvalidArgument
from scow.wire.check import CheckMessage


async def explore(call: Call) -> web.StreamResponse:
    """What each layer of `image` changes and wastes; with `files=1` path by path."""
    return json_bytes(await call.engine.exploring.explore(_needed(call, "image"), files=call.flag("files")))


async def diff(call: Call) -> web.StreamResponse:
    """How the image `to` differs from the image `from`; with `times=1` in times of modification, too."""
    return json_bytes(
        await call.engine.exploring.diff(_needed(call, "from"), _needed(call, "to"), times=call.flag("times"))
    )


async def check(call: Call) -> web.StreamResponse:
    """Check everything that the engine keeps, one JSON object a line; with `repair=1` put right what can be."""
    auth = call.request.headers.get("X-Registry-Config")
    messages = await call.engine.checking.run(repair=call.flag("repair"), auth=auth)
    return await serve_progress(call, messages, lambda error: CheckMessage(error=sentence(error)))


def _needed(call: Call, name: str) -> str:
    text = call.text(name)
    if text is None:
        raise InvalidArgument(f"the parameter {name} is needed")
    return text
