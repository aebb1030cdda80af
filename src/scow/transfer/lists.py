"""Manifest lists that a client has put together of images in a registry: brought there with what they refer to."""

from collections.abc import Sequence
from pathlib import Path

from scow.errors import InvalidArgument
from scow.oci.descriptor import Descriptor
from scow.oci.digest import Digest, sha256
from scow.oci.manifest import Index, Manifest, decode
from scow.oci.reference import Reference
from scow.transfer.client import RegistryClient
from scow.transfer.credentials import Credentials
from scow.transfer.pull import resolve
from scow.transfer.registries import Registries
from scow.transfer.uploads import Upload


class NotMounted(InvalidArgument):
    """A registry doesn't let a blob of one of its repositories be used in another one."""

    def __init__(self, blob: Descriptor, source: Reference, target: Reference) -> None:
        super().__init__(
            f"cannot use {source.familiar} in {target.repository().familiar}: the registry does not mount "
            f"{blob.digest} from it; push that image to {target.repository().familiar} first"
        )


async def push_list(
    target: Reference,
    data: bytes,
    media_type: str,
    sources: Sequence[Reference],
    *,
    registries: Registries,
    credentials: Credentials | None = None,
) -> Digest:
    """Put a list of manifests at `target`. `sources` name those that it refers to, by digest, in the same registry.

    What is in another repository is mounted, never copied. Raises InvalidArgument for what is no list or lists more
    than `sources`, NotMounted, and what registries refuse.
    """
    document = decode(data, media_type)
    if not isinstance(document, Index):
        raise InvalidArgument(f"{media_type} is no list of manifests")
    unnamed = {each.digest for each in document.manifests} - {source.digest for source in sources}
    if unnamed:
        raise InvalidArgument(f"no source is named for {', '.join(sorted(unnamed))}")
    for source in sources:
        if source.domain != target.domain:
            raise InvalidArgument(
                "cannot use source images from a different registry than the target image: "
                f"{source.domain} != {target.domain}"
            )

    async def put(client: RegistryClient) -> Digest:
        for source in sources:
            if source.path != target.path:
                await _bring(client, source, target, registries, credentials)
        await client.put_manifest(target.tag or target.digest or "latest", data, media_type)
        return sha256(data)

    return await registries.try_endpoints(target, credentials, put, actions=("pull", "push"))


async def _bring(
    client: RegistryClient,
    source: Reference,
    target: Reference,
    registries: Registries,
    credentials: Credentials | None,
) -> None:
    """Have a manifest of another repository in the client's, with its blobs."""
    descriptor, data = await resolve(source, registries=registries, credentials=credentials)
    manifest = decode(data, descriptor.media_type)
    if not isinstance(manifest, Manifest):
        raise InvalidArgument(f"{source.familiar} is a manifest list")
    for blob in (manifest.config, *manifest.layers):
        if await client.blob_size(blob.digest) is None:
            upload = Upload(client, Path(), blob, lambda size: None)
            if not await upload.mount(source.path):
                raise NotMounted(blob, source, target)
    await client.put_manifest(descriptor.digest, data, descriptor.media_type)
