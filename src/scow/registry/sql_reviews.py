"""Garbage collection and retention in SQL.

Review rows (`gc_queue`) are written by whatever may orphan a blob, so collection costs as much as there was churn and
scans nothing. Any number of collectors share the queue: each row is decided by one of them.
"""

import time
from typing import Final

from scow.oci.digest import Digest
from scow.registry.metadata import Review
from scow.registry.objects import ObjectName
from scow.registry.policies import TagTime
from scow.registry.sql import Session
from scow.registry.sql_manifests import SqlManifests
from scow.registry.sql_names import ID_OF, find_repository, queue_blob, unlink

_DUE: Final = """
WITH gone AS (
    SELECT q.repository, q.digest FROM gc_queue q WHERE q.kind = 'link' AND q.review_after <= ? AND NOT EXISTS (
        SELECT 1 FROM manifest_ref m WHERE m.repository = q.repository AND m.digest = q.digest))
SELECT b.digest, b.size FROM blob b
WHERE b.digest IN (
    SELECT digest FROM gone UNION SELECT digest FROM gc_queue WHERE kind = 'blob' AND review_after <= ?)
AND NOT EXISTS (SELECT 1 FROM upload u WHERE u.closing = b.digest)
AND NOT EXISTS (SELECT 1 FROM repository_blob l WHERE l.digest = b.digest AND NOT EXISTS (
    SELECT 1 FROM gone g WHERE g.repository = l.repository AND g.digest = l.digest))
ORDER BY b.digest
"""
_UNTAGGED: Final = """
SELECT m.digest FROM manifest m WHERE m.repository = ? AND m.pushed_at < ?
AND NOT EXISTS (
    SELECT 1 FROM manifest_use u WHERE u.repository = m.repository AND u.digest = m.digest AND u.used_at > ?)
AND NOT EXISTS (SELECT 1 FROM tag t WHERE t.repository = m.repository AND t.digest = m.digest)
AND NOT EXISTS (
    SELECT 1 FROM manifest_ref r WHERE r.repository = m.repository AND r.digest = m.digest AND r.kind = 'manifest')
AND (m.subject IS NULL OR NOT EXISTS (
    SELECT 1 FROM manifest s WHERE s.repository = m.repository AND s.digest = m.subject))
"""
_REVIEW: Final = "kind = ? AND repository = ? AND digest = ?"


class SqlReviews(SqlManifests):
    """The part of the names that is about what may go."""

    async def due_reviews(self, limit: int) -> list[Review]:
        query = (
            "SELECT kind, repository, digest FROM gc_queue WHERE review_after <= ? ORDER BY review_after LIMIT ? [take]"
        )
        return [Review(*row) for row in await self._db.rows(query, time.time(), limit)]

    async def review(self, review: Review) -> None:
        key = (review.kind, review.repository_id, review.digest)

        async def decide(session: Session) -> None:
            query = f"SELECT 1 FROM gc_queue WHERE {_REVIEW} AND review_after <= ? [take]"
            if await session.row(query, *key, time.time()) is None:
                return  # somebody has used it since, or another collector is quicker
            if review.kind == "blob":
                await self._review_blob(session, review.digest)
            else:
                await self._review_link(session, review.repository_id, review.digest)
            await session.run(f"DELETE FROM gc_queue WHERE {_REVIEW}", *key)

        await self._db.write(decide, frees=True)

    async def _review_blob(self, session: Session, digest: Digest) -> None:
        await session.row("SELECT 1 FROM blob WHERE digest = ? [hold]", digest)
        users = "SELECT 1 FROM repository_blob WHERE digest = ? UNION ALL SELECT 1 FROM upload WHERE closing = ?"
        if await session.row(users, digest, digest) is None:
            # Whoever pushes it from now on makes another object: this one may be removed at leisure.
            gone = await session.row("DELETE FROM blob WHERE digest = ? RETURNING object", digest)
            if gone is not None:
                await session.run("INSERT INTO garbage (object) VALUES (?) ON CONFLICT DO NOTHING", gone[0])

    async def _review_link(self, session: Session, owner: int, digest: Digest) -> None:
        await session.row("SELECT 1 FROM repository_blob WHERE repository = ? AND digest = ? [hold]", owner, digest)
        used = "SELECT 1 FROM manifest_ref WHERE repository = ? AND digest = ?"
        if await session.row(used, owner, digest) is None and await unlink(session, owner, digest):
            await queue_blob(session, digest)

    async def garbage(self, after: str, limit: int) -> list[ObjectName]:
        query = "SELECT object FROM garbage WHERE object > ? AND due_at <= ? ORDER BY object LIMIT ?"
        return [ObjectName(row[0]) for row in await self._db.rows(query, after, time.time(), limit)]

    async def forget_garbage(self, name: ObjectName, late_s: float = 0.0) -> bool:
        async def forget(session: Session) -> bool:
            if late_s:
                again = "UPDATE garbage SET due_at = ? WHERE object = ? AND due_at = 0"
                if await session.run(again, time.time() + late_s, name):
                    return True
                await session.run("DELETE FROM garbage WHERE object = ? AND due_at <= ?", name, time.time())
                return False
            return await session.run("DELETE FROM garbage WHERE object = ?", name) > 0

        return await self._db.write(forget, frees=True)

    async def due_blobs(self) -> list[tuple[Digest, int]]:
        now = time.time()
        return [(row[0], row[1]) for row in await self._db.rows(_DUE, now, now)]

    async def tag_times(self, repository: str) -> list[TagTime]:
        query = (
            "SELECT t.name, t.updated_at, COALESCE("
            "(SELECT u.used_at FROM manifest_use u WHERE u.repository = t.repository AND u.digest = t.digest), 0) "
            f"FROM tag t WHERE t.repository = {ID_OF} ORDER BY t.name"
        )
        return [TagTime(*row) for row in await self._db.rows(query, repository)]

    async def expire_tag(self, repository: str, tag: TagTime) -> bool:
        async def expire(session: Session) -> bool:
            owner = await find_repository(session, repository)
            query = "SELECT 1 FROM tag WHERE repository = ? AND name = ? AND updated_at = ? [hold]"
            if await session.row(query, owner, tag.name, tag.updated_at) is None:
                return False
            return await self._delete_tag(session, owner, tag.name)

        return await self._db.write(expire, frees=True)

    async def untagged(self, repository: str, before: float, unused_before: float) -> list[Digest]:
        async def find(session: Session) -> list[Digest]:
            owner = await find_repository(session, repository)
            return [row[0] for row in await session.rows(_UNTAGGED, owner, before, unused_before)]

        return await self._db.read(find)

    async def delete_untagged(self, repository: str, before: float, unused_before: float) -> int:
        async def delete(session: Session) -> int:
            owner, count = await find_repository(session, repository), 0
            times = (before, unused_before)
            for (digest,) in await session.rows(f"{_UNTAGGED} ORDER BY m.digest", owner, *times):
                # Held, then asked again: a tag or an index that has come meanwhile keeps it.
                await session.row("SELECT 1 FROM manifest WHERE repository = ? AND digest = ? [hold]", owner, digest)
                if await session.row(f"{_UNTAGGED} AND m.digest = ?", owner, *times, digest) is not None:
                    count += await self._delete_manifest(session, owner, digest)
            return count

        return await self._db.write(delete, frees=True)
