"""Manifests, tags and lists in SQL.

Manifests lie in the database as bytes: pulling by tag is one query, and none while nothing changes, since answers are
kept where the database can tell that they are current.
"""

import json
import time
from collections.abc import Sequence
from typing import Final

from scow.oci.digest import Digest
from scow.registry.conditions import NO_CONDITIONS, Conditions
from scow.registry.errors import ReferencesUnknown
from scow.registry.metadata import (
    LARGE_SIZE,
    SHOWN_SIZE,
    KeptManifest,
    KnownManifest,
    LargeManifest,
    LinkedBlob,
    NewManifest,
    PastTag,
    Referrer,
    ShownRepository,
    ShownTag,
    StoredManifest,
)
from scow.registry.sql import ALL, Row, Session
from scow.registry.sql_names import ID_OF, NOBODY, SqlNames, ensure_repository, find_repository

_UNLESS_LARGE: Final = f"CASE WHEN m.size <= {LARGE_SIZE} THEN m.data END"
_FOUND: Final = f"SELECT m.digest, m.media_type, m.size, {_UNLESS_LARGE} FROM manifest m WHERE m.repository = {ID_OF} "
_WHOLE: Final = f"SELECT m.digest, m.media_type, m.data FROM manifest m WHERE m.repository = {ID_OF} "
_BY_DIGEST: Final = "AND m.digest = ?"
_BY_TAG: Final = f"AND m.digest = (SELECT digest FROM tag WHERE repository = {ID_OF} AND name = ?)"
HISTORY: Final = 20
"""Moves of each tag that are remembered."""
_REFERENCES: Final = 200
"""Digests that are looked for by one statement."""


