"""Online garbage collection: reviews that are due, uploads that nobody goes on with, and the check of every byte.

Only what is in the review queue is looked at, so the cost follows churn. Deleting is: forget the blob and note its
object as garbage, in one transaction; remove the object; forget the note. A push of the same digest at any moment makes
an object of another name, so any number of collectors may remove, late or twice, and one that died leaves the note.
Where a write may arrive after its writer has lost the upload, the note stays for a while, and the object is removed
again.
"""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import msgspec

from scow.oci.digest import Digest, digest_of
from scow.registry.errors import UploadBusy, UploadUnknown
from scow.registry.jobs import Jobs
from scow.registry.metadata import KeptManifest, Metadata
from scow.registry.metrics import Metrics
from scow.registry.names import parse_upload_id
from scow.registry.objects import ObjectName, Objects
from scow.registry.policies import Policies, TagTime
from scow.registry.schedule import Schedule
from scow.registry.upload_ids import AHEAD_S, FRESH_S
from scow.registry.uploads import Uploads

BATCH: Final = 100
MANIFESTS_BATCH: Final = 32
"""Each may have `LARGE_SIZE` bytes; larger ones are read one by one."""
RETENTION: Final = "retention"
COUNTING: Final = "pulls are counted"
LEASE_S: Final = 60.0
STRAY_S: Final = 3600
"""Staged bytes without a record are left alone for so long: their record may be about to be written."""

log = logging.getLogger("scow.registry.collector")


class Collected(msgspec.Struct):
    """What one run has done."""

    reviews: int = 0
    blobs: int = 0
    uploads: int = 0
    tags: int = 0  # that retention has removed
    manifests: int = 0


class Plan(msgspec.Struct):
    """What a run would do at this moment, as long as retention's own removals don't free more."""

    tags: list[tuple[str, str]] = []  # repository and name
    manifests: list[tuple[str, Digest]] = []  # repository and digest
    blobs: list[tuple[Digest, int]] = []  # with size
    uploads: list[str] = []  # IDs


def counts(done: Collected) -> dict[str, int]:
    """What was removed, by its kind."""
    return {"blobs": done.blobs, "uploads": done.uploads, "tags": done.tags, "manifests": done.manifests}


