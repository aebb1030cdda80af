"""What registries say, on a client's behalf."""

from aiohttp import web

from scow.api.call import Call
from scow.api.query import optional_integer
from scow.api.shims import respond
from scow.errors import InvalidArgument


async def inspect(call: Call) -> web.StreamResponse:
    found = await call.engine.distribution.inspect(call.params["name"], _auth(call))
    return respond("distribution.inspect", call.version, found)


async def manifest(call: Call) -> web.StreamResponse:
    descriptor, data = await call.engine.distribution.manifest(call.params["name"], _auth(call))
    headers = {"Content-Type": descriptor.media_type, "Docker-Content-Digest": descriptor.digest}
    return web.Response(body=data, headers=headers)


async def put_list(call: Call) -> web.StreamResponse:
    data = await call.read()
    digest = await call.engine.distribution.put_list(
        call.params["name"], data, call.request.content_type, call.request.query.getall("from", []), _auth(call)
    )
    return web.Response(status=201, headers={"Docker-Content-Digest": digest})


async def search(call: Call) -> web.StreamResponse:
    term = call.text("term")
    if term is None:
        raise InvalidArgument("term is required")
    limit = optional_integer(call.query, "limit") or 0
    found = await call.engine.distribution.search(term, limit, call.filters(), _auth(call))
    return respond("images.search", call.version, found)


def _auth(call: Call) -> str | None:
    return call.request.headers.get("X-Registry-Auth")
