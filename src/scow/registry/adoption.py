"""A file that holds a blob's bytes becomes a blob of a repository, the way that an upload goes."""

import uuid
from pathlib import Path

from scow.oci.digest import Digest, algorithm
from scow.registry.errors import QuotaExceeded
from scow.registry.metadata import Metadata, Upload
from scow.registry.objects import Objects


async def adopt(
    objects: Objects, metadata: Metadata, repository: str, digest: Digest, path: Path, *, verify: bool
) -> int:
    """Take a file over, by a hard link where that can be; its size. `verify` reads it to check its digest.

    Raises QuotaExceeded, DigestInvalid, StorageFull and FileNotFoundError.
    """
    upload = Upload(str(uuid.uuid4()), repository, algorithm(digest), private=True)
    await metadata.begin_upload(upload)
    try:
        name = await metadata.close_upload(upload.upload_id, digest)
        size = await objects.adopt(path, name, verify=verify)
        fits = await metadata.commit_blob(upload, digest, name, size)
    except BaseException:
        await metadata.end_upload(upload.upload_id)
        raise
    if not fits:
        raise QuotaExceeded(repository)
    return size
