"""Looking into images: what each layer changes and wastes, and how two images differ. Scow's own endpoints."""

from typing import Any

import msgspec

from scow.engine.image_lookup import get_image
from scow.oci.digest import DiffID
from scow.oci.reference import parse_reference
from scow.store.images import Image
from scow.store.store import Store


class Exploring:
    """Asks workers, which read indexes."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def explore(self, ref: str, *, files: bool) -> bytes:
        """GET /scow/images/explore, as JSON; with `files` each changed path. Raises NoSuchImage, NoSuchLayer."""
        image = get_image(self._store.images, ref)
        async with self._store.leases.hold():
            self._hold(image)
            _, data = await self._store.layers.ask(
                image.id, {"do": "explore", "layers": list(image.diff_ids), "files": files}
            )
            config = await self._store.images.config(image.id)
        found: dict[str, Any] = msgspec.json.decode(data)
        steps = [step for step in config.history or () if not step.empty_layer]
        for number, layer in enumerate(found["Layers"]):
            step = steps[number] if len(steps) == len(found["Layers"]) else None
            layer["CreatedBy"] = step.created_by if step else ""
            layer["Size"] = self._store.layers.get(DiffID(layer["DiffID"])).files_size
        names = self._store.images.names(image.id)
        head = {"Id": image.id, "Name": parse_reference(names[0]).familiar if names else "", "Size": image.size}
        return msgspec.json.encode({**head, **found})

    async def diff(self, before: str, after: str, *, times: bool) -> bytes:
        """GET /scow/images/diff, as JSON: a list of paths. Raises NoSuchImage, NoSuchLayer."""
        old, new = get_image(self._store.images, before), get_image(self._store.images, after)
        async with self._store.leases.hold():
            self._hold(old)
            self._hold(new)
            _, data = await self._store.layers.ask(
                new.id, {"do": "compare", "from": list(old.diff_ids), "to": list(new.diff_ids), "times": times}
            )
        return data

    def _hold(self, image: Image) -> None:
        """Have the lease protect the layers. Raises NoSuchLayer."""
        for diff_id in image.diff_ids:
            self._store.layers.get(diff_id)
