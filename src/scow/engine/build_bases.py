"""Base images of a build: what is here, and what has to be pulled with the credentials that came along."""

import asyncio
import base64
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

from scow.build.provenance import Material
from scow.engine.image_lookup import find_image, find_reference
from scow.errors import NotFound
from scow.oci.digest import Digest, encoded
from scow.oci.image_config import ImageConfig, decode_config
from scow.oci.manifest import Index, Manifest, decode
from scow.oci.platform import Platform, host_platform, satisfies, select
from scow.oci.reference import InvalidReference, Reference, parse_reference
from scow.store.content import NoSuchContent
from scow.store.images import Image, NoSuchImageID
from scow.store.store import Store
from scow.transfer.credentials import Credentials, decode_registry_auth
from scow.transfer.pull import parse_created, pull, resolve
from scow.transfer.registries import Registries
from scow.wire.progress import ProgressMessage

_ID: Final = re.compile(r"sha256:[0-9a-f]{64}")
Emit = Callable[[ProgressMessage], None]


class ImageBases:
    """Images for FROM and COPY --from: local ones, else pulled."""

    def __init__(
        self,
        store: Store,
        registries: Registries,
        credentials: Mapping[str, Credentials],
        *,
        pull: bool,
        several: bool = False,
    ) -> None:
        self._store = store
        self._registries = registries
        self._credentials = credentials
        self._pull = pull
        self._several = several
        self.materials: list[Material] = []
        """What was found so far."""
        self._found: dict[tuple[str, str], asyncio.Task[tuple[Image, ImageConfig]]] = {}

    async def find(self, reference: str, platform: Platform | None, emit: Emit) -> tuple[Image, ImageConfig]:
        """As Bases.find; what several stages name is looked for once, and stays for the build if it is removed."""
        key = reference, str(platform or "")
        task = self._found.get(key)
        if task is None:
            task = self._found[key] = asyncio.ensure_future(self._hold(reference, platform, emit))
        image, config = await asyncio.shield(task)
        self.materials.append(_material(reference, image))
        return image, config

    async def aclose(self) -> None:
        """End what still runs."""
        for task in self._found.values():
            task.cancel()
        await asyncio.gather(*self._found.values(), return_exceptions=True)

    async def _hold(self, reference: str, platform: Platform | None, emit: Emit) -> tuple[Image, ImageConfig]:
        """Find an image and have the build's lease keep what it needs, although it may be removed meanwhile."""
        images = self._store.images
        for is_last in (False, True):
            image = await self._get(reference, platform, emit)
            self._store.content.has(image.id)  # it and its layers are held as they are found
            missing = [diff_id for diff_id in image.diff_ids if self._store.layers.find(diff_id) is None]
            try:
                config = await images.config(image.id)
            except (NoSuchImageID, NoSuchContent):
                if is_last or images.find(image.id) is not None:
                    raise
                continue  # removed a moment ago: without it, it is looked for elsewhere
            if is_last or not missing or images.find(image.id) is not None:
                break
        return image, config

    async def _get(self, reference: str, platform: Platform | None, emit: Emit) -> Image:
        store = self._store
        # What was loaded for this build, from a folder, is named by its ID: there is nothing newer.
        asks = self._pull and not _ID.fullmatch(reference)
        image = None if asks else find_image(store.images, reference)
        if image is not None and platform is not None and not satisfies(image.platform, platform):
            image = await self._variant(parse_reference(reference), image, platform)
        if image is None:
            parsed = parse_reference(reference)
            if self._several and platform is not None and not satisfies(host_platform(), platform):
                parsed = await self._resolved(parsed, platform)
                image = None if self._pull else find_reference(store.images, parsed)
            image = image or await pull(
                parsed,
                registries=self._registries,
                store=store,
                emit=emit,
                credentials=self.credentials_for(parsed),
                platform=platform,
            )
        return image

    async def _resolved(self, reference: Reference, platform: Platform) -> Reference:
        """The image for one of several platforms by its digest: the name itself stays with what runs here.

        Raises PullRefused, RegistryUnreachable, NotFound.
        """
        credentials = self.credentials_for(reference)
        top, data = await resolve(reference, registries=self._registries, credentials=credentials)
        document = decode(data, top.media_type)
        if not isinstance(document, Index):
            return reference.with_digest(top.digest)
        chosen = select(document.manifests, platform)
        if chosen is None:
            raise NotFound(f"{reference.familiar}: no match for platform in manifest: {platform}")
        return reference.with_digest(chosen.digest)

    async def _variant(self, reference: Reference, image: Image, platform: Platform) -> Image | None:
        """The image for another platform that came with the index of one that is here; None if it isn't all here."""
        store, content = self._store, self._store.content
        if image.index is None or not content.has(image.index):
            return None
        index = decode(await content.get(image.index))
        chosen = select(index.manifests, platform) if isinstance(index, Index) else None
        if chosen is None or not content.has(chosen.digest):
            return None
        manifest = decode(await content.get(chosen.digest), chosen.media_type)
        if not isinstance(manifest, Manifest) or not content.has(manifest.config.digest):
            return None
        config = decode_config(await content.get(manifest.config.digest))
        if len(config.diff_ids) != len(manifest.layers):
            return None
        for blob, diff_id in zip(manifest.layers, config.diff_ids, strict=True):
            if store.layers.find(diff_id) is None:
                if not content.has(blob.digest):
                    return None
                await store.layers.take(content.path(blob.digest), blob.digest, diff_id, blob)
        found = store.images.find(manifest.config.digest) or Image(
            id=manifest.config.digest,
            manifest=chosen.digest,
            platform=config.platform,
            diff_ids=config.diff_ids,
            size=sum(store.layers.get(diff_id).size for diff_id in config.diff_ids),
            created=parse_created(config.created),
            stored_at=datetime.now(UTC),
        )
        await store.images.publish(found, repo_digests=[str(reference.repository().with_digest(chosen.digest))])
        return found

    def credentials_for(self, reference: Reference) -> Credentials | None:
        """What the client sent along for a reference's registry."""
        host = reference.domain
        for name in (host, f"https://{host}", "https://index.docker.io/v1/" if host == "docker.io" else ""):
            if name in self._credentials:
                return self._credentials[name]
        return None


def _material(text: str, image: Image) -> Material:
    """What a build used of a registry: the index or manifest; the image's ID if it has neither."""
    try:
        reference = parse_reference(text)
        version = reference.tag or reference.digest or "latest"
        uri = f"pkg:docker/{quote(reference.familiar_name)}@{quote(version, safe='')}"
    except InvalidReference:
        uri = f"pkg:docker/{quote(image.id, safe='')}"  # named by its ID
    digest = encoded(Digest(image.index or image.manifest or image.id))
    return Material(uri=f"{uri}?platform={quote(str(image.platform), safe='')}", algorithm="sha256", digest=digest)


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
