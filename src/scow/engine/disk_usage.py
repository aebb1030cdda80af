"""What the engine keeps on disk: in docker's words, and every byte under the data root. GET /system/df."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final

from scow.engine.containers import Containers
from scow.engine.image_uses import ImageUses
from scow.engine.images import Images
from scow.engine.volumes import Volumes
from scow.errors import InvalidArgument
from scow.store.store import Store
from scow.store.survey import ORDER, Part, survey
from scow.wire.disk import DataRootUsage, ImageUse, PartUsage
from scow.wire.system import DiskUsage
from scow.wire.times import format_datetime

TYPES: Final = ("container", "image", "volume", "build-cache")
ABOUT: Final = {
    Part.LAYERS: "uncompressed layers, from which containers run",
    Part.INDEXES: "EROFS indexes over layers",
    Part.UNPACKED: "layers unpacked into directories",
    Part.COMPRESSED: "layers as they were pulled, for push and save",
    Part.DOCUMENTS: "manifests, indexes and configs of images",
    Part.WRITABLE: "what containers have written",
    Part.LOGS: "what containers have said",
    Part.CONTAINERS: "containers' hosts, hostname and resolv.conf",
    Part.VOLUMES: "local volumes",
    Part.BUILD: "results of build steps",
    Part.STATE: "the engine's database and folders",
    Part.INGEST: "being pulled, loaded or built now",
    Part.TRASH: "being deleted now",
    Part.OTHER: "not of this engine",
}


BuildCacheRows = list[dict[str, Any]]


async def no_build_cache() -> BuildCacheRows:
    """The build cache of an engine that has none."""
    return []


class DiskUsages:
    """Answers what takes how much. `build_cache` gives the rows of the build cache, in docker's shape."""

    def __init__(self, store: Store, containers: Containers, images: Images, volumes: Volumes, uses: ImageUses) -> None:
        self._store = store
        self._containers = containers
        self._images = images
        self._volumes = volumes
        self._uses = uses
        self.build_cache: Callable[[], Awaitable[BuildCacheRows]] = no_build_cache

    async def df(self, types: Collection[str] = ()) -> DiskUsage:
        """GET /system/df: of all `types`, or of those that are named. Raises InvalidArgument."""
        for kind in types:
            if kind not in TYPES:
                raise InvalidArgument(f"unknown object type: {kind}")
        wanted = set(types) or set(TYPES)
        with_images = "image" in wanted
        return DiskUsage(
            layers_size=sum(layer.files_size for layer in self._store.layers.all()) if with_images else 0,
            images=await self._images.list(all=True, digests=True, shared_size=True, filters={})
            if with_images
            else None,
            containers=await self._containers.list(all=True, limit=None, size=True, filters={})
            if "container" in wanted
            else None,
            volumes=await self._volumes.usage() if "volume" in wanted else None,
            build_cache=await self.build_cache() if "build-cache" in wanted else None,
        )

    async def data_root(self) -> DataRootUsage:
        """GET /scow/system/df: the parts of the data root, which sum up to what du says of it, and images' last use."""
        store = self._store
        with store.leases.silence():
            compressed = {blob.digest for layer in store.layers.all() for blob in store.layers.blobs(layer.diff_id)}
        found = await asyncio.to_thread(survey, store.paths.data_root, compressed)
        return DataRootUsage(
            root=str(store.paths.data_root),
            total=sum(usage.size for usage in found.values()),
            parts=[
                PartUsage(name=part, files=found[part].files, size=found[part].size, about=ABOUT[part])
                for part in ORDER
            ],
            images=[
                ImageUse(id=image.id, last_used=format_datetime(self._uses.last_used(image)))
                for image in store.images.all()
            ],
        )
