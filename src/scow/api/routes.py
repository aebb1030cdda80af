"""Which handler answers which method and path."""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from urllib.parse import unquote

from aiohttp import web

from scow.api import (
    archives,
    build,
    containers,
    disk,
    distribution,
    execs,
    image_archives,
    image_making,
    images,
    looking,
    networks,
    pruning,
    stats,
    system,
    volumes,
    websocket,
)
from scow.api.call import Call
from scow.api.errors import PageNotFound

Handler = Callable[[Call], Awaitable[web.StreamResponse]]

_VERSION: Final = re.compile(r"/v([0-9.]+)(/.*)")
_VARIABLE: Final = re.compile(r"\{(\w+)(:\.\*)?\}")

ROUTES: Final[tuple[tuple[str, str, Handler], ...]] = (
    ("GET", "/_ping", system.ping),
    ("HEAD", "/_ping", system.ping),
    ("GET", "/info", system.info),
    ("GET", "/version", system.version),
    ("GET", "/events", system.events),
    ("GET", "/system/df", disk.df),
    ("GET", "/scow/system/df", disk.data_root),
    ("POST", "/scow/system/check", looking.check),
    ("GET", "/scow/images/explore", looking.explore),
    ("GET", "/scow/images/diff", looking.diff),
    ("POST", "/auth", system.auth),
    ("GET", "/containers/json", containers.list_containers),
    ("GET", "/containers/ps", containers.list_containers),
    ("POST", "/containers/create", containers.create),
    ("POST", "/containers/prune", pruning.containers),
    ("POST", "/build", build.build),
    ("POST", "/build/cancel", build.cancel),
    ("POST", "/build/prune", build.prune),
    ("POST", "/scow/build/check", build.check),
    ("POST", "/scow/build/sessions", build.open_session),
    ("POST", "/scow/build/uploads", build.receive),
    ("GET", "/scow/build/caches/{id}", build.cache),
    ("GET", "/scow/build/results/{id}/archives/{number}", build.fetch_archive),
    ("GET", "/scow/build/results/{id}/trees/{number}", build.fetch_trees),
    ("DELETE", "/scow/build/results/{id}", build.forget_result),
    ("POST", "/images/prune", pruning.images),
    ("POST", "/volumes/prune", pruning.volumes),
    ("GET", "/containers/{name}/json", containers.inspect),
    ("GET", "/containers/{name}/top", containers.top),
    ("GET", "/containers/{name}/logs", containers.logs),
    ("POST", "/containers/{name}/start", containers.start),
    ("POST", "/containers/{name}/stop", containers.stop),
    ("POST", "/containers/{name}/restart", containers.restart),
    ("POST", "/containers/{name}/kill", containers.kill),
    ("POST", "/containers/{name}/rename", containers.rename),
    ("POST", "/containers/{name}/pause", containers.pause),
    ("POST", "/containers/{name}/unpause", containers.unpause),
    ("POST", "/containers/{name}/wait", containers.wait),
    ("POST", "/containers/{name}/resize", containers.resize),
    ("POST", "/containers/{name}/attach", containers.attach),
    ("POST", "/containers/{name}/exec", execs.create),
    ("HEAD", "/containers/{name}/archive", archives.stat),
    ("GET", "/containers/{name}/archive", archives.get),
    ("PUT", "/containers/{name}/archive", archives.put),
    ("GET", "/containers/{name}/stats", stats.stats),
    ("GET", "/containers/{name}/changes", containers.changes),
    ("POST", "/containers/{name}/update", containers.update),
    ("GET", "/containers/{name}/attach/ws", websocket.attach),
    ("GET", "/containers/{name}/export", archives.export),
    ("GET", "/containers/{name}/checkpoints", system.no_checkpoints),
    ("POST", "/containers/{name}/checkpoints", system.no_checkpoints),
    ("DELETE", "/containers/{name}/checkpoints/{checkpoint}", system.no_checkpoints),
    ("DELETE", "/containers/{name:.*}", containers.remove),  # `rm --link parent/alias`
    ("GET", "/exec/{id}/json", execs.inspect),
    ("POST", "/exec/{id}/start", execs.start),
    ("POST", "/exec/{id}/resize", execs.resize),
    ("POST", "/commit", image_making.commit),
    ("GET", "/images/json", images.list_images),
    ("POST", "/images/create", images.create),
    ("GET", "/images/search", distribution.search),
    ("GET", "/distribution/{name:.*}/json", distribution.inspect),
    ("GET", "/scow/distribution/{name:.*}/manifest", distribution.manifest),
    ("PUT", "/scow/distribution/{name:.*}/manifest", distribution.put_list),
    ("GET", "/images/get", image_archives.save),
    ("POST", "/images/load", image_archives.load),
    ("GET", "/images/{name:.*}/get", image_archives.save),
    ("GET", "/images/{name:.*}/json", images.inspect),
    ("GET", "/images/{name:.*}/history", images.history),
    ("POST", "/images/{name:.*}/push", images.push),
    ("POST", "/images/{name:.*}/tag", images.tag),
    ("DELETE", "/images/{name:.*}", images.remove),
    ("GET", "/networks", networks.list_networks),
    ("GET", "/networks/", networks.list_networks),
    ("GET", "/networks/{name:.*}", networks.inspect),
    ("POST", "/networks/create", networks.create),
    ("POST", "/networks/prune", networks.prune),
    ("POST", "/networks/{name:.*}/connect", networks.connect),
    ("POST", "/networks/{name:.*}/disconnect", networks.disconnect),
    ("DELETE", "/networks/{name:.*}", networks.remove),
    ("POST", "/scow/networks/reload", networks.reload),
    ("GET", "/scow/volumes/{name}/export", archives.export_volume),
    ("POST", "/scow/volumes/{name}/import", archives.import_volume),
    ("GET", "/volumes", volumes.list_volumes),
    ("POST", "/volumes/create", volumes.create),
    ("GET", "/volumes/{name}", volumes.inspect),
    ("DELETE", "/volumes/{name}", volumes.remove),
    ("PUT", "/volumes/{name}", volumes.update),
    ("GET", "/plugins", system.plugins),
    ("GET", "/plugins/{name:.*}/json", system.plugin),
    ("GET", "/plugins/privileges", system.no_managed_plugins),
    ("POST", "/plugins/{rest:.*}", system.no_managed_plugins),
    ("DELETE", "/plugins/{name:.*}", system.no_managed_plugins),
    ("POST", "/swarm/init", system.no_swarm_at_all),
    ("POST", "/swarm/join", system.no_swarm_at_all),
    ("POST", "/swarm/leave", system.no_swarm_member),
    *(
        (method, path, system.no_swarm_manager)
        for noun in ("swarm", "services", "nodes", "tasks", "secrets", "configs")
        for method in ("GET", "POST", "DELETE")
        for path in (f"/{noun}", f"/{noun}/{{name:.*}}")
    ),
)


