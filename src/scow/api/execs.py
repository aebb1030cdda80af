"""The exec endpoints."""

from aiohttp import web

from scow.api import mux, query
from scow.api.attach import serve_attachment
from scow.api.call import Call, empty
from scow.api.hijack import Hijacked, Taken
from scow.api.shims import respond, upgrade_exec_create, upgrade_exec_start
from scow.errors import InvalidArgument, ScowError
from scow.wire.exec import ExecCreateRequest, ExecStartRequest, IdReply
from scow.wire.message import decode


async def create(call: Call) -> web.StreamResponse:
    request = await call.body(ExecCreateRequest)
    if not request.cmd:
        raise InvalidArgument("no exec command specified")
    id = await call.background.finish(
        call.engine.execs.create(call.params["name"], upgrade_exec_create(request, call.version))
    )
    return respond("execs.create", call.version, IdReply(id=id), 201)


async def start(call: Call) -> web.StreamResponse:
    call.check_json()
    if not call.upgrade:
        request = decode(ExecStartRequest, await call.read() or b"{}")
        return await _start(call, request, None)
    # With an upgrade the HTTP parser stops behind the head, so the body is the first of what is taken over.
    client = Hijacked.take_over(call.request)
    try:
        body = await client.read_body(call.request.headers)
        response = await _start(call, decode(ExecStartRequest, body or b"{}"), client)
    except ScowError as error:
        await client.refuse(error)
        await client.finish()
        return Taken()
    if not isinstance(response, Taken):
        await client.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await client.finish()
    return Taken()


async def _start(call: Call, request: ExecStartRequest, client: Hijacked | None) -> web.StreamResponse:
    attachment = await call.engine.execs.start(call.params["id"], upgrade_exec_start(request, call.version))
    if attachment is None:
        return empty(200)
    return await serve_attachment(call, attachment, client, failure_stream=mux.STDOUT)


async def resize(call: Call) -> web.StreamResponse:
    height, width = query.integer(call.query, "h"), query.integer(call.query, "w")
    await call.engine.execs.resize(call.params["id"], height, width)
    return empty(200)


async def inspect(call: Call) -> web.StreamResponse:
    return respond("execs.inspect", call.version, await call.engine.execs.inspect(call.params["id"]))
