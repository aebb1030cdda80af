"""Blobs in SQL: who has which, and until when it is kept for nobody."""

import time

from scow.oci.digest import Digest
from scow.registry.errors import QuotaExceeded
from scow.registry.metadata import LinkedBlob, QuotaUse
from scow.registry.objects import ObjectName
from scow.registry.sql import Session
from scow.registry.sql_names import BLOB, SqlNames, ensure_repository, find_repository, unlink, used_size


class SqlBlobs(SqlNames):
    """The part of the names that is about blobs."""

    def blob_now(self, repository: str, digest: Digest) -> LinkedBlob | None:
        view = self._views.find((repository, f"b {digest}"))
        return view if isinstance(view, LinkedBlob) else None

    async def blob(self, repository: str, digest: Digest) -> LinkedBlob | None:
        version = self._views.version()
        row = await self._db.row(BLOB, repository, digest)
        if row is None:
            return None
        found = LinkedBlob(*row)
        self._views.keep(version, (repository, f"b {digest}"), found)
        return found

    async def keep_blob(self, repository: str, digest: Digest) -> bool:
        async def keep(session: Session) -> bool:
            owner = await find_repository(session, repository)
            # In this order: a review that goes on ends before, and what it has decided is seen.
            await session.run(
                "UPDATE gc_queue SET review_after = ? WHERE kind = 'link' AND repository = ? AND digest = ?",
                time.time() + self._grace_s,
                owner,
                digest,
            )
            query = "SELECT 1 FROM repository_blob WHERE repository = ? AND digest = ?"
            return await session.row(query, owner, digest) is not None

        return await self._db.write(keep, durable=False)

    async def delete_blob(self, repository: str, digest: Digest) -> bool:
        async def delete(session: Session) -> bool:
            owner = await find_repository(session, repository)
            # Held: what is pushed now waits, or is seen.
            query = "SELECT 1 FROM repository_blob WHERE repository = ? AND digest = ? [hold]"
            await session.row(query, owner, digest)
            await self._check_unneeded(session, owner, repository, digest)
            gone = await unlink(session, owner, digest)
            if gone:
                await self._queue(session, "blob", 0, [digest])
            return gone

        return await self._db.write(delete, frees=True)

    async def let_go(self, digest: Digest) -> None:
        async def let_go(session: Session) -> None:
            query = "SELECT repository FROM repository_blob WHERE digest = ? ORDER BY repository [hold]"
            for (owner,) in await session.rows(query, digest):
                await unlink(session, owner, digest)
            await self._queue(session, "blob", 0, [digest])

        await self._db.write(let_go, frees=True)

    async def check_room(self, repository: str, size: int, digest: Digest | None = None) -> None:
        if not self._policies.quotas(repository):
            return
        if not await self._db.read(lambda session: self._may_have(session, repository, digest, size, hold=False)):
            raise QuotaExceeded(repository)

    def largest_blob(self, repository: str) -> int:
        return min((quota.size for quota in self._policies.quotas(repository)), default=0)

    async def quota_uses(self, repository: str) -> list[QuotaUse]:
        quotas = self._policies.quotas(repository)
        if not quotas:
            return []

        async def ask(session: Session) -> list[QuotaUse]:
            return [QuotaUse(quota, await used_size(session, repository, quota)) for quota in quotas]

        return await self._db.read(ask)

    async def holders(self, digest: Digest, limit: int) -> list[str]:
        query = (
            "SELECT r.name FROM repository_blob l JOIN repository r ON r.id = l.repository WHERE l.digest = ? LIMIT ?"
        )
        return [row[0] for row in await self._db.rows(query, digest, limit)]

    async def mount_blob(self, repository: str, source: str, digest: Digest) -> bool:
        async def mount(session: Session) -> bool:
            # Held: as long as one repository has the blob it is not forgotten.
            link = await session.row(
                "SELECT 1 FROM repository_blob WHERE repository = ? AND digest = ? [share]",
                await find_repository(session, source),
                digest,
            )
            found = await session.row("SELECT size FROM blob WHERE digest = ?", digest) if link else None
            if found is None:
                return False
            owner = await ensure_repository(session, repository)
            if not await self._may_have(session, repository, digest, found[0]):
                raise QuotaExceeded(repository)
            await self._link(session, owner, digest)
            return True

        return await self._db.write(mount)

    async def all_blobs(self, after: str, limit: int) -> list[tuple[Digest, ObjectName]]:
        query = "SELECT digest, object FROM blob WHERE digest > ? ORDER BY digest LIMIT ?"
        return [(row[0], row[1]) for row in await self._db.rows(query, after, limit)]
