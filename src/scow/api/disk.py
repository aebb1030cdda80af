"""What the engine keeps on disk."""

from aiohttp import web

from scow.api.call import Call, json_bytes
from scow.api.shims import respond
from scow.wire.message import encode


async def df(call: Call) -> web.StreamResponse:
    types = call.request.query.getall("type", []) if call.version >= (1, 42) else []
    return respond("system.df", call.version, await call.engine.disk.df(types))


async def data_root(call: Call) -> web.StreamResponse:
    """Every byte under the data root. Scow's own: no other engine has it."""
    return json_bytes(encode(await call.engine.disk.data_root()))
