"""The registry's names in SQLite, behind `Metadata`.

Manifests lie in the database as bytes: pulling by tag is one query, and none while nothing changes, since answers are
kept until the database's version moves. Review rows (`gc_queue`) are written by whatever may orphan a blob, so garbage
collection costs as much as there was churn and scans nothing.
"""

import json
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from scow.oci.digest import Digest
from scow.registry.database import Database
from scow.registry.errors import QuotaExceeded, ReferencesUnknown, TagImmutable, UploadUnknown
from scow.registry.metadata import (
    LinkedBlob,
    NewManifest,
    Referrer,
    Review,
    ShownRepository,
    ShownTag,
    StoredManifest,
    Upload,
)
from scow.registry.objects import ObjectName, object_digest, object_name
from scow.registry.policies import Policies, Quota, TagTime

VIEWS_LIMIT: Final = 4096
VIEWS_DATA_LIMIT: Final = 32 << 20
"""Bytes of manifests that are kept in memory."""

_BY_DIGEST: Final = (
    "SELECT m.digest, m.media_type, m.data FROM repository r JOIN manifest m ON m.repository = r.id "
    "WHERE r.name = ? AND m.digest = ?"
)
_BY_TAG: Final = (
    "SELECT m.digest, m.media_type, m.data FROM repository r JOIN tag t ON t.repository = r.id "
    "JOIN manifest m ON m.repository = r.id AND m.digest = t.digest WHERE r.name = ? AND t.name = ?"
)
_BLOB: Final = (
    "SELECT b.object, b.size, q.review_after FROM repository r JOIN repository_blob l ON l.repository = r.id "
    "JOIN blob b ON b.digest = l.digest "
    "LEFT JOIN gc_queue q ON q.kind = 'link' AND q.repository = r.id AND q.digest = l.digest "
    "WHERE r.name = ? AND l.digest = ?"
)


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
AND NOT EXISTS (SELECT 1 FROM tag t WHERE t.repository = m.repository AND t.digest = m.digest)
AND NOT EXISTS (
    SELECT 1 FROM manifest_ref r WHERE r.repository = m.repository AND r.digest = m.digest AND r.kind = 'manifest')
AND (m.subject IS NULL OR NOT EXISTS (
    SELECT 1 FROM manifest s WHERE s.repository = m.repository AND s.digest = m.subject))
