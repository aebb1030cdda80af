"""The container endpoints."""

import logging
from typing import Final

from aiohttp import web
from msgspec.structs import replace

from scow.api import mux, query
from scow.api.attach import serve_attachment
from scow.api.call import JSON, Call, empty, no_content, not_modified
from scow.api.errors import Prefixed
from scow.api.hijack import MULTIPLEXED_STREAM, RAW_STREAM
from scow.api.shims import respond, upgrade_create
from scow.errors import InvalidArgument, NotSupported, ScowError
from scow.wire.container import CreateRequest, UpdateRequest
from scow.wire.message import encode

_log = logging.getLogger(__name__)

_CONDITIONS: Final = frozenset({"not-running", "next-exit", "removed"})


async def list_containers(call: Call) -> web.StreamResponse:
    limit = query.optional_integer(call.query, "limit")
    filters = call.filters()
    for name in ("since", "before"):  # of clients from before there were filters
        if value := call.text(name):
            filters.setdefault(name, []).append(value)
    summaries = await call.engine.containers.list(
        all=call.flag("all"),
        limit=limit if limit is not None and limit > 0 else None,
        size=call.flag("size"),
        filters=filters,
    )
    return respond("containers.list", call.version, summaries)


async def create(call: Call) -> web.StreamResponse:
    request = await call.body_required(CreateRequest)
    if request == CreateRequest(host_config=request.host_config, networking_config=request.networking_config):
        raise InvalidArgument("config cannot be empty in order to create a container")
    platform = call.text("platform") if call.version >= (1, 41) else None
    reply = await call.background.finish(
        call.engine.containers.create(upgrade_create(request, call.version), call.text("name"), platform)
    )
    return respond("containers.create", call.version, reply, 201)


async def inspect(call: Call) -> web.StreamResponse:
    reply = await call.engine.containers.inspect(call.params["name"], call.flag("size"))
    return respond("containers.inspect", call.version, reply)


async def start(call: Call) -> web.StreamResponse:
    length = call.request.content_length
    if "Transfer-Encoding" in call.request.headers or (length is not None and length > 7):
        raise InvalidArgument(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24"
        )
    if call.text("checkpoint"):
        raise NotSupported("checkpoints of containers are not supported by this engine")
    started = await call.background.finish(call.engine.containers.start(call.params["name"]))
    return no_content() if started else not_modified()


async def stop(call: Call) -> web.StreamResponse:
    timeout_s = query.optional_integer(call.query, "t")
    signal = call.text("signal") if call.version >= (1, 42) else None
    stopped = await call.background.finish(call.engine.containers.stop(call.params["name"], timeout_s, signal))
    return no_content() if stopped else not_modified()


async def restart(call: Call) -> web.StreamResponse:
    timeout_s = query.optional_integer(call.query, "t")
    signal = call.text("signal") if call.version >= (1, 42) else None
    await call.background.finish(call.engine.containers.restart(call.params["name"], timeout_s, signal))
    return no_content()


async def kill(call: Call) -> web.StreamResponse:
    ref = call.params["name"]
    try:
        await call.background.finish(call.engine.containers.kill(ref, call.text("signal")))
    except ScowError as error:
        if str(error).startswith("cannot kill container"):
            raise
        raise Prefixed(f"cannot kill container: {ref}", error) from error
    return no_content()


async def rename(call: Call) -> web.StreamResponse:
    await call.background.finish(call.engine.containers.rename(call.params["name"], call.query.get("name", "")))
    return no_content()


async def remove(call: Call) -> web.StreamResponse:
    await call.background.finish(
        call.engine.containers.remove(
            call.params["name"], force=call.flag("force"), volumes=call.flag("v"), link=call.flag("link")
        )
    )
    return no_content()


async def pause(call: Call) -> web.StreamResponse:
    await call.background.finish(call.engine.containers.pause(call.params["name"]))
    return no_content()


async def unpause(call: Call) -> web.StreamResponse:
    await call.background.finish(call.engine.containers.unpause(call.params["name"]))
    return no_content()


async def resize(call: Call) -> web.StreamResponse:
    height, width = query.integer(call.query, "h"), query.integer(call.query, "w")
    await call.engine.containers.resize(call.params["name"], height, width)
    return empty(200)


async def top(call: Call) -> web.StreamResponse:
    reply = await call.engine.containers.top(call.params["name"], call.query.get("ps_args", ""))
    return respond("containers.top", call.version, reply)


async def changes(call: Call) -> web.StreamResponse:
    found = await call.engine.changes.of(call.params["name"])
    return respond("containers.changes", call.version, found or None)


async def update(call: Call) -> web.StreamResponse:
    request = await call.body_required(UpdateRequest)
    if call.version < (1, 40):
        request = replace(request, pids_limit=None)
    if call.version >= (1, 42):
        request = replace(request, kernel_memory=0)
    reply = await call.background.finish(call.engine.updates.update(call.params["name"], request))
    return respond("containers.update", call.version, reply)


async def wait(call: Call) -> web.StreamResponse:
    """Answer with headers at once and the exit code later: `docker run` starts the container between the two."""
    condition = "not-running"
    if call.version >= (1, 30):
        condition = call.text("condition") or condition
        if condition not in _CONDITIONS:
            raise InvalidArgument(f'invalid condition: "{condition}"')
    waiter = await call.engine.containers.waiter(call.params["name"], condition)
    if call.version < (1, 30):
        return respond("containers.wait", call.version, await waiter.result())
    async with call.stream(JSON) as send:
        reply = await waiter.result()
        # Before 1.34 the one way to tell that the removal failed was to say nothing.
        if not (condition == "removed" and call.version < (1, 34) and reply.error is not None):
            await send(encode(reply) + b"\n")
    return call.streamed()


async def logs(call: Call) -> web.StreamResponse:
    stdout, stderr = call.flag("stdout"), call.flag("stderr")
    if not (stdout or stderr):
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    tail = call.query.get("tail", "")
    log = await call.engine.containers.logs(
        call.params["name"],
        stdout=stdout,
        stderr=stderr,
        follow=call.flag("follow"),
        tail=int(tail) if tail.isascii() and tail.isdigit() else None,
        since_ns=query.timestamp(call.query, "since"),
        until_ns=query.timestamp(call.query, "until"),
        timestamps=call.flag("timestamps"),
        details=call.flag("details"),
    )
    join = mux.raw if log.tty else mux.frame
    kind = MULTIPLEXED_STREAM if not log.tty and call.version >= (1, 42) else RAW_STREAM
    try:
        async with call.stream(kind) as send:
            try:
                async for chunks in log:
                    if chunks:
                        await send(join(chunks))
            except ScowError as error:
                _log.warning("log of %s: %s", call.params["name"], error)
                await send(join([(mux.SYSTEM_ERROR, f"Error grabbing logs: {error}\n".encode())]))
    finally:
        await log.aclose()
    return call.streamed()


async def attach(call: Call) -> web.StreamResponse:
    attachment = await call.engine.containers.attachment(
        call.params["name"],
        stdin=call.flag("stdin"),
        stdout=call.flag("stdout"),
        stderr=call.flag("stderr"),
        stream=call.flag("stream"),
        logs=call.flag("logs"),
        detach_keys=call.text("detachKeys"),
    )
    return await serve_attachment(call, attachment)
