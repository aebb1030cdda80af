"""Images as archives: save and load."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec
from aiohttp import web

from scow.api.call import Call
from scow.api.interfaces import SavedArchive
from scow.api.progress import serve_progress
from scow.api.tls import TlsTransport
from scow.errors import InvalidArgument
from scow.oci.platform import Platform, normalize

PIECE: Final = 1 << 20
"""Bytes of a file that are encrypted at once: what the kernel can't do by itself."""


async def save(call: Call) -> web.StreamResponse:
    refs = [call.params["name"]] if "name" in call.params else call.request.query.getall("names", [])
    return await send_archive(call, await call.engine.image_archives.save(refs, platform_of(call, (1, 48))))


async def load(call: Call) -> web.StreamResponse:
    quiet = call.flag("quiet", default=True)
    progress = await call.engine.image_archives.load(_body(call), quiet=quiet, platform=platform_of(call, (1, 48)))
    return await serve_progress(call, progress)


def platform_of(call: Call, since: tuple[int, int], name: str = "platform") -> Platform | None:
    """A platform as JSON. Older versions of the API don't have the parameter. Raises InvalidArgument."""
    text = call.text(name)
    if text is None or call.version < since:
        return None
    return decode_platform(text)


def decode_platform(text: str) -> Platform:
    """Read a platform's JSON. Raises InvalidArgument."""
    platforms = decode_platforms(text)
    if len(platforms) != 1:
        raise InvalidArgument("failed to parse platform: specify one")
    return platforms[0]


def decode_platforms(text: str) -> list[Platform]:
    """Read a platform's JSON, or that of a list of them. Raises InvalidArgument."""
    try:
        found = msgspec.json.decode(text, type=Platform | list[Platform])
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"failed to parse platform: {error}") from error
    platforms = found if isinstance(found, list) else [found]
    if not all(platform.os and platform.architecture for platform in platforms):
        raise InvalidArgument("both OS and Architecture must be provided")
    return [normalize(platform) for platform in platforms]


async def send_archive(call: Call, archive: SavedArchive) -> web.StreamResponse:
    """Send headers as bytes and files by sendfile; the kernel copies them."""
    try:
        response = web.StreamResponse(headers={"Content-Type": "application/x-tar"})
        response.content_length = archive.size
        call.begun = response
        await response.prepare(call.request)
        for part in archive.parts:
            if isinstance(part, bytes):
                if part:
                    await response.write(part)
                continue
            path, size = part
            if size:
                file = await asyncio.to_thread(Path.open, path, "rb")
                try:
                    await _send_file(call, response, file, size)
                finally:
                    await asyncio.to_thread(file.close)
        await archive.aclose()
        await response.write_eof()
        return response
    finally:
        await archive.aclose()


async def _send_file(call: Call, response: web.StreamResponse, file: BinaryIO, size: int) -> None:
    transport = call.request.transport
    if transport is None:
        raise ConnectionResetError("the client is gone")
    if not isinstance(transport, TlsTransport):
        await asyncio.get_running_loop().sendfile(transport, file, 0, size)
        return
    while data := await asyncio.to_thread(file.read, PIECE):
        await response.write(data)


async def _body(call: Call) -> AsyncIterator[bytes]:
    async for data in call.request.content.iter_any():
        yield data
