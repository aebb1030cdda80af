"""Referrers at registries that don't list them by themselves: an index under a tag that names the subject.

distribution-spec, "Pushing Manifests with Subject" and "Referrers Tag Schema".
"""

import json
from http import HTTPStatus

import msgspec

from scow.oci import media_types
from scow.oci.descriptor import Descriptor
from scow.oci.digest import Digest, algorithm, encoded
from scow.oci.manifest import Index, Manifest, decode
from scow.transfer.client import RegistryClient
from scow.transfer.registry_error import Refused


async def list_referrer(client: RegistryClient, subject: Digest, digest: Digest, data: bytes) -> None:
    """Add a manifest that refers to `subject`, and that was pushed, to the list that the repository has by a tag.

    Raises Refused, and what the way to the registry may raise.
    """
    tag = f"{algorithm(subject)}-{encoded(subject)}"
    try:
        document = decode((await client.manifest(tag)).data)
    except Refused as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        document = None
    known = list(document.manifests) if isinstance(document, Index) else []
    if any(each.digest == digest for each in known):
        return
    manifest = decode(data)
    assert isinstance(manifest, Manifest)
    added = Descriptor(
        media_type=manifest.media_type or media_types.OCI_MANIFEST,
        digest=digest,
        size=len(data),
        artifact_type=manifest.artifact_type or manifest.config.media_type,
        annotations=manifest.annotations,
    )
    index = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_INDEX,
        "manifests": [msgspec.to_builtins(each) for each in (*known, added)],
    }
    await client.put_manifest(tag, json.dumps(index, separators=(",", ":")).encode(), media_types.OCI_INDEX)