class Collector:
    """Collects when told, or every `interval_s` as a task."""

    def __init__(
        self,
        objects: Objects,
        metadata: Metadata,
        uploads: Uploads,
        policies: Policies,
        upload_expiry_s: float,
        metrics: Metrics,
        jobs: Jobs,
        retention: str = "",
    ) -> None:
        """`retention` is the schedule that it goes by, if not with each run. Raises SettingsInvalid."""
        self._objects = objects
        self._metadata = metadata
        self._uploads = uploads
        self._policies = policies
        self._upload_expiry_s = upload_expiry_s
        self._metrics = metrics
        self._jobs = jobs
        self._schedule = Schedule(retention, "gc.retention") if retention else None

    async def run_every(self, interval_s: float) -> None:
        """Collect now and again until cancelled; a failing run is logged, the next one tries again."""
        since = datetime.now(UTC)
        if not self._policies.pulls_matter:
            await self._jobs.forget(COUNTING)
        while True:
            try:
                done = await self.collect(await self._retention_is_due(since))
                if done.blobs or done.uploads or done.tags or done.manifests:
                    log.info("collected %s", ", ".join(f"{count} {kind}" for kind, count in counts(done).items()))
            except Exception:
                log.exception("garbage collection failed")
            await asyncio.sleep(interval_s)

    async def _retain(self, done: Collected) -> None:
        async for repository in self._retained():
            for tag in await self._expired_tags(repository):
                done.tags += await self._metadata.expire_tag(repository, tag)
            if (times := await self._untagged_before(repository)) is not None:
                done.manifests += await self._metadata.delete_untagged(repository, *times)

    async def _untagged_before(self, repository: str) -> tuple[float, float] | None:
        """Since when a manifest must have lost its last tag, and its last reader, to be removed; None if none is."""
        before = self._policies.untagged_before(repository)
        if before is None:
            return None
        unused = self._policies.unused_before(repository)
        if unused is None:
            return before, math.inf  # nobody counts: no pull keeps anything
        if await self._jobs.since(COUNTING) > unused:
            return None  # too early to tell
        return before, unused

    async def _retention_is_due(self, since: datetime) -> bool:
        """Whether its time has come and no other process was quicker."""
        if self._schedule is None or not self._policies.retain:
            return True
        last = datetime.fromtimestamp(await self._jobs.done_at(RETENTION), UTC)
        following = self._schedule.next(max(last, since) if self._schedule.is_fixed else last)
        if following is None or following > datetime.now(UTC) or not await self._jobs.lease(RETENTION, LEASE_S):
            return False
        await self._jobs.release(RETENTION, done=True)
        return True

    async def collect(self, retain: bool = True) -> Collected:
        """Decide everything that is due; retention too if `retain`."""
        done = Collected()
        done.uploads = await self._expire_uploads()
        if retain:
            await self._retain(done)
        while reviews := await self._metadata.due_reviews(BATCH):
            for review in reviews:
                await self._metadata.review(review)
                done.reviews += 1
        done.blobs = await self._remove_garbage()
        await self._objects.sweep()
        for kind, count in counts(done).items():
            self._metrics.count(f"collected_{kind}", count)
        return done

    async def _remove_garbage(self) -> int:
        count, after = 0, ""
        while names := await self._metadata.garbage(after, BATCH):
            for name in names:
                await self._objects.remove(name)
                count += await self._metadata.forget_garbage(name, self._objects.late_s)
            after = names[-1]
        return count

    async def plan(self) -> Plan:
        """What `collect` would remove. Changes nothing."""
        plan = Plan(blobs=await self._metadata.due_blobs(), uploads=await self._expired_uploads())
        async for repository in self._retained():
            plan.tags += [(repository, tag.name) for tag in await self._expired_tags(repository)]
            if (times := await self._untagged_before(repository)) is not None:
                untagged = await self._metadata.untagged(repository, *times)
                plan.manifests += [(repository, each) for each in untagged]
        return plan

    async def _retained(self) -> AsyncIterator[str]:
        after = ""
        while self._policies.retain and (names := await self._metadata.repositories(after, BATCH)):
            for name in names:
                yield name
            after = names[-1]

    async def _expired_tags(self, repository: str) -> list[TagTime]:
        if not self._policies.expires_tags(repository):
            return []
        tags = await self._metadata.tag_times(repository)
        if self._policies.counts_pulls(repository):
            # Whatever was there when the counting began counts as pulled then: nobody knows better.
            since = await self._jobs.since(COUNTING)
            tags = [TagTime(tag.name, tag.updated_at, max(tag.used_at, since)) for tag in tags]
        return self._policies.expired_tags(repository, tags)

    async def _expired_uploads(self) -> list[str]:
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
        expired += await self._metadata.expired_small_uploads(now - self._upload_expiry_s)
        return expired

    async def _expire_uploads(self) -> int:
        count = 0
        for name in await self._expired_uploads():
            with suppress(UploadBusy):
                await self._drop(name)
                count += 1
        await self._metadata.forget_uploads(time.time() - FRESH_S - AHEAD_S)
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
            for digest, name in blobs:
                if not await self._objects.verify(name) and await self._is_blob(digest, name):
                    yield digest
            after = blobs[-1][0]

    async def damaged_manifests(self) -> AsyncIterator[KeptManifest]:
        """Read every manifest; those that are not what their digest says."""
        after = (0, "")
        while manifests := await self._metadata.all_manifests(after, MANIFESTS_BATCH):
            for kept in manifests:
                if not await self._is_sound(kept):
                    yield kept
            after = manifests[-1].place

    async def _is_sound(self, kept: KeptManifest) -> bool:
        data = kept.data
        if data is None:
            stored = await self._metadata.manifest(kept.repository, kept.digest, True)
            if stored is None:  # deleted since it was listed
                return True
            data = stored.data
        if not isinstance(data, bytes):  # SQLite keeps of what kind a value is beside it, where it can rot too
            return False
        return await asyncio.to_thread(digest_of, data, kept.digest) == kept.digest

    async def _is_blob(self, digest: Digest, name: ObjectName) -> bool:
        """Whether it still is one: collection may have been quicker than the check."""
        return (digest, name) in await self._metadata.all_blobs(digest[:-1], 16)
