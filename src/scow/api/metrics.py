"""The engine's numbers for Prometheus, at /metrics of an address of its own: `metrics-addr` of daemon.json.

Names are dockerd's where it has them, so that its dashboards work.
"""

import logging
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from scow.api.interfaces import EngineApi
from scow.errors import InvalidArgument
from scow.wire.system import Info

_log = logging.getLogger(__name__)

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"


@asynccontextmanager
async def serving(engine: EngineApi, address: str) -> AsyncIterator[str]:
    """Serve at HOST:PORT (port 0: any) meanwhile; gives the address. Raises InvalidArgument, OSError."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise InvalidArgument(f"metrics-addr: {address!r} is not of the form HOST:PORT")

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(body=text(await engine.system.info()).encode(), headers={"Content-Type": TEXT})

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, handle_signals=False, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host.strip("[]") or None, int(port))
        await site.start()
        bound = f"{host}:{runner.addresses[0][1]}"
        _log.info("metrics at http://%s/metrics", bound)
        yield bound
    finally:
        await runner.cleanup()


def text(info: Info) -> str:
    """Everything in Prometheus' text format."""
    return "\n".join(_lines(info)) + "\n"


def _lines(info: Info) -> Iterator[str]:
    states = {"paused": info.containers_paused, "running": info.containers_running, "stopped": info.containers_stopped}
    yield from _head("engine_daemon_container_states_containers", "gauge", "Containers by their state.")
    for state, count in states.items():
        yield f'engine_daemon_container_states_containers{{state="{state}"}} {count}'
    yield from _head("engine_daemon_engine_info", "gauge", "What engine this is; always 1.")
    facts = {
        "architecture": info.architecture,
        "daemon_id": info.id,
        "graphdriver": info.driver,
        "kernel": info.kernel_version,
        "os": info.operating_system,
        "version": info.server_version,
    }
    yield f"engine_daemon_engine_info{{{','.join(f'{name}={_quoted(value)}' for name, value in facts.items())}}} 1"
    usage = resource.getrusage(resource.RUSAGE_SELF)
    for name, kind, about, value in (
        ("engine_daemon_engine_cpus_cpus", "gauge", "Processors of the machine.", info.ncpu),
        ("engine_daemon_engine_memory_bytes", "gauge", "Memory of the machine.", info.mem_total),
        ("scow_engine_images", "gauge", "Images that are kept.", info.images),
        ("scow_engine_event_listeners", "gauge", "Clients that listen to events.", info.n_events_listener),
        ("process_open_fds", "gauge", "Open descriptors of the engine.", info.n_fd),
        ("process_cpu_seconds_total", "counter", "CPU time of the engine.", usage.ru_utime + usage.ru_stime),
        ("process_resident_memory_max_bytes", "gauge", "The most memory it had.", usage.ru_maxrss * 1024),
    ):
        yield from _head(name, kind, about)
        yield f"{name} {value}"


def _head(name: str, kind: str, about: str) -> tuple[str, str]:
    return f"# HELP {name} {about}", f"# TYPE {name} {kind}"


def _quoted(value: str) -> str:
    escaped = value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'"{escaped}"'
