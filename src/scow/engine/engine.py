"""The engine: it has containers, images, networks, volumes, execs and events, and opens and closes them."""

import asyncio
import contextlib
import logging
import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, Self

from scow import points
from scow.engine.archive import Archives
from scow.engine.building import Builds
from scow.engine.changes import Changes
from scow.engine.checking import Checking
from scow.engine.committing import Commits
from scow.engine.config import EngineConfig, InvalidConfig
from scow.engine.container import Container, ContainerTable
from scow.engine.container_mounts import ContainerMounts, container_of, mounted_images, snapshot_keys, volume_names
from scow.engine.containers import Containers
from scow.engine.creation import Creation
from scow.engine.disk_usage import DiskUsages
from scow.engine.distribution import Distribution
from scow.engine.event_log import EventLog
from scow.engine.events import MEMORY, Events
from scow.engine.execs import Execs
from scow.engine.exploring import Exploring
from scow.engine.health import HealthChecks
from scow.engine.image_archives import ImageArchives
from scow.engine.image_lookup import find_image
from scow.engine.image_uses import ImageUses
from scow.engine.images import Images
from scow.engine.importing import Imports
from scow.engine.inspecting import Inspector
from scow.engine.lifecycle import Lifecycle
from scow.engine.log_forwarding import LogForwarding
from scow.engine.log_rotation import LogRotation
from scow.engine.networks import Networks, network_settings
from scow.engine.opening import HeadStart
from scow.engine.plugins import Plugins
from scow.engine.pruning import Pruning
from scow.engine.recovery import Recovery
from scow.engine.reloading import attributes, changed_keys, reloaded
from scow.engine.removal import Removal
from scow.engine.resources import Resources
from scow.engine.roots import Roots
from scow.engine.stats import StatsReader
from scow.engine.system import System
from scow.engine.tasks import Tasks
from scow.engine.updating import Updates
from scow.engine.user_namespaces import UserNamespaces, pin_of
from scow.engine.volume_plugins import PluginVolumes
from scow.engine.volumes import Volumes
from scow.linux import netns
from scow.network.networks import Networks as NetworkDriver
from scow.oci.digest import Digest
from scow.oci.media_types import Compression
from scow.store.layers import Snapshotter
from scow.store.overlay import Shift
from scow.store.store import Store
from scow.transfer.hosts import HostPolicy, Proxies
from scow.transfer.http import Patience
from scow.transfer.registries import Registries

log = logging.getLogger(__name__)

SNAPSHOTTERS: Final[dict[str, Snapshotter]] = {"": "erofs", "erofs": "erofs", "overlay2": "overlay2"}


