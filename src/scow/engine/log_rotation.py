"""Keeping logs within their limits: the file that is full gets a number, and conmon begins a new one.

The names are `LOG`, `LOG.1` (the one before) and so on, up to `max-file` in all. Nothing is lost in between: until
conmon has reopened its log it writes into the file that was renamed. Sizes are looked at once a second, since a
container can write a hundred thousand times in one; conmon's own limit, at which it drops a log, lies far above and
only serves while no engine runs.
"""

import asyncio
import logging
from typing import Final

from scow.engine.container import Container, ContainerTable
from scow.engine.events import Events
from scow.engine.log_limits import limits_of, shift
from scow.engine.resources import Resources
from scow.errors import InvalidArgument
from scow.runtime.monitor import NoSuchRun
from scow.wire.event import Event

log = logging.getLogger(__name__)

INTERVAL_S: Final = 1.0


class LogRotation:
    """Looks after the logs of running containers."""

    def __init__(self, table: ContainerTable, resources: Resources, events: Events) -> None:
        self._table = table
        self._resources = resources
        self._events = events
        self._some_run = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._watch(), name="log rotation")
        self._some_run.set()  # those of an earlier engine process
        events.observers.append(self._observe)

    async def aclose(self) -> None:
        """End; a rotation that is under way is finished."""
        self._events.observers.remove(self._observe)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _observe(self, event: Event) -> None:
        if event.type == "container" and event.action == "start":
            self._some_run.set()

    async def _watch(self) -> None:
        while True:
            await self._some_run.wait()
            await asyncio.sleep(INTERVAL_S)
            live = [container for container in self._table if container.state.live]
            if not live:
                self._some_run.clear()
            for container in live:
                try:
                    if _is_full(container):
                        await self._rotate(container)
                except (OSError, InvalidArgument) as error:
                    log.warning("log of container %s is not rotated: %s", container.id, error)

    async def _rotate(self, container: Container) -> None:
        files = limits_of(container.record.host_config.log_config).files
        async with container.lock:
            if not container.state.live:
                return
            await asyncio.to_thread(shift, container.log_path, files)
            try:
                await self._resources.reopen_log(container)
            except NoSuchRun:
                log.debug("container %s ended before its log was reopened", container.id)


def _is_full(container: Container) -> bool:
    config = container.record.host_config.log_config
    limit = None if config.type == "none" else limits_of(config).size
    try:
        return limit is not None and container.log_path.stat().st_size >= limit
    except FileNotFoundError:
        return False
