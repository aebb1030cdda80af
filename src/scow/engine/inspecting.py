"""Containers for list and inspect: the record, with what the store and the network know of it."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
from msgspec import UNSET, UnsetType

from scow.engine import describing
from scow.engine.container import Container
from scow.engine.container_mounts import image_key
from scow.engine.image_lookup import find_image
from scow.engine.links import Links
from scow.engine.record import ContainerRecord
from scow.engine.volumes import Volumes
from scow.network.model import Endpoint, NoSuchNetwork
from scow.network.networks import Networks
from scow.oci.digest import short
from scow.runtime.selinux import Labels
from scow.store.snapshots import NoSuchSnapshot
from scow.store.store import Store
from scow.wire.container import (
    ContainerInspect,
    ContainerSummary,
    GraphDriver,
    NetworkSettings,
    SummaryHostConfig,
    SummaryNetworkSettings,
)
from scow.wire.host_config import HostConfig
from scow.wire.network import EndpointSettings
from scow.wire.times import format_time


class Inspector:
    """Describes containers; it changes nothing."""

    def __init__(
        self, store: Store, networks: Networks, volumes: Volumes, links: Links, driver: str, sandboxes: Path
    ) -> None:
        self._store = store
        self._networks = networks
        self._volumes = volumes
        self._links = links
        self._driver = driver
        self._sandboxes = sandboxes  # where network namespaces are pinned
        self.labels: Callable[[ContainerRecord], Labels | None] = lambda record: None  # SELinux's; the engine's

    async def summaries(self, containers: Iterable[Container], *, size: bool) -> list[ContainerSummary]:
        """The entries of a list."""
        linked = self._links.names()
        return [await self._summary(container, linked.get(container.id, ()), size=size) for container in containers]

    async def _summary(self, container: Container, linked: Sequence[str], *, size: bool) -> ContainerSummary:
        record = container.record
        endpoints = self._endpoints(container)
        size_rw: int | UnsetType = UNSET
        size_root: int | UnsetType = UNSET
        if size:
            size_rw, size_root = await self._sizes(container)
        return ContainerSummary(
            id=record.id,
            names=sorted([f"/{record.name}", *linked]),
            image=self._image_name(container),
            image_id=record.image or "",
            command=describing.command_text(record.args),
            created=record.created_at // 10**9,
            ports=describing.port_list(record, endpoints),
            size_rw=size_rw,
            size_root_fs=size_root,
            labels=record.config.labels or {},
            state=describing.status_word(record.state),
            status=describing.status_text(record.state, health=container.health),
            host_config=SummaryHostConfig(
                network_mode=record.host_config.network_mode, annotations=record.host_config.annotations
            ),
            network_settings=SummaryNetworkSettings(networks=self._settings(container, endpoints)),
            mounts=[
                describing.mount_point(mount, self._source(record, index))
                for index, mount in enumerate(record.mounts)
                if mount.type != "tmpfs"
            ],
        )

    async def inspect(self, container: Container, *, size: bool) -> ContainerInspect:
        """All there is to know."""
        record = container.record
        size_rw = size_root = None
        if size:
            size_rw, size_root = await self._sizes(container)
        folder = container.folder
        labels = self.labels(record)
        is_logged = record.host_config.log_config.type in ("json-file", "local")
        return ContainerInspect(
            id=record.id,
            created=format_time(record.created_at),
            path=record.args[0] if record.args else "",
            args=list(record.args[1:]),
            state=describing.wire_state(record.state, container.health),
            image=record.image or "",
            resolv_conf_path=str(folder / "resolv.conf"),
            hostname_path=str(folder / "hostname"),
            hosts_path=str(folder / "hosts"),
            log_path=str(container.log_path) if is_logged else "",
            name=f"/{record.name}",
            restart_count=record.state.restart_count,
            driver=self._driver,
            platform=record.platform,
            process_label=labels.process if labels is not None else "",
            mount_label=labels.files if labels is not None else "",
            exec_ids=sorted(container.execs) or None,
            host_config=self._host_config(container),
            graph_driver=GraphDriver(
                name=self._driver,
                data={
                    "MergedDir": str(self._store.snapshots.mount_point(record.id)),
                    "UpperDir": str(self._store.snapshots.upper(record.id)),
                },
            ),
            size_rw=size_rw,
            size_root_fs=size_root,
            mounts=[
                describing.mount_point(mount, self._source(record, index))
                for index, mount in enumerate(record.mounts)
                if mount.type != "tmpfs" or mount.from_mounts
            ],
            config=record.config,
            network_settings=self._network_settings(container),
        )

    def _source(self, record: ContainerRecord, index: int) -> str:
        mount = record.mounts[index]
        if mount.type == "image":
            return str(self._store.snapshots.mount_point(image_key(record.id, index)))
        return str(self._volumes.path(mount.name)) if mount.type == "volume" else mount.source

    def _host_config(self, container: Container) -> HostConfig:
        host, links = container.record.host_config, self._links.shown(container)
        return host if links is None else msgspec.structs.replace(host, links=links)

    def _network_settings(self, container: Container) -> NetworkSettings:
        endpoints = self._endpoints(container)
        ports = describing.port_map(container.record, endpoints) if container.state.live else {}
        networks = self._settings(container, endpoints)
        default = next((each for each in endpoints if each.network_name == "bridge"), None)
        own_sandbox = bool(endpoints) and container.record.host_config.network_mode != "host"
        flat = EndpointSettings() if default is None else networks[default.network_name]
        return NetworkSettings(
            sandbox_id=container.id if own_sandbox else "",
            sandbox_key=str(self._sandboxes / container.id) if own_sandbox else "",
            ports=ports,
            endpoint_id=flat.endpoint_id,
            gateway=flat.gateway,
            global_ipv6_address=flat.global_ipv6_address,
            global_ipv6_prefix_len=flat.global_ipv6_prefix_len,
            ip_address=flat.ip_address,
            ip_prefix_len=flat.ip_prefix_len,
            ipv6_gateway=flat.ipv6_gateway,
            mac_address=flat.mac_address,
            networks=networks,
        )

    def _endpoints(self, container: Container) -> list[Endpoint]:
        return self._networks.of_container(container.id) if container.state.live else []

    def _settings(self, container: Container, endpoints: list[Endpoint]) -> dict[str, EndpointSettings]:
        found: dict[str, EndpointSettings] = {}
        live = {endpoint.network_name: endpoint for endpoint in endpoints}
        for name, asked in container.record.endpoints.items():
            try:
                network = self._networks.get(name)
            except NoSuchNetwork:
                network = None
            shown = network.name if network is not None else name
            found[shown] = describing.endpoint_settings(asked, live.get(shown), network.id if network else "")
        return found

    def _image_name(self, container: Container) -> str:
        """What the user named, as long as it still means this image; else the image's ID."""
        record = container.record
        if record.image is None or not record.image_name:
            return record.image_name
        found = find_image(self._store.images, record.image_name)
        if found is not None and found.id == record.image:
            return record.image_name
        return record.image_name if found is None and record.image_name.startswith("sha256:") else short(record.image)

    async def _sizes(self, container: Container) -> tuple[int, int]:
        try:
            upper = await self._store.snapshots.usage(container.id)
        except NoSuchSnapshot:
            upper = 0  # it is just being removed: that is no reason not to tell of the others
        image = self._store.images.find(container.record.image) if container.record.image else None
        return upper, upper + (image.size if image else 0)
