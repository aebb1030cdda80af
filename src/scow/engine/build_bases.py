"""Base images of a build: what is here, and what has to be pulled with the credentials that came along."""

import asyncio
import base64
import json
from collections.abc import Callable, Mapping

from scow.engine.image_lookup import find_image
from scow.oci.image_config import ImageConfig
from scow.oci.platform import Platform, satisfies
from scow.oci.reference import Reference, parse_reference
from scow.store.images import Image
from scow.store.store import Store
from scow.transfer.credentials import Credentials, decode_registry_auth
from scow.transfer.pull import pull
from scow.transfer.registries import Registries
from scow.wire.progress import ProgressMessage

Emit = Callable[[ProgressMessage], None]


class ImageBases:
    """Images for FROM and COPY --from: local ones, else pulled."""

    def __init__(
        self, store: Store, registries: Registries, credentials: Mapping[str, Credentials], *, pull: bool
    ) -> None:
        self._store = store
        self._registries = registries
        self._credentials = credentials
        self._pull = pull
        self._found: dict[tuple[str, str], asyncio.Task[Image]] = {}

    async def find(self, reference: str, platform: Platform | None, emit: Emit) -> tuple[Image, ImageConfig]:
        """As Bases.find; what several stages name is looked for once."""
        key = reference, str(platform or "")
        task = self._found.get(key)
        if task is None:
            task = self._found[key] = asyncio.ensure_future(self._get(reference, platform, emit))
        image = await asyncio.shield(task)
        return image, await self._store.images.config(image.id)

    async def aclose(self) -> None:
        """End what still runs."""
        for task in self._found.values():
            task.cancel()
        await asyncio.gather(*self._found.values(), return_exceptions=True)

    async def _get(self, reference: str, platform: Platform | None, emit: Emit) -> Image:
        store = self._store
        image = None if self._pull else find_image(store.images, reference)
        if image is not None and platform is not None and not satisfies(image.platform, platform):
            image = None
        if image is None:
            parsed = parse_reference(reference)
            image = await pull(
                parsed,
                registries=self._registries,
                store=store,
                emit=emit,
                credentials=self.credentials_for(parsed),
                platform=platform,
            )
        for diff_id in image.diff_ids:
            store.layers.find(diff_id)  # so that the build's lease has them
        return image

    def credentials_for(self, reference: Reference) -> Credentials | None:
        """What the client sent along for a reference's registry."""
        host = reference.domain
        for name in (host, f"https://{host}", "https://index.docker.io/v1/" if host == "docker.io" else ""):
            if name in self._credentials:
                return self._credentials[name]
        return None


def decode_credentials(header: str | None) -> dict[str, Credentials]:
    """Read `X-Registry-Config`: credentials by host. What can't be read is ignored, as dockerd does."""
    if not header:
        return {}
    try:
        padded = header.strip().replace("+", "-").replace("/", "_")
        document = json.loads(base64.urlsafe_b64decode(padded + "=" * (-len(padded) % 4)))
        found = {
            host: decode_registry_auth(base64.urlsafe_b64encode(json.dumps(each).encode()).decode())
            for host, each in document.items()
        }
    except (ValueError, AttributeError):
        return {}
    return {host: each for host, each in found.items() if each is not None}