class SqlManifests(SqlNames):
    """The part of the names that is about manifests and tags."""

    def manifest_now(self, repository: str, reference: str) -> KnownManifest | None:
        view = self._views.find((repository, reference))
        return None if isinstance(view, LinkedBlob) else view

    async def find_manifest(self, repository: str, reference: str, is_digest: bool) -> KnownManifest | None:
        version = self._views.version()
        row = await self._row(_FOUND, repository, reference, is_digest)
        if row is None:
            return None
        digest, media_type, size, data = row
        found = (
            StoredManifest(digest, media_type, data)
            if data is not None
            else LargeManifest(digest, media_type, int(size))
        )
        if is_digest or self._db.is_exact:
            self._views.keep(version, (repository, reference), found)
        return found

    async def manifest(self, repository: str, reference: str, is_digest: bool) -> StoredManifest | None:
        row = await self._row(_WHOLE, repository, reference, is_digest)
        return StoredManifest(*row) if row is not None else None

    async def _row(self, query: str, repository: str, reference: str, is_digest: bool) -> Row | None:
        if is_digest:
            return await self._db.row(query + _BY_DIGEST, repository, reference)
        return await self._db.row(query + _BY_TAG, repository, repository, reference)

    async def put_manifest(
        self, repository: str, manifest: NewManifest, tags: Sequence[str], conditions: Conditions = NO_CONDITIONS
    ) -> None:
        annotations = json.dumps(manifest.annotations) if manifest.annotations else None

        async def put(session: Session) -> None:
            owner = await find_repository(session, repository)
            # Held until this is committed: whoever collects sees what refers to them, or we see that they are gone.
            missing = await _missing(session, "repository_blob", owner, manifest.blobs)
            missing += await _missing(session, "manifest", owner, manifest.manifests)
            if missing and not manifest.sparse:
                raise ReferencesUnknown(list(missing))
            if owner == NOBODY:
                owner = await ensure_repository(session, repository)
            await session.run(
                "INSERT INTO manifest (repository, digest, media_type, artifact_type, subject, annotations, size, "
                "pushed_at, data) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (repository, digest) DO UPDATE SET "
                "media_type = excluded.media_type, artifact_type = excluded.artifact_type, "
                "pushed_at = excluded.pushed_at, "
                # They are equal, unless what was there has rotted.
                "data = CASE WHEN manifest.data = excluded.data THEN manifest.data ELSE excluded.data END",
                owner,
                manifest.digest,
                manifest.media_type,
                manifest.artifact_type,
                manifest.subject,
                annotations,
                len(manifest.data),
                time.time(),
                manifest.data,
            )
            references = [(digest, "blob") for digest in manifest.blobs]
            references += [(digest, "manifest") for digest in manifest.manifests]
            if references:
                await session.run_many(
                    "INSERT INTO manifest_ref (repository, manifest, digest, kind) VALUES (?, ?, ?, ?) "
                    "ON CONFLICT DO NOTHING",
                    [(owner, manifest.digest, *reference) for reference in references],
                )
            for tag in sorted(tags):
                await self._point(session, owner, repository, tag, manifest.digest, conditions)

        await self._db.write(put)

    async def _point(
        self, session: Session, owner: int, repository: str, tag: str, digest: Digest, conditions: Conditions
    ) -> None:
        key, now = (owner, tag), time.time()
        while not conditions.want(None) or not await session.run(
            "INSERT INTO tag (repository, name, digest, updated_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            *(*key, digest, now),
        ):
            before = await session.row("SELECT digest FROM tag WHERE repository = ? AND name = ? [hold]", *key)
            conditions.check(before[0] if before is not None else None)
            if before is None:  # removed between the two
                continue
            if before[0] != digest:
                self._check_mutable(repository, tag)
                await _untag(session, owner, before[0])
                await _remember(session, owner, tag, before[0], now)
            statement = "UPDATE tag SET digest = ?, updated_at = ? WHERE repository = ? AND name = ?"
            await session.run(statement, digest, now, *key)
            return

    async def delete_tag(self, repository: str, tag: str, conditions: Conditions = NO_CONDITIONS) -> bool:
        async def delete(session: Session) -> bool:
            owner = await find_repository(session, repository)
            query = "SELECT digest FROM tag WHERE repository = ? AND name = ? [hold]"
            row = await session.row(query, owner, tag)
            if row is None:
                return False
            conditions.check(row[0])
            self._check_mutable(repository, tag)
            return await self._delete_tag(session, owner, tag)

        return await self._db.write(delete, frees=True)

    async def _delete_tag(self, session: Session, owner: int, tag: str) -> bool:
        row = await session.row("DELETE FROM tag WHERE repository = ? AND name = ? RETURNING digest", owner, tag)
        if row is None:
            return False
        await session.run("DELETE FROM tag_history WHERE repository = ? AND name = ?", owner, tag)
        await _untag(session, owner, row[0])
        return True

    async def delete_manifest(self, repository: str, digest: Digest) -> bool:
        async def delete(session: Session) -> bool:
            owner = await find_repository(session, repository)
            await session.row("SELECT 1 FROM manifest WHERE repository = ? AND digest = ? [hold]", owner, digest)
            await self._check_unneeded(session, owner, repository, digest)
            return await self._delete_manifest(session, owner, digest)

        return await self._db.write(delete, frees=True)

    async def _delete_manifest(self, session: Session, owner: int, digest: str) -> bool:
        key = (owner, digest)
        query = "SELECT digest FROM manifest_ref WHERE repository = ? AND manifest = ? AND kind = 'blob'"
        blobs = [row[0] for row in await session.rows(query, *key)]
        await session.run(
            "DELETE FROM tag_history WHERE repository = ? "
            "AND name IN (SELECT name FROM tag WHERE repository = ? AND digest = ?)",
            *(owner, *key),
        )
        gone = await session.run("DELETE FROM manifest WHERE repository = ? AND digest = ?", *key) > 0
        await self._queue(session, "link", owner, blobs)
        return gone

    async def repository_exists(self, repository: str) -> bool:
        return await self._db.row("SELECT 1 FROM repository WHERE name = ?", repository) is not None

    async def tags(self, repository: str, after: str, limit: int) -> list[str]:
        query = f"SELECT t.name FROM tag t WHERE t.repository = {ID_OF} AND t.name > ? ORDER BY t.name LIMIT ?"
        return [row[0] for row in await self._db.rows(query, repository, after, ALL if limit < 0 else limit)]

    async def repositories(self, after: str, limit: int) -> list[str]:
        query = (
            "SELECT r.name FROM repository r WHERE r.name > ? "
            "AND EXISTS (SELECT 1 FROM manifest m WHERE m.repository = r.id) ORDER BY r.name LIMIT ?"
        )
        return [row[0] for row in await self._db.rows(query, after, limit)]

    async def tag_history(self, repository: str, tag: str) -> list[PastTag]:
        query = (
            "SELECT h.digest, h.changed_at, m.digest IS NOT NULL FROM tag_history h "
            "LEFT JOIN manifest m ON m.repository = h.repository AND m.digest = h.digest "
            f"WHERE h.repository = {ID_OF} AND h.name = ? ORDER BY h.changed_at DESC LIMIT {HISTORY}"
        )
        return [PastTag(row[0], row[1], bool(row[2])) for row in await self._db.rows(query, repository, tag)]

    async def show_repositories(self, search: str, after: str, limit: int) -> list[ShownRepository]:
        query = (
            "SELECT r.name, r.size FROM repository r WHERE r.name > ? AND [find](r.name, ?) > 0 "
            "AND EXISTS (SELECT 1 FROM manifest m WHERE m.repository = r.id) ORDER BY r.name LIMIT ?"
        )
        return [ShownRepository(*row) for row in await self._db.rows(query, after, search, limit)]

    async def show_tags(self, repository: str, search: str, after: str, limit: int) -> list[ShownTag]:
        query = (
            "SELECT t.name, t.digest, t.updated_at, "
            f"(SELECT CASE WHEN m.size <= {SHOWN_SIZE} THEN m.data END "
            "FROM manifest m WHERE m.repository = t.repository AND m.digest = t.digest) "
            f"FROM tag t WHERE t.repository = {ID_OF} AND t.name > ? AND [find](t.name, ?) > 0 ORDER BY t.name LIMIT ?"
        )
        return [ShownTag(*row) for row in await self._db.rows(query, repository, after, search, limit)]

    async def all_manifests(self, after: tuple[int, str], limit: int) -> list[KeptManifest]:
        query = (
            f"SELECT m.repository, r.name, m.digest, {_UNLESS_LARGE} "
            "FROM manifest m JOIN repository r ON r.id = m.repository "
            "WHERE (m.repository, m.digest) > (?, ?) ORDER BY m.repository, m.digest LIMIT ?"
        )
        return [KeptManifest(*row) for row in await self._db.rows(query, *after, limit)]

    async def problems(self) -> list[str]:
        return await self._db.problems()

    async def referrers(
        self, repository: str, subject: Digest, artifact_type: str | None, after: str, limit: int
    ) -> list[Referrer]:
        filtered = ("", ()) if artifact_type is None else ("AND m.artifact_type = ? ", (artifact_type,))
        query = (
            "SELECT m.digest, m.media_type, m.size, m.artifact_type, m.annotations FROM manifest m "
            f"WHERE m.repository = {ID_OF} AND m.subject = ? "
            f"AND m.digest > ? {filtered[0]}ORDER BY m.digest LIMIT ?"
        )
        return [
            Referrer(
                digest=digest,
                media_type=media_type,
                size=size,
                artifact_type=kind,
                annotations=json.loads(annotations) if annotations else None,
            )
            for digest, media_type, size, kind, annotations in await self._db.rows(
                query, repository, subject, after, *filtered[1], limit
            )
        ]


