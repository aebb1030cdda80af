"""The prune endpoints."""

from aiohttp import web

from scow.api.call import Call
from scow.api.shims import respond


async def containers(call: Call) -> web.StreamResponse:
    reply = await call.background.finish(call.engine.pruning.containers(call.filters()))
    return respond("containers.prune", call.version, reply)


async def images(call: Call) -> web.StreamResponse:
    reply = await call.background.finish(call.engine.pruning.images(call.filters()))
    return respond("images.prune", call.version, reply)


async def volumes(call: Call) -> web.StreamResponse:
    # Before 1.42 a prune took volumes with names too.
    named = call.version < (1, 42)
    reply = await call.background.finish(call.engine.pruning.volumes(call.filters(), named=named))
    return respond("volumes.prune", call.version, reply)
