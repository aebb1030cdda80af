"""Samples of what containers use. Engine API, GET /containers/{id}/stats."""

import asyncio
from collections.abc import AsyncGenerator

from msgspec import UNSET

from scow.engine.container import Container, ContainerTable
from scow.engine.record import now_ns
from scow.engine.resources import Resources
from scow.errors import InvalidArgument
from scow.runtime import stats
from scow.runtime.monitor import NoSuchRun
from scow.wire.stats import CpuStats, Stats
from scow.wire.times import NEVER, format_time

INTERVAL_S = 1.0


class StatsReader:
    """Reads containers' counters when somebody asks."""

    def __init__(self, table: ContainerTable, resources: Resources) -> None:
        self._table = table
        self._resources = resources

    async def read(self, ref: str, *, stream: bool, one_shot: bool) -> AsyncGenerator[Stats, None]:
        """Samples, one a second: for ever with `stream`, until the container is removed; else exactly one.

        A single one comes after a second, with the CPU time of before to compare with, unless `one_shot`. A container
        that doesn't run has empty ones. Raises NoSuchContainer, InvalidArgument.
        """
        container = self._table.get(ref)
        if stream and one_shot:
            raise InvalidArgument("cannot have stream=true and one-shot=true")
        return self._stream(container) if stream else self._one(container, one_shot=one_shot)

    async def _one(self, container: Container, *, one_shot: bool) -> AsyncGenerator[Stats, None]:
        first = await self._sample(container, None)
        if not one_shot and first.read != NEVER and not await self._gone(container):
            first = await self._sample(container, first)
        yield first

    async def _stream(self, container: Container) -> AsyncGenerator[Stats, None]:
        previous: Stats | None = None
        while True:
            previous = await self._sample(container, previous)
            yield previous
            if await self._gone(container):
                return

    async def _gone(self, container: Container) -> bool:
        """Let an interval pass; True if the container was removed meanwhile."""
        done, _ = await asyncio.wait((container.gone,), timeout=INTERVAL_S)
        return bool(done)

    async def _sample(self, container: Container, previous: Stats | None) -> Stats:
        if container.state.live:
            try:
                group = self._resources.group(container)
            except NoSuchRun:
                pass
            else:
                return await asyncio.to_thread(_sample, container, group, previous)
        return Stats(name=f"/{container.name}", id=container.id)


def _sample(container: Container, group: str, previous: Stats | None) -> Stats:
    processes = stats.pids(group)
    own_network = container.record.host_config.network_mode != "host"
    counters = stats.networks(container.state.pid) if own_network else {}
    return Stats(
        name=f"/{container.name}",
        id=container.id,
        read=format_time(now_ns()),
        preread=previous.read if previous is not None else NEVER,
        pids_stats=processes,
        blkio_stats=stats.block_io(group),
        cpu_stats=stats.cpu(group),
        precpu_stats=previous.cpu_stats if previous is not None else CpuStats(),
        memory_stats=stats.memory(group),
        networks=counters or UNSET,
    )
