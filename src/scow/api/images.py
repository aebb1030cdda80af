"""The image endpoints."""

from aiohttp import web

from scow.api.call import Call, empty
from scow.api.image_archives import decode_platforms, platform_of
from scow.api.image_making import import_image
from scow.api.progress import serve_progress
from scow.api.shims import respond
from scow.errors import InvalidArgument
from scow.oci.platform import Platform


async def list_images(call: Call) -> web.StreamResponse:
    filters = call.filters()
    if call.version < (1, 41) and (pattern := call.text("filter")):
        filters.setdefault("reference", []).append(pattern)
    summaries = await call.engine.images.list(
        manifests=call.version >= (1, 47) and call.flag("manifests"),
        all=call.flag("all"),
        digests=call.flag("digests"),
        shared_size=call.version >= (1, 42) and call.flag("shared-size"),
        filters=filters,
    )
    return respond("images.list", call.version, summaries)


async def inspect(call: Call) -> web.StreamResponse:
    platform = platform_of(call, (1, 49))
    manifests = call.version >= (1, 48) and call.flag("manifests")
    if platform is not None and manifests:
        raise InvalidArgument("conflicting options: manifests and platform options cannot both be set")
    found = await call.engine.images.inspect(call.params["name"], platform=platform, manifests=manifests)
    # docker-compose 1.x speaks the newest version that there is, and needs a field that went with 1.45.
    old_compose = call.request.headers.get("User-Agent", "").startswith("docker-compose/1.")
    return respond("images.inspect", min(call.version, (1, 44)) if old_compose else call.version, found)


async def history(call: Call) -> web.StreamResponse:
    items = await call.engine.images.history(call.params["name"], platform_of(call, (1, 48)))
    return respond("images.history", call.version, items)


async def create(call: Call) -> web.StreamResponse:
    """Pull (`fromImage`), or import a root file system (`fromSrc`)."""
    from_image = call.text("fromImage")
    if from_image is None:
        if call.text("fromSrc"):
            return await import_image(call)
        raise InvalidArgument("fromImage or fromSrc is required")
    platform = call.text("platform") if call.version >= (1, 32) else None
    auth = call.request.headers.get("X-Registry-Auth")
    progress = await call.engine.images.pull(
        from_image, call.text("tag"), platform, auth, every_platform=call.flag("allPlatforms")
    )
    return await serve_progress(call, progress)


async def push(call: Call) -> web.StreamResponse:
    auth = call.request.headers.get("X-Registry-Auth")
    platform = platform_of(call, (1, 46))
    progress = await call.engine.images.push(call.params["name"], call.text("tag"), auth, platform)
    return await serve_progress(call, progress)


async def tag(call: Call) -> web.StreamResponse:
    await call.background.finish(
        call.engine.images.tag(call.params["name"], call.query.get("repo", ""), call.query.get("tag", ""))
    )
    return empty(201)


async def remove(call: Call) -> web.StreamResponse:
    name = call.params["name"]
    if not name.strip():
        raise InvalidArgument("image name cannot be blank")
    platforms: list[Platform] = []
    if call.version >= (1, 50):
        # One JSON object, or a list of them, in each of any number of parameters: clients differ.
        for text in call.request.query.getall("platforms", []):
            platforms += decode_platforms(text)
    deleted = await call.background.finish(
        call.engine.images.remove(name, force=call.flag("force"), prune=not call.flag("noprune"), platforms=platforms)
    )
    return respond("images.remove", call.version, deleted)
