"""The build endpoints."""

import json
from typing import Any, Final

import msgspec
from aiohttp import web

from scow.api.archives import send_tar
from scow.api.call import Call, empty, json_bytes
from scow.api.image_archives import send_archive
from scow.api.progress import serve_progress
from scow.errors import InvalidArgument, ScowError
from scow.wire.build import BuildRequest, CacheRoom, SessionReply, SessionRequest
from scow.wire.host_config import Ulimit
from scow.wire.message import decode, encode

_TAR_TYPES: Final = ("application/x-tar", "application/tar", "application/octet-stream", "")


async def build(call: Call) -> web.StreamResponse:
    """Build an image of the context in the body. Nothing is answered before the context has come: clients that send
    with one hand and don't listen with the other would wait for ever."""
    return await _build(call, _request(call))


async def _build(call: Call, request: BuildRequest) -> web.StreamResponse:
    declared = call.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if not request.remote and declared not in _TAR_TYPES:
        raise InvalidArgument(f"Content-Type specified ({declared}) must be 'application/x-tar'")
    config = call.request.headers.get("X-Registry-Config")
    progress = await call.engine.builds.build(request, call.request.content.iter_any(), config)
    return await serve_progress(call, progress)


async def check(call: Call) -> web.StreamResponse:
    """Check the Dockerfile of the context in the body, or tell what it offers; parameters are those of a build."""
    return await _build(call, msgspec.structs.replace(_request(call), check=True))


async def open_session(call: Call) -> web.StreamResponse:
    id = await call.engine.builds.sessions.open(await call.body_required(SessionRequest))
    return json_bytes(encode(SessionReply(id=id)), 201)


async def receive(call: Call) -> web.StreamResponse:
    """Take an archive that a build will name: files of a named context, or a cache as an OCI layout."""
    id = await call.engine.builds.sessions.receive(call.request.content.iter_any())
    return json_bytes(encode(SessionReply(id=id)), 201)


async def cache(call: Call) -> web.StreamResponse:
    """Send the cache that a build left under a name of the client's, as an OCI layout."""
    return await send_archive(call, await call.engine.builds.sessions.cache(call.params["id"]))


async def fetch_archive(call: Call) -> web.StreamResponse:
    id, number = call.params["id"], _number(call)
    return await send_archive(call, await call.engine.builds.results.archive(id, number))


async def fetch_trees(call: Call) -> web.StreamResponse:
    return await send_tar(call, await call.engine.builds.results.trees(call.params["id"], _number(call)))


async def forget_result(call: Call) -> web.StreamResponse:
    call.engine.builds.results.forget(call.params["id"])
    return empty(204)


async def prune(call: Call) -> web.StreamResponse:
    room = CacheRoom(
        reserved=max(_integer(call, name) for name in ("keep-storage", "reserved-space")),
        most=_integer(call, "max-used-space"),
        free=_integer(call, "min-free-space"),
    )
    usage = call.engine.builds.usage
    reply = await call.background.finish(usage.prune(call.filters(), all=call.flag("all"), room=room))
    return json_bytes(
        json.dumps({"CachesDeleted": reply.caches_deleted, "SpaceReclaimed": reply.space_reclaimed}).encode()
    )


async def cancel(call: Call) -> web.StreamResponse:
    id = call.text("id")
    if id is None:
        raise InvalidArgument("build ID not provided")
    call.engine.builds.cancel(id)
    return empty(204)


def _request(call: Call) -> BuildRequest:
    values = call.request.query
    return BuildRequest(
        tags=tuple(name for name in values.getall("t", []) if name),
        dockerfile=values.get("dockerfile", ""),
        remote=values.get("remote", ""),
        quiet=call.flag("q"),
        no_cache=call.flag("nocache"),
        cache_from=tuple(_json(call, "cachefrom", list[str]) or ()),
        cache_to=tuple(_json(call, "cacheto", list[str]) or ()),
        contexts=_json(call, "buildcontexts", dict[str, str]),
        pull=call.flag("pull"),
        remove=call.flag("rm", True),
        force_remove=call.flag("forcerm"),
        memory=_integer(call, "memory"),
        memory_swap=_integer(call, "memswap"),
        cpu_shares=_integer(call, "cpushares"),
        cpuset_cpus=values.get("cpusetcpus", ""),
        cpuset_mems=values.get("cpusetmems", ""),
        cpu_period=_integer(call, "cpuperiod"),
        cpu_quota=_integer(call, "cpuquota"),
        build_args=_json(call, "buildargs", dict[str, str | None]),
        shm_size=_integer(call, "shmsize"),
        squash=call.flag("squash"),
        labels=_json(call, "labels", dict[str, str]),
        network_mode=values.get("networkmode", ""),
        extra_hosts=tuple(each for value in values.getall("extrahosts", []) for each in _hosts(value)),
        ulimits=tuple(_json(call, "ulimits", list[Ulimit]) or ()),
        cgroup_parent=values.get("cgroupparent", ""),
        security_opt=tuple(values.getall("securityopt", [])),
        platform=",".join(values.getall("platform", [])),
        target=values.get("target", ""),
        build_id=values.get("buildid", ""),
        session=values.get("session", "") if values.get("remote") != "client-session" else "",
        no_cache_filter=tuple(values.getall("nocachefilter", [])),
        allow=tuple(values.getall("allow", [])),
        call=values.get("call", ""),
        outputs=tuple(_json(call, "outputs", list[dict[str, Any]]) or ()),
        attestations=tuple(values.getall("attest", [])),
        annotations=tuple(values.getall("annotation", [])),
        trace=call.flag("trace"),
        metadata=call.flag("metadata"),
    )


def _hosts(text: str) -> list[str]:
    """One `name:address`, or several in one value as docker-py sends them."""
    if text.startswith("["):
        return [str(each) for each in json.loads(text)]
    return [each for each in text.replace(",", " ").split() if each]


def _json(call: Call, name: str, kind: Any) -> Any:
    text = call.text(name)
    if text is None or text == "null":  # docker's client 20.10 sends null for what nobody asked for
        return None
    try:
        return decode(kind, text.encode())
    except (ScowError, msgspec.DecodeError) as error:
        raise InvalidArgument(f"error reading {name}: {error}") from error


def _number(call: Call) -> int:
    text = call.params["number"]
    return int(text) if text.isascii() and text.isdigit() and len(text) < 4 else -1


def _integer(call: Call, name: str) -> int:
    text = call.text(name)
    if text is None:
        return 0
    try:
        return int(text)
    except ValueError:
        raise InvalidArgument(f"invalid value for {name}: {text!r}") from None
