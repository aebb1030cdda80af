"""What the statements about manifests, blobs and reviews share: repositories, links, the review queue, garbage."""

import time
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final

from scow.oci.digest import Digest
from scow.registry.errors import TagImmutable
from scow.registry.objects import ObjectName, object_digest
from scow.registry.policies import Policies, Quota
from scow.registry.sql import Database, Session
from scow.registry.views import Views

NOBODY: Final = -1
ID_OF: Final = "(SELECT id FROM repository WHERE name = ?)"
"""The number of a repository, by its name. Not a join: PostgreSQL would choose the way to go by what it believes about
the tables' sizes, which after an import is wrong for minutes."""
BLOB: Final = (
    "SELECT b.object, b.size, q.review_after FROM repository_blob l JOIN blob b ON b.digest = l.digest "
    "LEFT JOIN gc_queue q ON q.kind = 'link' AND q.repository = l.repository AND q.digest = l.digest "
    f"WHERE l.repository = {ID_OF} AND l.digest = ?"
)


class SqlNames:
    """Base of the parts of `SqlMetadata`; `grace_s` is how long what nobody refers to is kept."""

    def __init__(self, database: Database, grace_s: float, policies: Policies) -> None:
        self._db = database
        self._policies = policies
        self._grace_s = grace_s
        self._views = Views(database)

    def version(self) -> int:
        """Changes whenever any process has changed what others may remember."""
        return self._db.version()

    async def _queue(self, session: Session, kind: str, repository: int, digests: Iterable[str]) -> None:
        """Have blobs looked at when the grace time has passed. Whoever holds a review now is waited for."""
        after = time.time() + self._grace_s
        await session.run_many(
            "INSERT INTO gc_queue (kind, repository, digest, review_after) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (kind, repository, digest) DO UPDATE SET review_after = excluded.review_after",
            [(kind, repository, digest, after) for digest in sorted(digests)],
        )

    async def _link(self, session: Session, owner: int, digest: Digest) -> None:
        """Give a repository a blob. The blob's row is held, or new."""
        # In this order: a review of the link that goes on ends before, and none begins until this is committed.
        await self._queue(session, "link", owner, [digest])
        await session.run(
            "INSERT INTO repository_blob (repository, digest) VALUES (?, ?) ON CONFLICT DO NOTHING", owner, digest
        )

    def _check_mutable(self, repository: str, tag: str) -> None:
        if self._policies.is_immutable(repository, tag):
            raise TagImmutable(tag)

    async def _check_unneeded(self, session: Session, owner: int, repository: str, digest: Digest) -> None:
        """Raise TagImmutable if a tag that never goes stands for a manifest or blob, or for what refers to it."""
        if not self._policies.has_immutable(repository):
            return
        waiting: list[str] = [digest]
        known = set(waiting)
        while waiting:
            key = (owner, waiting.pop())
            for (tag,) in await session.rows("SELECT name FROM tag WHERE repository = ? AND digest = ?", *key):
                self._check_mutable(repository, tag)
            query = "SELECT manifest FROM manifest_ref WHERE repository = ? AND digest = ?"
            parents = {row[0] for row in await session.rows(query, *key)} - known
            known |= parents
            waiting += parents

    async def _may_have(
        self, session: Session, repository: str, digest: Digest | None, size: int, *, hold: bool = True
    ) -> bool:
        """Whether quotas allow a repository so many bytes more; `hold` keeps it so until the transaction ends."""
        quotas = self._policies.quotas(repository)
        if not quotas or (digest is not None and await session.row(BLOB, repository, digest) is not None):
            return True
        return await _has_room(session, repository, quotas, size, hold)


async def find_repository(session: Session, name: str) -> int:
    """A repository's number, NOBODY's if there is none."""
    row = await session.row("SELECT id FROM repository WHERE name = ?", name)
    return int(row[0]) if row else NOBODY


async def ensure_repository(session: Session, name: str) -> int:
    """A repository's number; it is made if there is none."""
    if (found := await find_repository(session, name)) != NOBODY:
        return found
    row = await session.row("INSERT INTO repository (name) VALUES (?) ON CONFLICT DO NOTHING RETURNING id", name)
    return int(row[0]) if row else await find_repository(session, name)


async def queue_blob(session: Session, digest: str) -> None:
    """Have a blob that may have lost its last user looked at by the next collection."""
    await session.run(
        "INSERT INTO gc_queue (kind, repository, digest, review_after) VALUES ('blob', 0, ?, 0) ON CONFLICT DO NOTHING",
        digest,
    )


async def discard(session: Session, name: str) -> None:
    """Make an object garbage; if a blob is kept as it, have that looked at: its review may have been for an upload."""
    digest = object_digest(ObjectName(name))
    if await session.row("SELECT 1 FROM blob WHERE digest = ? AND object = ?", digest, name) is None:
        await session.run("INSERT INTO garbage (object) VALUES (?) ON CONFLICT DO NOTHING", name)
    else:
        await queue_blob(session, digest)


async def unlink(session: Session, owner: int, digest: Digest) -> bool:
    """Take a blob away from a repository; False if it did not have it."""
    return await session.run("DELETE FROM repository_blob WHERE repository = ? AND digest = ?", owner, digest) > 0


async def used_size(session: Session, repository: str, quota: Quota, *, hold: bool = False) -> int:
    """Bytes that count against a quota; `hold` lets nobody else add to them until the transaction ends."""
    if quota.prefix is None:
        query = f"SELECT size FROM repository WHERE name = ? {'[own]' if hold else ''}"
        row = await session.row(query, repository)
    else:
        if hold:
            # No row stands for a namespace, whose repositories come and go: one at a time adds to it.
            await session.row("SELECT [alone](?)", _number(quota.prefix))
        # A blob that several repositories of the namespace have counts in each of them.
        query = "SELECT CAST(SUM(size) AS BIGINT) FROM repository WHERE name >= ? AND name < ?"
        row = await session.row(query, quota.prefix, quota.prefix + "\U0010ffff")
    return row[0] or 0 if row else 0


def _number(prefix: str) -> int:
    return int.from_bytes(blake2b(f"quota {prefix}".encode(), digest_size=8).digest(), "little", signed=True)


async def _has_room(session: Session, repository: str, quotas: Sequence[Quota], size: int, hold: bool) -> bool:
    for quota in quotas:
        if await used_size(session, repository, quota, hold=hold) + size > quota.size:
            return False
    return True
