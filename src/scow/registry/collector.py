"""Online garbage collection: reviews that are due, uploads that nobody goes on with, and the check of every byte.

Only what is in the review queue is looked at, so the cost follows churn. Deleting is: mark the blob in SQL, remove the
object, forget the row; a push of the same digest waits while the mark stands, and a collector that died in between
leaves mark and review for the next one.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

import msgspec

from scow.oci.digest import Digest
from scow.registry.errors import UploadBusy, UploadUnknown
from scow.registry.metadata import Metadata
from scow.registry.names import parse_upload_id
from scow.registry.objects import Objects
from scow.registry.uploads import Uploads

BATCH: Final = 100
STRAY_S: Final = 3600
"""Staged bytes without a record are left alone for so long: their record may be about to be written."""

log = logging.getLogger("scow.registry.collector")


class Collected(msgspec.Struct):
    """What one run has done."""

    reviews: int = 0
    blobs: int = 0
    uploads: int = 0


class Collector:
    """Collects when told, or every `interval_s` as a task."""

    def __init__(self, objects: Objects, metadata: Metadata, uploads: Uploads, upload_expiry_s: float) -> None:
        self._objects = objects
        self._metadata = metadata
        self._uploads = uploads
        self._upload_expiry_s = upload_expiry_s

    async def run_every(self, interval_s: float) -> None:
        """Collect now and again until cancelled; a failing run is logged, the next one tries again."""
        while True:
            try:
                done = await self.collect()
                if done.blobs or done.uploads:
                    log.info("collected %d blobs and %d uploads", done.blobs, done.uploads)
            except Exception:
                log.exception("garbage collection failed")
            await asyncio.sleep(interval_s)

    async def collect(self) -> Collected:
        """Decide everything that is due."""
        done = Collected()
        done.uploads = await self._expire_uploads()
        while reviews := await self._metadata.due_reviews(BATCH):
            for review in reviews:
                digest = await self._metadata.review(review)
                done.reviews += 1
                if digest is not None:
                    await self._objects.remove(digest)
                    await self._metadata.forget_blob(digest)
                    done.blobs += 1
        return done

    async def _expire_uploads(self) -> int:
        now = time.time()
        touched = dict(await self._objects.staged())
        recorded = await self._metadata.expired_uploads(now + STRAY_S)
        expired = [name for name in recorded if touched.get(name, 0) < now - self._upload_expiry_s and name in touched]
        # Records without bytes: cancelled half-way, or begun this moment.
        expired += [
            name
            for name in await self._metadata.expired_uploads(now - min(STRAY_S, self._upload_expiry_s))
            if name not in touched
        ]
        stray = touched.keys() - set(recorded)
        expired += [name for name in stray if touched[name] < now - min(STRAY_S, self._upload_expiry_s)]
        count = 0
        for name in expired:
            with suppress(UploadBusy):
                await self._drop(name)
                count += 1
        return count

    async def _drop(self, name: str) -> None:
        with suppress(UploadUnknown):
            # Held, so that a request which goes on with it at this moment wins or finds it gone.
            stage = await self._objects.open_stage(parse_upload_id(name))
            await stage.close()
        await self._uploads.drop(name)

    async def damaged(self) -> AsyncIterator[Digest]:
        """Read every blob; those that are missing or not what their digest says."""
        after = ""
        while blobs := await self._metadata.all_blobs(after, BATCH):
            for digest, _ in blobs:
                if not await self._objects.verify(digest):
                    yield digest
            after = blobs[-1][0]
