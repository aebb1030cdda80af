"""Keeping the build cache within its limits after builds, without being asked."""

import asyncio
import logging
import shutil
from pathlib import Path
from typing import Final

from scow.engine.build_cache import BuildCache
from scow.engine.cache_limits import GcConfig, rules
from scow.engine.tasks import Tasks

_INTERVAL_S: Final = 60.0  # between one look and the next: a look reads what every image is made of

log = logging.getLogger(__name__)


class CacheUpkeep:
    """Trims a cache when a build has ended, at most once a minute. `folder` is on the disk whose room counts."""

    def __init__(self, cache: BuildCache, config: GcConfig, folder: Path, tasks: Tasks) -> None:
        self._cache = cache
        self._config = config
        self._folder = folder
        self._tasks = tasks
        self._due_at = 0.0  # by the event loop's clock
        self._timer: asyncio.TimerHandle | None = None

    def build_ended(self) -> None:
        """Have the cache looked at soon."""
        if self._config.enabled and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(self._due_at, loop.time()), self._begin)

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _begin(self) -> None:
        self._timer = None
        self._due_at = asyncio.get_running_loop().time() + _INTERVAL_S
        self._tasks.start(self._trim(), "upkeep of the build cache")

    async def _trim(self) -> None:
        disk = await asyncio.to_thread(shutil.disk_usage, self._folder)
        freed = await self._cache.trim(rules(self._config, disk.total))
        if freed:
            log.info("removed %d bytes of the build cache, which had grown beyond its limits", freed)
