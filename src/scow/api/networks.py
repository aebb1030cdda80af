"""The network endpoints."""

from aiohttp import web

from scow.api.call import Call
from scow.api.shims import respond


async def list_networks(call: Call) -> web.StreamResponse:
    return respond("networks.list", call.version, await call.engine.networks.list(call.filters()))


async def inspect(call: Call) -> web.StreamResponse:
    return respond("networks.inspect", call.version, await call.engine.networks.inspect(call.params["name"]))
