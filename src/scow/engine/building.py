"""Builds: what the engine has of them while none is made, and who makes them. Engine API, ImageBuild and BuildPrune."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from scow.build.cache import Cache
from scow.build.cache_mounts import CacheMounts
from scow.engine.build_cache import BuildCache
from scow.engine.build_results import BuildResults
from scow.engine.build_runner import BuildRuns, clear_folders
from scow.engine.build_sessions import BuildSessions
from scow.engine.cache_upkeep import CacheUpkeep
from scow.engine.config import EngineConfig
from scow.engine.events import Events
from scow.engine.resources import Resources
from scow.engine.streams import ProgressStream
from scow.engine.tasks import Tasks
from scow.store.store import Store
from scow.transfer.registries import Registries
from scow.wire.build import BuildRequest

if TYPE_CHECKING:
    from scow.engine.builder import Builder


class Builds:
    """The cache of builds, what waits for them and for their clients; the builder comes with the first of them."""

    def __init__(
        self,
        config: EngineConfig,
        store: Store,
        registries: Registries,
        resources: Resources,
        events: Events,
        cache: Cache,
        mounts: CacheMounts,
        tasks: Tasks,
    ) -> None:
        self._config = config
        self._store = store
        self._registries = registries
        self._events = events
        self._cache = cache
        self._mounts = mounts
        self._folder = config.data_root / "build"
        self.runs = BuildRuns(config, store, resources)
        self.sessions = BuildSessions(self._folder / "work", store)
        self.results = BuildResults(store)
        self.usage = BuildCache(cache, mounts, store, self._folder)
        self.upkeep = CacheUpkeep(self.usage, config.builder.gc, self._folder, tasks)
        self._builder: Builder | None = None

    @classmethod
    def open(
        cls,
        config: EngineConfig,
        store: Store,
        registries: Registries,
        resources: Resources,
        events: Events,
        tasks: Tasks,
    ) -> "Builds":
        """Open the cache, and remove what builds of a killed engine left. Blocks for a moment: at start."""
        folder = config.data_root / "build"
        shutil.rmtree(folder / "work", ignore_errors=True)
        (folder / "work").mkdir(mode=0o700, parents=True)
        clear_folders(config.exec_root)
        cache = Cache(store.db)
        mounts = CacheMounts(store.db, folder)
        mounts.reconcile()
        store.leases.pin(cache.pins)
        return cls(config, store, registries, resources, events, cache, mounts, tasks)

    async def build(
        self,
        request: BuildRequest,
        content: AsyncIterator[bytes],
        registry_config: str | None,
    ) -> ProgressStream:
        """POST /build. The context is read before this returns; an error until then becomes a status."""
        if self._builder is None:
            # What reads and executes Dockerfiles is a tenth of what an engine imports, and many never build.
            made = await asyncio.to_thread(self._make_builder)
            self._builder = self._builder or made
        return await self._builder.build(request, content, registry_config)

    def cancel(self, id: str) -> None:
        """POST /build/cancel: end the build that gave this ID. Idempotent."""
        if self._builder is not None:
            self._builder.cancel(id)

    def _make_builder(self) -> "Builder":
        from scow.build.tools import Tools
        from scow.engine.build_work import Means
        from scow.engine.builder import Builder

        work = self._folder / "work"
        tools = Tools(self._store, self._cache, self._mounts, work, self._config.exec_root / "build")
        means = Means(self._store, self._registries, self._events, tools, self.runs, self.sessions, self.results)
        return Builder(work, means, self._config.builder.entitlements.names(), self.upkeep.build_ended)
