"""The network endpoints."""

from aiohttp import web

from scow.api.call import Call, empty, no_content
from scow.api.shims import respond
from scow.errors import InvalidArgument
from scow.wire.network import ConnectRequest, DisconnectRequest, NetworkCreateRequest


async def list_networks(call: Call) -> web.StreamResponse:
    return respond("networks.list", call.version, await call.engine.networks.list(call.filters()))


async def inspect(call: Call) -> web.StreamResponse:
    verbose = call.query.get("verbose", "")
    if verbose.lower() not in ("", "1", "t", "true", "0", "f", "false"):
        reason = f'strconv.ParseBool: parsing "{verbose}": invalid syntax'
        raise InvalidArgument(f"invalid value for verbose: {verbose}: {reason}")
    found = await call.engine.networks.inspect(call.params["name"], call.query.get("scope", ""))
    return respond("networks.inspect", call.version, found)


async def create(call: Call) -> web.StreamResponse:
    request = await call.body_required(NetworkCreateRequest)
    return respond("networks.create", call.version, await call.engine.networks.create(request), 201)


async def remove(call: Call) -> web.StreamResponse:
    await call.engine.networks.remove(call.params["name"])
    return no_content()


async def connect(call: Call) -> web.StreamResponse:
    await call.engine.networks.connect(call.params["name"], await call.body_required(ConnectRequest))
    return empty(200)


async def disconnect(call: Call) -> web.StreamResponse:
    await call.engine.networks.disconnect(call.params["name"], await call.body_required(DisconnectRequest))
    return empty(200)


async def prune(call: Call) -> web.StreamResponse:
    return respond("networks.prune", call.version, await call.engine.networks.prune(call.filters()))


async def reload(call: Call) -> web.StreamResponse:
    """Write the firewall's rules again. Scow's own: no other engine has it."""
    await call.engine.networks.reload()
    return no_content()
