"""The volume endpoints."""

from aiohttp import web

from scow.api.call import Call, no_content
from scow.api.shims import respond
from scow.errors import Unavailable
from scow.wire.volume import VolumeCreateRequest


async def list_volumes(call: Call) -> web.StreamResponse:
    volumes = await call.engine.volumes.list(call.filters())
    return respond("volumes.list", call.version, volumes)


async def inspect(call: Call) -> web.StreamResponse:
    return respond("volumes.inspect", call.version, await call.engine.volumes.inspect(call.params["name"]))


async def create(call: Call) -> web.StreamResponse:
    request = await call.body(VolumeCreateRequest)
    volume = await call.background.finish(call.engine.volumes.create(request))
    return respond("volumes.create", call.version, volume, 201)


async def update(call: Call) -> web.StreamResponse:
    raise Unavailable("volume update only valid for cluster volumes, but swarm is unavailable")


async def remove(call: Call) -> web.StreamResponse:
    await call.background.finish(call.engine.volumes.remove(call.params["name"], force=call.flag("force")))
    return no_content()
