"""The exec endpoints."""

from aiohttp import web

from scow.api import mux, query
from scow.api.attach import serve_attachment
from scow.api.call import Call, empty
from scow.api.shims import respond, upgrade_exec_create, upgrade_exec_start
from scow.errors import InvalidArgument
from scow.wire.exec import ExecCreateRequest, ExecStartRequest, IdReply


async def create(call: Call) -> web.StreamResponse:
    request = await call.body(ExecCreateRequest)
    if not request.cmd:
        raise InvalidArgument("no exec command specified")
    id = await call.background.finish(
        call.engine.execs.create(call.params["name"], upgrade_exec_create(request, call.version))
    )
    return respond("execs.create", call.version, IdReply(id=id), 201)


async def start(call: Call) -> web.StreamResponse:
    request = await call.body(ExecStartRequest)
    attachment = await call.engine.execs.start(call.params["id"], upgrade_exec_start(request, call.version))
    if attachment is None:
        return empty(200)
    return await serve_attachment(call, attachment, failure_stream=mux.STDOUT)


async def resize(call: Call) -> web.StreamResponse:
    height, width = query.integer(call.query, "h"), query.integer(call.query, "w")
    await call.engine.execs.resize(call.params["id"], height, width)
    return empty(200)


async def inspect(call: Call) -> web.StreamResponse:
    return respond("execs.inspect", call.version, await call.engine.execs.inspect(call.params["id"]))