class Engine:
    """Made by `open`; closed by `aclose`, which leaves running containers running."""

    archives: Archives
    builds: Builds
    containers: Containers
    execs: Execs
    images: Images
    image_archives: ImageArchives
    distribution: Distribution
    commits: Commits
    imports: Imports
    networks: Networks
    volumes: Volumes
    events: Events
    stats: StatsReader
    system: System
    disk: DiskUsages
    exploring: Exploring
    checking: Checking
    pruning: Pruning
    changes: Changes
    updates: Updates

    def __init__(self, config: EngineConfig, close: AsyncExitStack) -> None:
        self.config = config
        self._close = close

    @classmethod
    async def open(cls, config: EngineConfig, head_start: HeadStart) -> Self:
        """Open stores, networks and runtime, and reconcile records with what runs. Raises InvalidConfig and others.

        What was begun by the `head_start` is the engine's to end from now on.
        """
        async with AsyncExitStack() as close:
            engine = cls(config, close)
            close.push_async_callback(head_start.aclose)
            await engine._open(close, head_start)
            engine._close = close.pop_all()
            return engine

    async def _open(self, close: AsyncExitStack, head_start: HeadStart) -> None:
        config = self.config
        snapshotter = SNAPSHOTTERS.get(config.storage_driver)
        if snapshotter is None:
            raise InvalidConfig(f"unknown storage driver {config.storage_driver!r}: use erofs or overlay2")
        await points.at("open.begun")
        config.exec_root.mkdir(mode=0o711, parents=True, exist_ok=True)
        tasks = Tasks()
        users = self._users = (
            await UserNamespaces.open(config.userns_remap, config.data_root, config.exec_root)
            if config.userns_remap
            else None
        )
        close.push_async_callback(self._close_users)
        store = await Store.open(
            config.data_root,
            config.exec_root,
            snapshotter,
            keep_compressed=config.keep_compressed_layers,
            compression=Compression(config.layer_compression),
        )
        close.push_async_callback(store.aclose)
        await points.at("open.stored")
        proxies = Proxies(
            http=config.proxies.http_proxy, https=config.proxies.https_proxy, no_proxy=config.proxies.no_proxy
        )
        policy = HostPolicy(mirrors=config.registry_mirrors, insecure=config.insecure_registries, proxies=proxies)
        registries = Registries(
            policy,
            max_concurrent_downloads=config.max_concurrent_downloads,
            max_concurrent_uploads=config.max_concurrent_uploads,
            patience=Patience(attempts=config.max_download_attempts),
        )
        self._registries = registries
        close.push_async_callback(registries.aclose)
        driver = NetworkDriver(
            config.engine_id,
            store.db,
            config.exec_root,
            network_settings(config),
            head_start.nftables,
        )
        close.push_async_callback(self._close_network, driver)
        if users is not None:
            driver.belong_to(users.new_network)
            store.snapshots.shift = self._shift
        await driver.start()
        await points.at("open.networked")
        table = ContainerTable(store.db, config.data_root)
        table.load()
        self._table = table
        await store.reconcile([key for container in table for key in snapshot_keys(container.record)])
        event_log = EventLog(config.data_root / "events.jsonl", MEMORY)
        self.events = events = Events(event_log)
        close.push_async_callback(event_log.aclose)
        plugins = PluginVolumes(Plugins([Path(each) for each in config.plugin_directories], config.plugin_timeout))
        self.volumes = volumes = Volumes(store.db, config.data_root, events, self._volume_users, plugins, tasks)
        volumes.load()
        await volumes.reconcile(
            {
                container.id: volume_names(container.record)
                for container in table
                if container.state.live or container.state.status == "starting"
            }
        )
        mounts = ContainerMounts(store, volumes, config.exec_root)
        if users is not None:
            mounts.shift = users.shift_of
        await mounts.reconcile()
        resources = await Resources.open(config, store, table, driver, mounts, users, head_start.runtimes())
        close.push_async_callback(resources.aclose)
        await points.at("open.equipped")
        lifecycle = Lifecycle(table, resources, events, tasks)
        removal = Removal(table, lifecycle, resources, store.snapshots, volumes, events)
        lifecycle.remove_hook = removal.auto_remove
        self.builds = builds = Builds.open(config, store, registries, resources, events, tasks)
        builds.runs.otherwise, resources.on_exit = lifecycle.exited, builds.runs.exited
        resources.on_oom = lifecycle.ran_out_of_memory
        creation = Creation(
            config,
            store,
            table,
            volumes,
            mounts,
            driver,
            events,
            resources.runtimes,
            resources.default_runtime,
            remapped=users is not None,
        )
        inspector = Inspector(store, driver, volumes, resources.links, snapshotter, config.exec_root / "netns")
        inspector.labels = resources.labels
        self.containers = Containers(
            table, creation, lifecycle, removal, resources, inspector, events, tasks, self._image_ids
        )
        roots = Roots(store.snapshots, volumes, resources.prepare)
        self.changes = Changes(table, store.snapshots)
        self.updates = Updates(table, resources, events)
        self.stats = StatsReader(table, resources)
        self.archives = Archives(table, roots, volumes, events, self._user_namespace)
        self.execs = Execs(table, resources, events, tasks)
        self.images = Images(store, registries, events, snapshotter, self._image_users)
        self.image_archives = ImageArchives(store, events, registries)
        self.distribution = Distribution(registries)
        self.commits = Commits(table, lifecycle, roots, store, events)
        self.imports = Imports(store, registries, events)
        uses = ImageUses(store, table, tasks)
        events.observers.append(uses.observe)
        close.push_async_callback(uses.aclose)
        self.disk = DiskUsages(store, self.containers, self.images, volumes, uses)
        self.disk.build_cache = builds.usage.rows
        self.exploring = Exploring(store)
        self.checking = Checking(store, registries, table, volumes)
        self.pruning = Pruning(table, removal, store, self.images, volumes, events, uses)
        self.networks = Networks(driver, table, events, tasks, config)
        self.system = System(
            config,
            store,
            registries,
            table,
            events,
            resources.runtimes,
            resources.default_runtime,
            snapshotter,
            volumes.drivers,
        )
        self._store = store
        forwarding = LogForwarding(table, events)
        close.push_async_callback(forwarding.aclose)
        resources.before_run = forwarding.check
        removal.before_files_go += [forwarding.finish, self._let_go_of_image]
        recovery = Recovery(table, lifecycle, removal, resources, driver, config.data_root / "containers")
        health = HealthChecks(table, resources, events, lifecycle, tasks)
        await recovery.run()
        await points.at("open.recovered")
        health.adopt()
        forwarding.adopt()
        close.push_async_callback(tasks.aclose)
        close.push_async_callback(tasks.drain, config.shutdown_timeout)
        close.push_async_callback(health.aclose)
        rotation = LogRotation(table, resources, events)
        close.push_async_callback(rotation.aclose)
        removal.before_files_go.append(rotation.finish)
        close.callback(lifecycle.close)
        close.callback(builds.upkeep.close)
        recovery.start_what_is_due()

    async def reload(self, config: EngineConfig) -> None:
        """Take from a configuration that was read anew what can change meanwhile. Raises InvalidArgument."""
        new = reloaded(self.config, config)
        policy = self._registries.policy
        self._registries.reconfigure(
            HostPolicy(mirrors=new.registry_mirrors, insecure=new.insecure_registries, proxies=policy.proxies),
            max_concurrent_downloads=new.max_concurrent_downloads,
            max_concurrent_uploads=new.max_concurrent_uploads,
            patience=Patience(attempts=new.max_download_attempts),
        )
        changed = changed_keys(self.config, new)
        left = sorted(set(changed_keys(self.config, config)) - set(changed))
        self.config = new
        self.system.reconfigure(new)
        log.info("configuration reloaded: %s", f"{', '.join(changed)} changed" if changed else "nothing changed")
        if left:
            log.warning("these keys take effect when the engine is restarted: %s", ", ".join(left))
        self.events.emit("daemon", "reload", new.engine_id, attributes(new, os.uname().nodename))

    def _shift(self, key: str) -> Shift | None:
        """How the files of a snapshot are shifted: a container's as it wants, a build's always."""
        container = self._table.find_id(container_of(key))
        assert self._users is not None
        return self._users.shift if container is None else self._users.shift_of(container.record.host_config)

    def _user_namespace(self, container: Container) -> Path | None:
        """The user namespace in which a container's files are its own; None for the machine's. Blocks."""
        if container.state.live:  # it may have been started by an engine that was configured otherwise
            own = Path(f"/proc/{container.state.pid}/ns/user")
            with contextlib.suppress(OSError):
                return own if os.readlink(own) != os.readlink("/proc/self/ns/user") else None
        shift = self._users.shift_of(container.record.host_config) if self._users is not None else None
        return shift.namespace if shift is not None else None

    @property
    def _is_needed(self) -> bool:
        """Whether containers run, or may: while their records couldn't be read, nobody knows."""
        return not hasattr(self, "_table") or any(
            container.state.live or container.state.status == "starting" for container in self._table
        )

    async def _close_users(self) -> None:
        """Leave the user namespace to those who run in it."""
        if self._users is not None:
            await self._users.aclose(remove=not self._is_needed)
        elif not self._is_needed:
            await asyncio.to_thread(netns.unpin, pin_of(self.config.exec_root))  # an earlier configuration's

    async def _close_network(self, driver: NetworkDriver) -> None:
        """Leave nothing on the machine if no container needs it."""
        if self._is_needed:
            await driver.stop()
        else:
            await driver.destroy()

    async def aclose(self) -> None:
        """Close everything; running containers go on, with their networking. Idempotent."""
        await self._close.aclose()

    def _volume_users(self, name: str) -> list[str]:
        return [
            container.id for container in self._table if any(name == mount.name for mount in container.record.mounts)
        ]

    def _image_users(self, id: Digest) -> list[Container]:
        return [
            container
            for container in self._table
            if container.record.image == id or id in mounted_images(container.record)
        ]

    async def _let_go_of_image(self, container: Container) -> None:
        """Have layers collected that only this container still had: its image went before it."""
        image = container.record.image
        if image is not None and self._store.images.find(image) is None:
            self._store.sweep_soon()

    def _image_ids(self, ref: str) -> list[Digest]:
        """The images that a filter `ancestor` means: that of the name, and those that stand on all its layers."""
        image = find_image(self._store.images, ref)
        if image is None:
            return []
        depth = len(image.diff_ids)
        return [
            other.id
            for other in self._store.images.all()
            if other.id == image.id or (depth and other.diff_ids[:depth] == image.diff_ids)
        ]
