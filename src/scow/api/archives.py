"""Containers' files as tar streams: archive and export."""

import base64
from collections.abc import AsyncIterator
from typing import Final

import msgspec
from aiohttp import web

from scow.api.call import Call
from scow.api.interfaces import TarStream
from scow.errors import InvalidArgument
from scow.wire.archive import PathStat

TAR: Final = "application/x-tar"
STAT: Final = "X-Docker-Container-Path-Stat"


async def stat(call: Call) -> web.StreamResponse:
    found = await call.engine.archives.stat(call.params["name"], _path(call))
    return web.Response(headers={STAT: _header(found)})


async def get(call: Call) -> web.StreamResponse:
    return await send_tar(call, await call.engine.archives.get(call.params["name"], _path(call)))


async def put(call: Call) -> web.StreamResponse:
    await call.engine.archives.put(
        call.params["name"],
        _path(call),
        _body(call),
        keep_kinds=call.flag("noOverwriteDirNonDir"),
        own=call.flag("copyUIDGID"),
    )
    return web.Response(status=200)


async def export(call: Call) -> web.StreamResponse:
    return await send_tar(call, await call.engine.archives.export(call.params["name"]), "application/octet-stream")


async def export_volume(call: Call) -> web.StreamResponse:
    return await send_tar(call, await call.engine.archives.export_volume(call.params["name"]))


async def import_volume(call: Call) -> web.StreamResponse:
    await call.engine.archives.import_volume(call.params["name"], _body(call))
    return web.Response(status=200)


async def send_tar(call: Call, stream: TarStream, content_type: str = TAR) -> web.StreamResponse:
    """Send a tar as it comes."""
    try:
        response = web.StreamResponse(headers={"Content-Type": content_type})
        if stream.stat is not None:
            response.headers[STAT] = _header(stream.stat)
        if call.request.version >= (1, 1):
            response.enable_chunked_encoding()
        call.begun = response
        await response.prepare(call.request)
        async for data in stream:
            await response.write(data)
        await stream.aclose()  # nothing of it is left when the client has its end
        await response.write_eof()
        return response
    finally:
        await stream.aclose()


async def _body(call: Call) -> AsyncIterator[bytes]:
    async for data in call.request.content.iter_any():
        yield data


def _path(call: Call) -> str:
    path = call.query.get("path", "")
    if not path:
        raise InvalidArgument("bad parameter: path cannot be empty")
    return path


def _header(stat: PathStat) -> str:
    return base64.b64encode(msgspec.json.encode(stat)).decode()