"""


class SqliteMetadata:
    """Names in one SQLite file; `grace_s` is how long what nobody refers to is kept."""

    def __init__(self, database: Database, grace_s: float, policies: Policies) -> None:
        self._db = database
        self._policies = policies
        self._grace_s = grace_s
        self._views: OrderedDict[tuple[str, str], StoredManifest | LinkedBlob] = OrderedDict()
        self._views_data = 0
        self._views_version = -1

    # Answers kept in memory, by (repository, reference). A manifest can be a blob too, so blobs' keys begin with "b ".

    def _current(self) -> int:
        if (version := self._db.version()) != self._views_version:
            self._views.clear()
            self._views_data = 0
            self._views_version = version
        return version

    def _keep(self, version: int, key: tuple[str, str], view: StoredManifest | LinkedBlob) -> None:
        if version != self._views_version or key in self._views:
            return
        self._views[key] = view
        self._views_data += _weight(view)
        while len(self._views) > VIEWS_LIMIT or self._views_data > VIEWS_DATA_LIMIT:
            self._views_data -= _weight(self._views.popitem(last=False)[1])

    def manifest_now(self, repository: str, reference: str) -> StoredManifest | None:
        self._current()
        view = self._views.get((repository, reference))
        return view if isinstance(view, StoredManifest) else None

    async def manifest(self, repository: str, reference: str, is_digest: bool) -> StoredManifest | None:
        version = self._current()
        query = _BY_DIGEST if is_digest else _BY_TAG
        row = await self._db.read(lambda db: db.execute(query, (repository, reference)).fetchone())
        if row is None:
            return None
        found = StoredManifest(*row)
        self._keep(version, (repository, reference), found)
        return found

    def blob_now(self, repository: str, digest: Digest) -> LinkedBlob | None:
        self._current()
        view = self._views.get((repository, f"b {digest}"))
        return view if isinstance(view, LinkedBlob) else None

    async def blob(self, repository: str, digest: Digest) -> LinkedBlob | None:
        version = self._current()
        row = await self._db.read(lambda db: db.execute(_BLOB, (repository, digest)).fetchone())
        if row is None:
            return None
        found = LinkedBlob(*row)
        self._keep(version, (repository, f"b {digest}"), found)
        return found

    async def keep_blob(self, repository: str, digest: Digest) -> bool:
        def keep(db: sqlite3.Connection) -> bool:
            row = db.execute(_BLOB, (repository, digest)).fetchone()
            if row is None:
                return False
            if row[2] is not None:
                self._queue(db, "link", _repository(db, repository), digest)
            return True

        return await self._db.write(keep, durable=False)

    def _queue(self, db: sqlite3.Connection, kind: str, repository: int, digest: str) -> None:
        db.execute(
            "INSERT INTO gc_queue VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET review_after = excluded.review_after",
            (kind, repository, digest, time.time() + self._grace_s),
        )

    # Manifests and tags

    async def put_manifest(self, repository: str, manifest: NewManifest, tags: Sequence[str]) -> None:
        annotations = json.dumps(manifest.annotations) if manifest.annotations else None

        def put(db: sqlite3.Connection) -> None:
            row = db.execute("SELECT id FROM repository WHERE name = ?", (repository,)).fetchone()
            owner = row[0] if row else -1
            missing = [
                digest
                for table, digests in (("repository_blob", manifest.blobs), ("manifest", manifest.manifests))
                for digest in digests
                if not manifest.sparse
                and db.execute(f"SELECT 1 FROM {table} WHERE repository = ? AND digest = ?", (owner, digest)).fetchone()
                is None
            ]
            if missing:
                raise ReferencesUnknown(list(missing))
            if row is None:
                owner = _ensure_repository(db, repository)
            db.execute(
                "INSERT INTO manifest VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET media_type = excluded.media_type, artifact_type = excluded.artifact_type, "
                "pushed_at = excluded.pushed_at",
                (
                    owner,
                    manifest.digest,
                    manifest.media_type,
                    manifest.artifact_type,
                    manifest.subject,
                    annotations,
                    len(manifest.data),
                    time.time(),
                    manifest.data,
                ),
            )
            db.executemany(
                "INSERT OR IGNORE INTO manifest_ref VALUES (?, ?, ?, ?)",
                [(owner, manifest.digest, digest, "blob") for digest in manifest.blobs]
                + [(owner, manifest.digest, digest, "manifest") for digest in manifest.manifests],
            )
            for tag in tags:
                self._point(db, owner, repository, tag, manifest.digest)

        await self._db.write(put)

    def _point(self, db: sqlite3.Connection, owner: int, repository: str, tag: str, digest: Digest) -> None:
        now = time.time()
        before = db.execute("SELECT digest FROM tag WHERE repository = ? AND name = ?", (owner, tag)).fetchone()
        if before is None or before[0] != digest:
            if before is not None:
                self._check_mutable(repository, tag)
                _untag(db, owner, before[0])
            db.execute("INSERT INTO tag_history VALUES (?, ?, ?, ?)", (owner, tag, digest, now))
        db.execute(
            "INSERT INTO tag VALUES (?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET digest = excluded.digest, updated_at = excluded.updated_at",
            (owner, tag, digest, now),
        )

    def _check_mutable(self, repository: str, tag: str) -> None:
        if self._policies.is_immutable(repository, tag):
            raise TagImmutable(tag)

    async def delete_tag(self, repository: str, tag: str) -> bool:
        def delete(db: sqlite3.Connection) -> bool:
            owner = _repository(db, repository)
            if db.execute("SELECT 1 FROM tag WHERE repository = ? AND name = ?", (owner, tag)).fetchone() is None:
                return False
            self._check_mutable(repository, tag)
            _delete_tag(db, owner, tag)
            return True

        return await self._db.write(delete, frees=True)

    async def delete_manifest(self, repository: str, digest: Digest) -> bool:
        def delete(db: sqlite3.Connection) -> bool:
            owner = _repository(db, repository)
            query = "SELECT name FROM tag WHERE repository = ? AND digest = ?"
            for (tag,) in db.execute(query, (owner, digest)).fetchall():
                self._check_mutable(repository, tag)
            return self._delete_manifest(db, owner, digest)

        return await self._db.write(delete, frees=True)

    def _delete_manifest(self, db: sqlite3.Connection, owner: int, digest: str) -> bool:
        key = (owner, digest)
        query = "SELECT digest FROM manifest_ref WHERE repository = ? AND manifest = ? AND kind = 'blob'"
        blobs = db.execute(query, key).fetchall()
        db.execute(
            "INSERT INTO tag_history SELECT repository, name, NULL, ? FROM tag WHERE repository = ? AND digest = ?",
            (time.time(), *key),
        )
        gone = db.execute("DELETE FROM manifest WHERE repository = ? AND digest = ?", key).rowcount > 0
        for (blob,) in blobs:
            self._queue(db, "link", owner, blob)
        return gone

    async def repository_exists(self, repository: str) -> bool:
        return await self._db.read(lambda db: _repository(db, repository) != _NOBODY)

    async def tags(self, repository: str, after: str, limit: int) -> list[str]:
        return await self._column(
            "SELECT t.name FROM repository r JOIN tag t ON t.repository = r.id "
            "WHERE r.name = ? AND t.name > ? ORDER BY t.name LIMIT ?",
            (repository, after, limit),
        )

    async def repositories(self, after: str, limit: int) -> list[str]:
        return await self._column(
            "SELECT r.name FROM repository r WHERE r.name > ? "
            "AND EXISTS (SELECT 1 FROM manifest m WHERE m.repository = r.id) ORDER BY r.name LIMIT ?",
            (after, limit),
        )

    async def show_repositories(self, search: str, after: str, limit: int) -> list[ShownRepository]:
        query = (
            "SELECT r.name, r.size FROM repository r WHERE r.name > ? AND instr(r.name, ?) "
            "AND EXISTS (SELECT 1 FROM manifest m WHERE m.repository = r.id) ORDER BY r.name LIMIT ?"
        )
        values = (after, search, limit)
        return await self._db.read(lambda db: [ShownRepository(*row) for row in db.execute(query, values)])

    async def show_tags(self, repository: str, search: str, after: str, limit: int) -> list[ShownTag]:
        query = (
            "SELECT t.name, t.digest, t.updated_at, m.data FROM repository r JOIN tag t ON t.repository = r.id "
            "JOIN manifest m ON m.repository = r.id AND m.digest = t.digest "
            "WHERE r.name = ? AND t.name > ? AND instr(t.name, ?) ORDER BY t.name LIMIT ?"
        )
        values = (repository, after, search, limit)
        return await self._db.read(lambda db: [ShownTag(*row) for row in db.execute(query, values)])

    async def _column(self, query: str, values: tuple[str | int, ...]) -> list[str]:
        return await self._db.read(lambda db: [row[0] for row in db.execute(query, values)])

    async def referrers(
        self, repository: str, subject: Digest, artifact_type: str | None, after: str, limit: int
    ) -> list[Referrer]:
        query = (
            "SELECT m.digest, m.media_type, m.size, m.artifact_type, m.annotations "
            "FROM repository r JOIN manifest m ON m.repository = r.id WHERE r.name = ? AND m.subject = ? "
            "AND m.digest > ? AND (? IS NULL OR m.artifact_type = ?) ORDER BY m.digest LIMIT ?"
        )
        values = (repository, subject, after, artifact_type, artifact_type, limit)
        rows = await self._db.read(lambda db: db.execute(query, values).fetchall())
        return [
            Referrer(
                digest=digest,
                media_type=media_type,
                size=size,
                artifact_type=kind,
                annotations=json.loads(annotations) if annotations else None,
            )
            for digest, media_type, size, kind, annotations in rows
        ]

    # Blobs and uploads

    async def delete_blob(self, repository: str, digest: Digest) -> bool:
        def delete(db: sqlite3.Connection) -> bool:
            owner = _repository(db, repository)
            gone = _unlink(db, owner, digest)
            if gone:
                self._queue(db, "blob", 0, digest)
            return gone

        return await self._db.write(delete, frees=True)

    async def begin_upload(self, upload: Upload) -> None:
        values = (upload.upload_id, upload.repository, upload.algorithm, time.time())
        await self._do("INSERT INTO upload VALUES (?, ?, ?, ?, NULL, NULL)", values, durable=False)

    async def upload(self, repository: str, upload_id: str) -> Upload | None:
        query = "SELECT id, repository, algorithm FROM upload WHERE id = ? AND repository = ?"
        row = await self._db.read(lambda db: db.execute(query, (upload_id, repository)).fetchone())
        return Upload(*row) if row else None

    async def end_upload(self, upload_id: str) -> None:
        def end(db: sqlite3.Connection) -> None:
            row = db.execute("DELETE FROM upload WHERE id = ? RETURNING object", (upload_id,)).fetchone()
            if row is not None and row[0] is not None:
                _discard(db, row[0])

        await self._db.write(end, durable=False)

    async def close_upload(self, upload_id: str, digest: Digest) -> ObjectName:
        def close(db: sqlite3.Connection) -> ObjectName:
            row = db.execute("SELECT object FROM upload WHERE id = ?", (upload_id,)).fetchone()
            if row is None:
                raise UploadUnknown(upload_id)
            found = db.execute("SELECT object FROM blob WHERE digest = ?", (digest,)).fetchone()
            name = ObjectName(found[0]) if found else object_name(digest, upload_id)
            if row[0] != name:
                db.execute("UPDATE upload SET closing = ?, object = ? WHERE id = ?", (digest, name, upload_id))
                if row[0] is not None:  # from an earlier try that died
                    _discard(db, row[0])
            return name

        return await self._db.write(close, durable=False)

    async def check_room(self, repository: str, size: int, digest: Digest | None = None) -> None:
        if not self._policies.quotas(repository):
            return
        if not await self._db.read(lambda db: self._may_have(db, repository, digest, size)):
            raise QuotaExceeded(repository)

    def _may_have(self, db: sqlite3.Connection, repository: str, digest: Digest | None, size: int) -> bool:
        quotas = self._policies.quotas(repository)
        if not quotas or (digest is not None and db.execute(_BLOB, (repository, digest)).fetchone() is not None):
            return True
        return _has_room(db, repository, quotas, size)

    async def commit_blob(self, upload: Upload, digest: Digest, name: ObjectName, size: int) -> bool:
        def commit(db: sqlite3.Connection) -> bool | None:
            if db.execute("DELETE FROM upload WHERE id = ?", (upload.upload_id,)).rowcount == 0:
                _discard(db, name)
                return None
            query = "INSERT INTO blob (digest, size, object) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
            if db.execute(query, (digest, size, name)).rowcount == 0:
                _discard(db, name)
            if not self._may_have(db, upload.repository, digest, size):
                db.execute("INSERT OR IGNORE INTO gc_queue VALUES ('blob', 0, ?, 0)", (digest,))
                return False
            self._link(db, _ensure_repository(db, upload.repository), digest)
            return True

        committed = await self._db.write(commit)
        if committed is None:
            raise UploadUnknown(upload.upload_id)
        return committed

    async def holders(self, digest: Digest, limit: int) -> list[str]:
        return await self._column(
            "SELECT r.name FROM repository_blob l JOIN repository r ON r.id = l.repository WHERE l.digest = ? LIMIT ?",
            (digest, limit),
        )

    async def mount_blob(self, repository: str, source: str, digest: Digest) -> bool:
        def mount(db: sqlite3.Connection) -> bool:
            found = db.execute(_BLOB, (source, digest)).fetchone()
            if found is None:
                return False
            if not self._may_have(db, repository, digest, found[1]):
                raise QuotaExceeded(repository)
            self._link(db, _ensure_repository(db, repository), digest)
            return True

        return await self._db.write(mount)

    def _link(self, db: sqlite3.Connection, owner: int, digest: Digest) -> None:
        db.execute("INSERT OR IGNORE INTO repository_blob VALUES (?, ?)", (owner, digest))
        self._queue(db, "link", owner, digest)

    async def expired_uploads(self, before: float) -> list[str]:
        query = "SELECT id FROM upload WHERE begun_at < ?"
        return await self._db.read(lambda db: [row[0] for row in db.execute(query, (before,))])

    # Garbage collection

    async def due_reviews(self, limit: int) -> list[Review]:
        query = "SELECT kind, repository, digest FROM gc_queue WHERE review_after <= ? ORDER BY review_after LIMIT ?"
        return await self._db.read(lambda db: [Review(*row) for row in db.execute(query, (time.time(), limit))])

    async def review(self, review: Review) -> None:
        key = (review.kind, review.repository_id, review.digest)

        def decide(db: sqlite3.Connection) -> None:
            due = db.execute(
                "SELECT 1 FROM gc_queue WHERE kind = ? AND repository = ? AND digest = ? AND review_after <= ?",
                (*key, time.time()),
            ).fetchone()
            if due is None:
                return  # somebody has used it since, or another process was quicker
            if review.kind == "blob":
                users = (
                    "SELECT 1 FROM repository_blob WHERE digest = ? UNION ALL SELECT 1 FROM upload WHERE closing = ?"
                )
                if db.execute(users, (review.digest, review.digest)).fetchone() is None:
                    # Whoever pushes it from now on makes another object: this one may be removed at leisure.
                    gone = "DELETE FROM blob WHERE digest = ? RETURNING object"
                    db.executemany("INSERT INTO garbage VALUES (?)", db.execute(gone, (review.digest,)).fetchall())
            else:
                used = "SELECT 1 FROM manifest_ref WHERE repository = ? AND digest = ?"
                owner = review.repository_id
                if db.execute(used, (owner, review.digest)).fetchone() is None and _unlink(db, owner, review.digest):
                    db.execute("INSERT OR IGNORE INTO gc_queue VALUES ('blob', 0, ?, 0)", (review.digest,))
            db.execute("DELETE FROM gc_queue WHERE kind = ? AND repository = ? AND digest = ?", key)

        await self._db.write(decide, frees=True)

    async def garbage(self, after: str, limit: int) -> list[ObjectName]:
        query = "SELECT object FROM garbage WHERE object > ? ORDER BY object LIMIT ?"
        return [ObjectName(name) for name in await self._column(query, (after, limit))]

    async def forget_garbage(self, name: ObjectName) -> bool:
        def forget(db: sqlite3.Connection) -> bool:
            return db.execute("DELETE FROM garbage WHERE object = ?", (name,)).rowcount > 0

        return await self._db.write(forget, frees=True)

    async def due_blobs(self) -> list[tuple[Digest, int]]:
        now = time.time()
        return await self._db.read(lambda db: [(row[0], row[1]) for row in db.execute(_DUE, (now, now))])

    # Retention

    async def tag_times(self, repository: str) -> list[TagTime]:
        query = (
            "SELECT t.name, t.updated_at FROM repository r JOIN tag t ON t.repository = r.id "
            "WHERE r.name = ? ORDER BY t.name"
        )
        return await self._db.read(lambda db: [TagTime(*row) for row in db.execute(query, (repository,))])

    async def expire_tag(self, repository: str, tag: TagTime) -> bool:
        def expire(db: sqlite3.Connection) -> bool:
            owner = _repository(db, repository)
            query = "SELECT 1 FROM tag WHERE repository = ? AND name = ? AND updated_at = ?"
            if db.execute(query, (owner, tag.name, tag.updated_at)).fetchone() is None:
                return False
            _delete_tag(db, owner, tag.name)
            return True

        return await self._db.write(expire, frees=True)

    async def untagged(self, repository: str, before: float) -> list[Digest]:
        return await self._db.read(
            lambda db: [row[0] for row in db.execute(_UNTAGGED, (_repository(db, repository), before))]
        )

    async def delete_untagged(self, repository: str, before: float) -> int:
        def delete(db: sqlite3.Connection) -> int:
            owner = _repository(db, repository)
            digests = db.execute(_UNTAGGED, (owner, before)).fetchall()
            for (digest,) in digests:
                self._delete_manifest(db, owner, digest)
            return len(digests)

        return await self._db.write(delete, frees=True)

    async def all_blobs(self, after: str, limit: int) -> list[tuple[Digest, ObjectName]]:
        query = "SELECT digest, object FROM blob WHERE digest > ? ORDER BY digest LIMIT ?"
        return await self._db.read(lambda db: [(row[0], row[1]) for row in db.execute(query, (after, limit))])

    async def _do(self, statement: str, values: tuple[str | float, ...], *, durable: bool) -> None:
        def run(db: sqlite3.Connection) -> None:
            db.execute(statement, values)

        await self._db.write(run, durable=durable)

    def version(self) -> int:
        """Changes whenever any process has changed anything."""
        return self._db.version()


_NOBODY: Final = -1


def _repository(db: sqlite3.Connection, name: str) -> int:
    row = db.execute("SELECT id FROM repository WHERE name = ?", (name,)).fetchone()
    return int(row[0]) if row else _NOBODY


def _ensure_repository(db: sqlite3.Connection, name: str) -> int:
    if (found := _repository(db, name)) != _NOBODY:
        return found
    return int(db.execute("INSERT INTO repository (name) VALUES (?) RETURNING id", (name,)).fetchone()[0])


def _discard(db: sqlite3.Connection, name: str) -> None:
    """Make an object garbage, unless a blob is kept as it."""
    digest = object_digest(ObjectName(name))
    if db.execute("SELECT 1 FROM blob WHERE digest = ? AND object = ?", (digest, name)).fetchone() is None:
        db.execute("INSERT OR IGNORE INTO garbage VALUES (?)", (name,))


def _untag(db: sqlite3.Connection, owner: int, digest: str) -> None:
    """Let the time of a manifest that lost a tag begin anew: untagged ones are removed by age."""
    db.execute("UPDATE manifest SET pushed_at = ? WHERE repository = ? AND digest = ?", (time.time(), owner, digest))


def _delete_tag(db: sqlite3.Connection, owner: int, tag: str) -> None:
    key = (owner, tag)
    digest = db.execute("DELETE FROM tag WHERE repository = ? AND name = ? RETURNING digest", key).fetchone()[0]
    db.execute("INSERT INTO tag_history VALUES (?, ?, NULL, ?)", (*key, time.time()))
    _untag(db, owner, digest)


def _has_room(db: sqlite3.Connection, repository: str, quotas: Sequence[Quota], size: int) -> bool:
    for quota in quotas:
        if quota.prefix is None:
            row = db.execute("SELECT size FROM repository WHERE name = ?", (repository,)).fetchone()
        else:
            # A blob that several repositories of the namespace have counts in each of them.
            bounds = (quota.prefix, quota.prefix + "\U0010ffff")
            row = db.execute("SELECT SUM(size) FROM repository WHERE name >= ? AND name < ?", bounds).fetchone()
        if (row[0] or 0 if row else 0) + size > quota.size:
            return False
    return True


def _unlink(db: sqlite3.Connection, owner: int, digest: Digest) -> bool:
    statement = "DELETE FROM repository_blob WHERE repository = ? AND digest = ?"
    return db.execute(statement, (owner, digest)).rowcount > 0


def _weight(view: StoredManifest | LinkedBlob) -> int:
    return len(view.data) if isinstance(view, StoredManifest) else 100
