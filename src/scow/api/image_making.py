"""Images that come to be here: from containers (commit) and from tars (import)."""

from collections.abc import AsyncIterator

from aiohttp import web

from scow.api.call import Call
from scow.api.progress import serve_progress
from scow.api.shims import respond
from scow.wire.container import ContainerConfig
from scow.wire.image import CommitReply, CommitRequest, ImportRequest
from scow.wire.message import decode


async def commit(call: Call) -> web.StreamResponse:
    call.check_json()
    body = await call.read()
    empty = body.strip() in (b"", b"null", b"{}")
    request = CommitRequest(
        container=call.query.get("container", ""),
        repo=call.query.get("repo", ""),
        tag=call.query.get("tag", ""),
        author=call.query.get("author", ""),
        comment=call.query.get("comment", ""),
        pause=call.flag("pause", True) if call.text("pause") else True,
        config=None if empty else decode(ContainerConfig, body),
        changes=call.request.query.getall("changes", []),
    )
    id = await call.background.finish(call.engine.commits.run(request))
    return respond("images.commit", call.version, CommitReply(id=id), 201)


async def import_image(call: Call) -> web.StreamResponse:
    request = ImportRequest(
        source=call.query["fromSrc"],
        repo=call.query.get("repo", ""),
        tag=call.query.get("tag", ""),
        message=call.query.get("message", ""),
        platform=call.query.get("platform", "") if call.version >= (1, 32) else "",
        changes=call.request.query.getall("changes", []),
    )
    return await serve_progress(call, await call.engine.imports.run(request, _body(call)))


async def _body(call: Call) -> AsyncIterator[bytes]:
    async for data in call.request.content.iter_any():
        yield data