async def _missing(session: Session, table: str, owner: int, digests: Sequence[Digest]) -> list[Digest]:
    """Those that the repository lacks; the others stay until the transaction ends."""
    found: set[str] = set()
    for start in range(0, len(digests), _REFERENCES):
        part = digests[start : start + _REFERENCES]
        query = f"SELECT digest FROM {table} WHERE repository = ? AND digest IN ({', '.join('?' * len(part))}) [share]"
        found.update(row[0] for row in await session.rows(query, owner, *part))
    return [digest for digest in digests if digest not in found]


async def _untag(session: Session, owner: int, digest: str) -> None:
    """Let the time of a manifest that lost a tag begin anew: untagged ones are removed by age."""
    statement = "UPDATE manifest SET pushed_at = ? WHERE repository = ? AND digest = ?"
    await session.run(statement, time.time(), owner, digest)


async def _remember(session: Session, owner: int, tag: str, digest: str, until: float) -> None:
    """Write down what a tag stood for until now; of each tag the newest few are kept."""
    key = (owner, tag)
    statement = "INSERT INTO tag_history (repository, name, digest, changed_at) VALUES (?, ?, ?, ?)"
    await session.run(statement, *key, digest, until)
    await session.run(
        "DELETE FROM tag_history WHERE repository = ? AND name = ? AND changed_at < (SELECT changed_at "
        f"FROM tag_history WHERE repository = ? AND name = ? ORDER BY changed_at DESC LIMIT 1 OFFSET {HISTORY - 1})",
        *(*key, *key),
    )
