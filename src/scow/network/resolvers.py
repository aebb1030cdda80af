"""The DNS servers of all containers that are on a network with names, each in its container's sandbox.

A sandbox's sockets keep it alive, so a server is closed before its container's links are waited for.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from scow.linux import netns
from scow.linux.redirection import redirect
from scow.network.dns.answering import Answering
from scow.network.dns.server import ADDRESS, Server, bind
from scow.network.sandboxes import Sandboxes
from scow.network.state import State
from scow.network.threads import Threads

_log = logging.getLogger(__name__)
_PORT: Final = 53


class Resolvers:
    """Opens and closes the servers, and remembers their ports. Owned by the event loop."""

    def __init__(self, answering: Answering, sandboxes: Sandboxes, state: State, threads: Threads) -> None:
        self._answering = answering
        self._sandboxes = sandboxes
        self._state = state
        self._threads = threads
        self._resolvers: dict[str, _Resolver] = {}

    async def ensure(self, container_id: str, port: int = 0) -> None:
        """Serve a container; `port` is where it was served before. Idempotent. Raises OSError."""
        if container_id in self._resolvers:
            return
        resolver = _Resolver(container_id, self._sandboxes.path(container_id), self._answering, self._threads)
        self._resolvers[container_id] = resolver
        try:
            chosen = await resolver.open(port)
            if chosen != port:
                # Recorded when the rule is there that leads to it: a port on record needs no new one.
                await self._state.put_sandbox(container_id, chosen)
        except BaseException:
            await self.close(container_id)
            raise

    async def resume(self, ports: Mapping[str, int]) -> None:
        """Serve containers again that an earlier engine process served, on their ports."""

        async def again(container_id: str, port: int) -> None:
            path = self._sandboxes.path(container_id)
            try:
                if await self._threads(lambda: netns.is_pinned(path)):  # not after the machine was restarted
                    await self.ensure(container_id, port)
            except OSError as error:
                _log.warning("container %s can't resolve names: %s", container_id, error)

        await asyncio.gather(*(again(container_id, port) for container_id, port in ports.items()))

    async def close(self, container_id: str) -> None:
        """Stop serving a container; one that isn't served is fine."""
        resolver = self._resolvers.pop(container_id, None)
        if resolver is not None:
            await resolver.aclose()
            self._answering.forget(container_id)

    async def aclose(self) -> None:
        """Stop serving all; their rules and ports stay for the engine's next process."""
        for container_id in list(self._resolvers):
            await self.close(container_id)


class _Resolver:
    """One container's server, and the sandbox that it stands in."""

    def __init__(self, container_id: str, path: Path, answering: Answering, threads: Threads) -> None:
        self._path = path
        self._threads = threads
        self._namespace = -1
        self._server = Server(container_id, answering, self._new_socket)

    async def open(self, port: int) -> int:
        """Serve on `port`, to which port 53 is led already, or else on a free one. Return the port. Raises OSError."""

        def prepare() -> tuple[socket.socket, socket.socket]:
            datagrams, stream = bind(port)
            chosen = datagrams.getsockname()[1]
            if chosen != port:
                try:
                    redirect(ADDRESS, _PORT, chosen)
                except BaseException:
                    datagrams.close()
                    stream.close()
                    raise
            return datagrams, stream

        def job() -> tuple[socket.socket, socket.socket]:
            self._namespace = netns.open_pinned(self._path)
            return netns.inside(self._namespace, prepare)

        datagrams, stream = await self._threads(job)
        chosen = int(datagrams.getsockname()[1])
        await self._server.listen(datagrams, stream)
        return chosen

    async def _new_socket(self, family: int, kind: int) -> socket.socket:
        def make() -> socket.socket:
            return socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)

        return await self._threads(lambda: netns.inside(self._namespace, make))

    async def aclose(self) -> None:
        await self._server.aclose()
        if self._namespace >= 0:
            os.close(self._namespace)
            self._namespace = -1
