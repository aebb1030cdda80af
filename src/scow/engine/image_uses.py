"""When each image was used last: by a container that was made, started or ended, by a pull, push or build.

Kept so that it costs next to nothing: in memory at once, in the database only when what stands there is older than
a minute, and beside whatever is going on.
"""

import logging
import sqlite3
import time
from datetime import UTC, datetime
from typing import Final

from scow.engine.container import ContainerTable
from scow.engine.image_lookup import find_image
from scow.engine.tasks import Tasks
from scow.errors import ScowError
from scow.oci.digest import Digest
from scow.store.images import Image
from scow.store.store import Store
from scow.wire.event import Event

SCHEMA: Final = (
    """CREATE TABLE image_uses (
        image TEXT PRIMARY KEY REFERENCES images(id) ON DELETE CASCADE,
        used_at INTEGER NOT NULL  -- seconds since the epoch
    ) WITHOUT ROWID;""",
)
COARSENESS_S: Final = 60.0
CONTAINER_ACTIONS: Final = frozenset({"create", "start", "die", "restart"})
IMAGE_ACTIONS: Final = frozenset({"build", "load", "pull", "push", "save", "tag"})

log = logging.getLogger(__name__)


class ImageUses:
    """Hears of events, by `observe`, and tells when an image was used last."""

    def __init__(self, store: Store, table: ContainerTable, tasks: Tasks) -> None:
        self._store = store
        self._table = table
        self._tasks = tasks
        store.db.migrate("image_uses", SCHEMA)
        rows = store.db.read_now(lambda db: db.execute("SELECT image, used_at FROM image_uses").fetchall())
        self._used: dict[Digest, float] = {Digest(image): float(at) for image, at in rows}
        self._written = dict(self._used)

    def last_used(self, image: Image) -> datetime:
        """When the image was used last: now if a container of it runs; when it came if it never was."""
        if any(container.state.live for container in self._table if container.record.image == image.id):
            return datetime.now(UTC)
        used = self._used.get(image.id)
        came = image.stored_at
        return came if used is None else max(came, datetime.fromtimestamp(used, UTC))

    def observe(self, event: Event) -> None:
        """Note what an event says about the use of an image."""
        if event.type == "container" and event.action in CONTAINER_ACTIONS:
            container = self._table.find(event.actor.id)
            if container is not None and container.record.image is not None:
                self.used(container.record.image)
        elif event.type == "image" and event.action in IMAGE_ACTIONS:
            try:
                image = find_image(self._store.images, event.actor.id)
            except ScowError:
                return  # the name means several by now, or nothing that can be looked up
            if image is not None:
                self.used(image.id)
        elif event.type == "image" and event.action == "delete":
            self._used.pop(Digest(event.actor.id), None)
            self._written.pop(Digest(event.actor.id), None)

    def used(self, image: Digest) -> None:
        """Note that an image is being used now."""
        now = time.time()
        self._used[image] = now
        if now - self._written.get(image, 0.0) >= COARSENESS_S:
            self._written[image] = now
            self._tasks.start(self._write(image, int(now)), f"use of {image}")

    async def aclose(self) -> None:
        """Record what wasn't yet, at the engine's end."""
        for image, at in list(self._used.items()):
            if at > self._written.get(image, 0.0):
                await self._write(image, int(at))

    async def _write(self, image: Digest, at: int) -> None:
        def write(db: sqlite3.Connection) -> None:
            db.execute(
                "INSERT INTO image_uses SELECT id, ? FROM images WHERE id = ?"
                " ON CONFLICT (image) DO UPDATE SET used_at = excluded.used_at",
                (at, image),
            )

        try:
            await self._store.db.write(write)
        except ScowError as error:
            log.warning("that image %s was used is not recorded: %s", image, error)
