"""Keeping logs within their limits: the file that is full gets a number, and conmon begins a new one.

The names are `LOG`, `LOG.1` (the one before) and so on, up to `max-file` in all. Nothing is lost in between: until
conmon has reopened its log it writes into the file that was renamed. Sizes are looked at once a second, since a
container can write a hundred thousand times in one; conmon's own limit, at which it drops a log, lies far above and
only serves while no engine runs.
"""

import asyncio
import logging
from typing import Final

from scow import points
from scow.engine.container import Container, ContainerTable
from scow.engine.events import Events
from scow.engine.log_limits import limits_of
from scow.engine.resources import Resources
from scow.errors import InvalidArgument
from scow.runtime.log_files import compress, find, shift
from scow.runtime.monitor import NoSuchRun
from scow.wire.event import Event

log = logging.getLogger(__name__)

INTERVAL_S: Final = 1.0
REOPEN_PATIENCE_S: Final = 5.0


class LogRotation:
    """Looks after the logs of running containers."""

    def __init__(self, table: ContainerTable, resources: Resources, events: Events) -> None:
        self._table = table
        self._resources = resources
        self._events = events
        self._some_run = asyncio.Event()
        self._compressing: dict[str, asyncio.Task[None]] = {}
        self._task = asyncio.get_running_loop().create_task(self._watch(), name="log rotation")
        self._some_run.set()  # those of an earlier engine process
        events.observers.append(self._observe)

    async def aclose(self) -> None:
        """End; a rotation that is under way is finished."""
        self._events.observers.remove(self._observe)
        self._task.cancel()
        await asyncio.gather(self._task, *self._compressing.values(), return_exceptions=True)

    async def finish(self, container: Container) -> None:
        """Before a removal: nothing is written beside the log any more."""
        if container.id in self._compressing:
            await asyncio.wait((self._compressing[container.id],))

    def _observe(self, event: Event) -> None:
        if event.type == "container" and event.action == "start":
            self._some_run.set()

    async def _watch(self) -> None:
        for container in self._table:
            # Only now: a second order to reopen, when the first was still on its way, would lose what came between.
            if container.state.live and _was_cut_off(container):
                await self._reopen(container)
        while True:
            await self._some_run.wait()
            await asyncio.sleep(INTERVAL_S)
            live = [container for container in self._table if container.state.live]
            if not live:
                self._some_run.clear()
            for container in live:
                try:
                    if container.id in self._compressing:
                        continue
                    if _is_full(container):
                        await self._rotate(container)
                except (OSError, InvalidArgument) as error:
                    log.warning("log of container %s is not rotated: %s", container.id, error)

    async def _rotate(self, container: Container) -> None:
        limits = limits_of(container.record.host_config.log_config)
        async with container.lock:
            if not container.state.live:
                return
            await asyncio.to_thread(shift, container.log_path, limits.files)
            await points.at("logs.shifted")
        await self._reopen(container)
        if limits.compress and limits.files > 1:
            task = asyncio.get_running_loop().create_task(
                self._compress(container), name=f"logs of {container.id[:12]}"
            )
            self._compressing[container.id] = task
            task.add_done_callback(lambda _: self._compressing.pop(container.id, None))

    async def _reopen(self, container: Container) -> None:
        try:
            await self._resources.reopen_log(container)
        except NoSuchRun:
            log.debug("container %s ended before its log was reopened", container.id)

    async def _compress(self, container: Container) -> None:
        end = asyncio.get_running_loop().time() + REOPEN_PATIENCE_S
        while not container.log_path.exists():  # until then conmon writes into the file that was renamed
            if asyncio.get_running_loop().time() > end or not container.state.live:
                return  # with the next rotation
            await asyncio.sleep(REOPEN_PATIENCE_S / 100)
        try:
            await asyncio.to_thread(compress, container.log_path)
        except OSError as error:
            log.warning("older logs of container %s are not compressed: %s", container.id, error)


def _was_cut_off(container: Container) -> bool:
    """Whether an engine was killed between giving a log a number and having it reopened."""
    return not container.log_path.exists() and find(container.log_path, 1) is not None


def _is_full(container: Container) -> bool:
    config = container.record.host_config.log_config
    limit = None if config.type == "none" else limits_of(config).size
    try:
        return limit is not None and container.log_path.stat().st_size >= limit
    except FileNotFoundError:
        return False
