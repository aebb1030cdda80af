"""A data root with many images of many layers, made without pulling them: `python -m support.many_images DIR N M`."""

import asyncio
import hashlib
import sqlite3
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from scow.oci.digest import DiffID, Digest, sha256
from scow.oci.media_types import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST
from scow.oci.platform import host_platform
from scow.store.erofs import build_index
from scow.store.images import Image
from scow.store.store import Store
from scow.store.tarstream import TarReader
from support import images

AT_A_TIME = 50


async def fill(data_root: Path, count: int, layers_each: int) -> None:
    """Make `count` images of `layers_each` layers, of which every fifth is shared by ten images."""
    with tempfile.TemporaryDirectory() as exec_root:
        store = await Store.open(data_root, Path(exec_root))
        try:
            for first in range(0, count, AT_A_TIME):
                await asyncio.gather(
                    *(
                        _image(store, data_root, number, layers_each)
                        for number in range(first, min(count, first + AT_A_TIME))
                    )
                )
        finally:
            await store.aclose()


async def _image(store: Store, data_root: Path, number: int, layers_each: int) -> None:
    rows, diff_ids, descriptors = [], [], []
    for depth in range(layers_each):
        owner = number // 10 if depth % 5 == 0 else number
        tar = images.tar({f"layer-{depth % 5 == 0}-{owner}-{depth}": b"content"})
        diff_id = DiffID(sha256(tar))
        folder = data_root / "layers" / "sha256" / diff_id.partition(":")[2]
        if not folder.exists():
            folder.mkdir(parents=True)
            (folder / "tar").write_bytes(tar)
            reader = TarReader()
            reader.feed(tar)
            (folder / "index").write_bytes(build_index(reader.finish(), len(tar)))
        blob = Digest(f"sha256:{hashlib.sha256(tar + b'z').hexdigest()}")
        rows.append((diff_id, len(tar), blob))
        diff_ids.append(diff_id)
        descriptors.append({"mediaType": OCI_LAYER_GZIP, "digest": blob, "size": 100})
    config = images.document(
        OCI_CONFIG,
        {
            "architecture": host_platform().architecture,
            "os": "linux",
            "config": {"Labels": {"number": str(number)}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created_by": f"step {depth}"} for depth in range(layers_each)],
        },
    )
    manifest = images.document(
        OCI_MANIFEST,
        {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config.descriptor, "layers": descriptors},
    )

    def record(db: sqlite3.Connection) -> None:
        for diff_id, size, blob in rows:
            db.execute("INSERT OR IGNORE INTO layers VALUES (?, ?, 'erofs', 1, 7)", (diff_id, size))
            db.execute("INSERT OR IGNORE INTO layer_blobs VALUES (?, ?, 100, ?)", (blob, diff_id, OCI_LAYER_GZIP))

    await store.db.write(record)
    for document in (config, manifest):
        await store.content.put(document.data)
    await store.images.publish(
        Image(
            id=Digest(config.digest),
            manifest=manifest.digest,
            platform=host_platform(),
            diff_ids=tuple(diff_ids),
            size=7 * layers_each,
            stored_at=datetime.now(UTC),
        ),
        name=f"docker.io/many/image-{number}:latest",
        repo_digests=[f"docker.io/many/image-{number}@{manifest.digest}"],
    )


if __name__ == "__main__":
    asyncio.run(fill(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
