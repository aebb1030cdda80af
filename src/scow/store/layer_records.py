"""What is known of layers: which there are, and which blobs inflate to which. In the database, and whole in memory.

Looking up is a dictionary access; a change is one transaction, after whose commit the view in memory follows.
"""

import sqlite3
from typing import Final, Literal

import msgspec

from scow.oci.descriptor import Descriptor
from scow.oci.digest import DiffID, Digest
from scow.store.database import Database

MIGRATIONS: Final = [
    """CREATE TABLE layers (diff_id TEXT PRIMARY KEY, size INTEGER NOT NULL, format TEXT NOT NULL,
                            entries INTEGER NOT NULL) WITHOUT ROWID;
       CREATE TABLE layer_blobs (digest TEXT PRIMARY KEY, diff_id TEXT NOT NULL, size INTEGER NOT NULL,
                                 media_type TEXT NOT NULL) WITHOUT ROWID;
       CREATE INDEX layer_blobs_by_diff_id ON layer_blobs (diff_id);""",
    # Of layers that came before nobody has counted it: the tar's size is near enough.
    "ALTER TABLE layers ADD COLUMN files_size INTEGER",
]


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """A layer that the store has."""

    diff_id: DiffID
    size: int  # bytes of the tar
    files_size: int  # bytes of what is in it, without headers and padding: what people are shown
    format: Literal["erofs", "dir"]
    entries: int  # of the tar


class LayerRecords:
    """The table of layers. `layers` is for reading; `await`ed changes are committed when they return."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self.layers: dict[DiffID, Layer] = {}
        self.blobs: dict[Digest, tuple[DiffID, Descriptor]] = {}
        self._blobs_of: dict[DiffID, dict[Digest, Descriptor]] = {}
        db.migrate("layers", MIGRATIONS)
        db.read_now(self._load)

    def blobs_of(self, diff_id: DiffID) -> list[Descriptor]:
        """Return the blobs that are known to inflate to the layer, whether or not they are there."""
        return list(self._blobs_of.get(diff_id, {}).values())

    async def put(self, layer: Layer | None, diff_id: DiffID, blob: Descriptor | None) -> None:
        """Record a layer, a blob of it, or both."""

        def write(connection: sqlite3.Connection) -> None:
            if layer is not None:
                connection.execute(
                    "INSERT OR REPLACE INTO layers (diff_id, size, format, entries, files_size) VALUES (?, ?, ?, ?, ?)",
                    (layer.diff_id, layer.size, layer.format, layer.entries, layer.files_size),
                )
            if blob is not None:
                connection.execute(
                    "INSERT OR REPLACE INTO layer_blobs VALUES (?, ?, ?, ?)",
                    (blob.digest, diff_id, blob.size, blob.media_type),
                )

        def remember(_: None) -> None:
            if layer is not None:
                self.layers[diff_id] = layer
            if blob is not None:
                self._remember_blob(diff_id, blob)

        await self._db.write(write, then=remember)

    async def forget(self, diff_id: DiffID) -> None:
        """Forget a layer and its blobs. Idempotent."""

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM layers WHERE diff_id = ?", (diff_id,))
            connection.execute("DELETE FROM layer_blobs WHERE diff_id = ?", (diff_id,))

        def drop(_: None) -> None:
            self.layers.pop(diff_id, None)
            for digest in self._blobs_of.pop(diff_id, ()):
                del self.blobs[digest]

        await self._db.write(write, then=drop)

    def _load(self, connection: sqlite3.Connection) -> None:
        rows = connection.execute("SELECT diff_id, size, format, entries, coalesce(files_size, size) FROM layers")
        for diff_id, size, form, entries, files_size in rows:
            self.layers[diff_id] = Layer(
                diff_id=diff_id, size=size, format=form, entries=entries, files_size=files_size
            )
        rows = connection.execute("SELECT digest, diff_id, size, media_type FROM layer_blobs")
        for digest, diff_id, size, media_type in rows:
            self._remember_blob(diff_id, Descriptor(media_type=media_type, digest=digest, size=size))

    def _remember_blob(self, diff_id: DiffID, blob: Descriptor) -> None:
        before = self.blobs.get(blob.digest)
        if before is not None:
            self._blobs_of[before[0]].pop(blob.digest, None)
        self.blobs[blob.digest] = diff_id, blob
        self._blobs_of.setdefault(diff_id, {})[blob.digest] = blob
