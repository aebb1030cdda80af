"""What one process does that serves: a registry and its server, and, where it is alone, what follows them at SIGHUP.

Several processes are replaced by their `supervisor`, one by one. One alone replaces what it has: the registry of the
new settings is opened beside the old one and takes what comes, and the old one ends when its requests have.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable

from scow.registry.connections import quieten
from scow.registry.metrics import Metrics
from scow.registry.os_errors import sentence
from scow.registry.registry import Registry
from scow.registry.server import Server, listen, url_of
from scow.registry.settings import Settings
from scow.registry.shared import SharedTable
from scow.registry.supervisor import Post, check_replaceable
from scow.registry.upstream.relay import RelayClient, RelayServer

_ENDING = (signal.SIGTERM, signal.SIGINT)

log = logging.getLogger("scow.registry")


class Service:
    """A registry that is served. Whoever started it closes it."""

    def __init__(self, registry: Registry, server: Server, relay: RelayServer | None = None) -> None:
        self._registry = registry
        self._server = server
        self._relay = relay

    async def start(self, listener: socket.socket) -> None:
        """Serve on a socket, which is closed in the end. Raises SettingsInvalid; it is to be closed then, too."""
        if self._relay is not None:
            await self._relay.start()
        await self._server.start(listener)

    async def aclose(self) -> None:
        """Take nothing new, finish what is in flight within the drain time, and close."""
        await self._server.aclose()
        if self._relay is not None:
            await self._relay.aclose()
        await self._registry.aclose()


async def work(post: Post) -> int:
    """Be one of several workers until SIGTERM, or until the supervisor is gone."""
    settings, holds_cache = post.settings, post.number == 0
    relay = RelayClient(post.relay) if not holds_cache else None
    registry = Registry.open(settings, post.metrics, post.failures, relay)
    server = Server(registry, settings, collects=post.number == 0, buckets=post.buckets)
    service = Service(registry, server, RelayServer(post.relay, registry.answer_relayed) if holds_cache else None)
    ending = asyncio.Event()
    loop = asyncio.get_running_loop()
    quieten(loop)
    for number in _ENDING:
        loop.add_signal_handler(number, ending.set)
    loop.add_reader(post.lifeline, ending.set)
    try:
        await service.start(post.listener)
        post.tell_ready()
        await ending.wait()
    finally:
        loop.remove_reader(post.lifeline)
        await service.aclose()
    return 0


class Lone:
    """The only process that serves."""

    def __init__(self, settings: Settings, reread: Callable[[], Settings]) -> None:
        self._settings = settings
        self._reread = reread
        # As long as the process lives: new settings forgive nobody, and counters never go back.
        self._metrics = Metrics()
        self._buckets, self._failures = SharedTable(), SharedTable()
        self._leaving: set[asyncio.Task[None]] = set()

    async def run(self, on_ready: Callable[[str], None]) -> int:
        """Serve until SIGTERM or SIGINT; SIGHUP reads the settings anew. Raises CannotListen and SettingsInvalid."""
        told: asyncio.Queue[int] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        quieten(loop)
        for number in (*_ENDING, signal.SIGHUP):
            loop.add_signal_handler(number, told.put_nowait, number)
        with listen(self._settings) as listener:
            current = await self._started(self._open(self._settings), listener)
            try:
                on_ready(url_of(listener, self._settings))
                while await told.get() == signal.SIGHUP:
                    current = await self._follow(current, listener)
            finally:
                await asyncio.gather(current.aclose(), *self._leaving)
        return 0

    def _open(self, settings: Settings) -> Service:
        registry = Registry.open(settings, self._metrics, self._failures)
        return Service(registry, Server(registry, settings, buckets=self._buckets))

    async def _started(self, service: Service, listener: socket.socket) -> Service:
        own = listener.dup()
        try:
            await service.start(own)
        except BaseException:
            own.close()
            await service.aclose()
            raise
        return service

    async def _follow(self, current: Service, listener: socket.socket) -> Service:
        """Serve with new settings; what serves from now on, which is `current` if they can't be used."""
        try:
            settings = await asyncio.to_thread(self._reread)
            check_replaceable(self._settings, settings)
            following = await self._started(await asyncio.to_thread(self._open, settings), listener)
        except Exception as error:
            log.error("the settings are kept as they were: %s", sentence(error))
            return current
        self._settings = settings
        leaving = asyncio.create_task(current.aclose())
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
        log.info("the settings were read anew")
        return following
