"""What the engine tells about itself, its events, and the endpoints of parts that it doesn't have."""

from typing import Final

from aiohttp import web

from scow.api import query
from scow.api.call import JSON, Call, empty, json_bytes
from scow.api.shims import respond
from scow.errors import InvalidArgument, NotFound, NotSupported, Unavailable
from scow.wire.message import encode
from scow.wire.system import AuthConfig

_PING_HEADERS: Final = {
    "Builder-Version": "1",
    "Swarm": "inactive",
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
    "Content-Type": "text/plain; charset=utf-8",
}


async def ping(call: Call) -> web.StreamResponse:
    if call.request.method == "HEAD":
        return web.Response(headers={**_PING_HEADERS, "Content-Length": "0"})
    return web.Response(body=b"OK", headers=_PING_HEADERS)


async def options(call: Call) -> web.StreamResponse:
    return empty(200)


async def info(call: Call) -> web.StreamResponse:
    return respond("system.info", call.version, await call.engine.system.info())


async def version(call: Call) -> web.StreamResponse:
    return respond("system.version", call.version, await call.engine.system.version())


async def auth(call: Call) -> web.StreamResponse:
    credentials = await call.body_required(AuthConfig)
    return respond("system.auth", call.version, await call.engine.system.auth(credentials))


async def events(call: Call) -> web.StreamResponse:
    since, until = query.timestamp(call.query, "since"), query.timestamp(call.query, "until")
    if since is not None and until is not None and until < since:
        raise InvalidArgument(
            f"`since` time ({call.query['since']}) cannot be after `until` time ({call.query['until']})"
        )
    stream = await call.engine.events.subscribe(since_ns=since, until_ns=until, filters=call.filters())
    try:
        async with call.stream(JSON) as send:
            async for event in stream:
                await send(encode(event) + b"\n")
    finally:
        await stream.aclose()
    return call.streamed()


async def plugins(call: Call) -> web.StreamResponse:
    return json_bytes(b"[]")


async def plugin(call: Call) -> web.StreamResponse:
    raise NotFound(f'plugin "{call.params["name"]}" not found')


async def no_managed_plugins(call: Call) -> web.StreamResponse:
    raise NotSupported(
        "this engine has no managed plugins; volume plugins that serve a socket in /run/docker/plugins work: see "
        "plugin-directories in daemon.json"
    )


async def no_checkpoints(call: Call) -> web.StreamResponse:
    raise NotSupported("checkpoints of containers are not supported by this engine")


async def no_swarm_manager(call: Call) -> web.StreamResponse:
    raise Unavailable(
        'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to '
        "swarm and try again."
    )


async def no_swarm_member(call: Call) -> web.StreamResponse:
    raise Unavailable("This node is not part of a swarm")


async def no_swarm_at_all(call: Call) -> web.StreamResponse:
    raise NotSupported("swarm mode is not supported by this engine")