class Routes:
    """The table above, indexed: by method and first word of the path, then by pattern in the table's order."""

    def __init__(self, table: tuple[tuple[str, str, Handler], ...] = ROUTES) -> None:
        self._exact: dict[tuple[str, str], Handler] = {}
        self._patterns: dict[tuple[str, str], list[tuple[re.Pattern[str], Handler]]] = {}
        for method, path, handler in table:
            if "{" not in path:
                self._exact[method, path] = handler
                continue
            pattern = _VARIABLE.sub(lambda found: f"(?P<{found[1]}>{'.*' if found[2] else '[^/]+'})", path)
            self._patterns.setdefault((method, path.split("/")[1]), []).append((re.compile(pattern), handler))

    def find(self, method: str, path: str) -> tuple[Handler, Mapping[str, str]]:
        """Give the handler for a path without its version, and the path's variables. Raises PageNotFound."""
        handler = self._exact.get((method, path))
        if handler is not None:
            return handler, {}
        for pattern, handler in self._patterns.get((method, path.split("/", 2)[1]), ()):
            found = pattern.fullmatch(path)
            if found is not None:
                return handler, found.groupdict()
        if method == "OPTIONS":
            return system.options, {}
        raise PageNotFound


def split_version(raw_path: str) -> tuple[str | None, str]:
    """Split a request's path, still escaped, into the API version, if it has one, and the rest, no longer escaped."""
    path = unquote(raw_path.partition("?")[0])
    found = _VERSION.fullmatch(path)
    return (found[1], found[2]) if found else (None, path)
