"""The image catalogue: which images there are, their tags and their repository digests.

Kept in the database and, whole, in memory: looking up is a dictionary access, changing is one transaction, after whose
commit the view in memory changes too, in the same order. An image lives from `publish` (or `put`) to `remove`; tags
and repository digests point at it meanwhile, and go with it. What its content and layers need in bytes is freed by
the garbage collection, not here.
"""

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from scow.errors import NotFound, ScowError
from scow.oci.digest import DiffID, Digest, digest_of
from scow.oci.image_config import ImageConfig, decode_config
from scow.oci.platform import Platform
from scow.store.content import Content, NoSuchContent
from scow.store.database import Database
from scow.store.documents import find_document

log = logging.getLogger(__name__)

MANY_CONFIGS: Final = 8  # from which on reading them together is worth it
MIGRATIONS: Final = [
    """
    CREATE TABLE images (id TEXT PRIMARY KEY, document BLOB NOT NULL);
    CREATE TABLE image_names (
        name TEXT PRIMARY KEY,  -- docker.io/library/x:tag, or docker.io/library/x@sha256:... of a manifest or index
        image TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE
    ) WITHOUT ROWID;
    CREATE INDEX image_names_by_image ON image_names (image);
    """
]


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """What the catalogue knows about one image."""

    id: Digest  # of the config
    manifest: str = ""  # the digest of its platform's manifest; empty if it was never in one
    index: Digest | None = None  # the multi-platform index that it was chosen from
    parent: Digest | None = None  # the image that it was committed from, if it is here
    platform: Platform
    diff_ids: tuple[DiffID, ...] = ()  # base first
    size: int = 0  # bytes, of the files in its layers
    created: datetime | None = None  # as its config says
    stored_at: datetime
    tagged_at: datetime | None = None  # by somebody here; a pull or load gives names without that


class NoSuchImageID(NotFound):
    """No image has this ID."""

    def __init__(self, id: str) -> None:
        super().__init__(f"No such image: {id}")
        self.id = id


class Images:
    """The catalogue. Reading is immediate; `await`ed changes are committed when they return.

    The view in memory belongs to the event loop's thread. `version` counts its changes.
    """

    def __init__(self, db: Database, content: Content) -> None:
        self._db = db
        self._content = content
        self._images: dict[Digest, Image] = {}
        self._names: dict[str, Digest] = {}  # tags and repository digests
        self._names_of: dict[Digest, set[str]] = {}
        self._children: dict[Digest, set[Digest]] = {}
        self._configs: dict[Digest, ImageConfig] = {}
        self.version = 0
        db.migrate("images", MIGRATIONS)
        db.read_now(self._load)

    def all(self) -> list[Image]:
        """Return every image, in no particular order."""
        return list(self._images.values())

    def find(self, id: Digest) -> Image | None:
        """Return the image with this ID, if there is one."""
        return self._images.get(id)

    def get(self, id: Digest) -> Image:
        """Return the image with this ID. Raises NoSuchImageID."""
        image = self._images.get(id)
        if image is None:
            raise NoSuchImageID(id)
        return image

    def by_prefix(self, digits: str) -> list[Image]:
        """Return the images whose ID's hexadecimal digits begin with `digits`; `sha256:` in front is allowed."""
        head = digits if ":" in digits else f"sha256:{digits}"
        return [image for id, image in self._images.items() if id.startswith(head)]

    def names(self, id: Digest) -> list[str]:
        """Return the image's tags, canonical (docker.io/library/x:tag) and sorted."""
        return sorted(name for name in self._names_of.get(id, ()) if "@" not in name)

    def digests(self, id: Digest) -> list[str]:
        """Return the image's repository digests (docker.io/library/x@sha256:...), sorted."""
        return sorted(name for name in self._names_of.get(id, ()) if "@" in name)

    def children(self, id: Digest) -> list[Digest]:
        """Return the images whose parent this one is, sorted."""
        return sorted(self._children.get(id, ()))

    def all_names(self) -> dict[str, Digest]:
        """Return every tag, canonical, with the image that it names."""
        return {name: id for name, id in self._names.items() if "@" not in name}

    def resolve(self, name: str) -> Digest | None:
        """Return the image that a canonical tag or repository digest names, if any."""
        return self._names.get(name)

    async def config(self, id: Digest) -> ImageConfig:
        """Return the image's config, from memory when it was read before. Raises NoSuchImageID, NoSuchContent."""
        config = self._configs.get(id)
        if config is None:
            self.get(id)
            config = decode_config(await self._content.get(id))
            if id in self._images:  # not removed meanwhile
                self._configs[id] = config
        return config

    async def labels(self, id: Digest) -> dict[str, str]:
        """Return the image's labels, for who looks at all images: none if it went meanwhile, or its config is lost."""
        try:
            return (await self.config(id)).exec.labels or {}
        except ScowError as error:
            if id in self._images:
                log.warning("image %s: %s", id, error)
            return {}

    async def load_configs(self) -> None:
        """Read the configs that weren't read before, all in one go: a thousand one by one take half a second."""
        missing = [id for id in self._images if id not in self._configs]
        if len(missing) < MANY_CONFIGS:
            return
        paths = [self._content.path(id) for id in missing]
        for id, data in zip(missing, await asyncio.to_thread(_read_all, paths), strict=True):
            # What can't be read is left to `config`, which says why.
            if id in self._images and digest_of(data, id) == id:
                with contextlib.suppress(ScowError):
                    self._configs[id] = decode_config(data)

    async def publish(
        self, image: Image, *, name: str | None = None, repo_digests: Sequence[str] = ()
    ) -> Digest | None:
        """Make `image` visible with its tag and repository digests, all at once.

        `name` is canonical with a tag, `repo_digests` are canonical with a digest. Returns the image that `name` named
        before, None if there was none or it is the same. Raises NoSuchContent if the config is missing.
        """
        if not self._content.has(image.id):
            raise NoSuchContent(image.id, "an image can't be published without its config")
        names = [*repo_digests, *([name] if name else [])]

        def change(connection: sqlite3.Connection) -> Digest | None:
            _put(connection, image)
            previous = _name(connection, name, image.id) if name else None
            for each in repo_digests:
                _name(connection, each, image.id)
            return previous

        def apply(_: object) -> None:
            self._keep(image)
            for each in names:
                self._point(each, image.id)

        return await self._db.write(change, then=self._changing(apply))

    async def put(self, image: Image) -> None:
        """Add the image or replace what is known of it; its names stay."""
        await self._db.write(
            lambda connection: _put(connection, image), then=self._changing(lambda _: self._keep(image))
        )

    async def remove(self, id: Digest) -> list[str]:
        """Forget the image; return the tags and repository digests that went with it. Raises NoSuchImageID."""

        def change(connection: sqlite3.Connection) -> list[str]:
            rows = connection.execute("SELECT name FROM image_names WHERE image = ? ORDER BY name", (id,)).fetchall()
            if connection.execute("DELETE FROM images WHERE id = ?", (id,)).rowcount == 0:
                raise NoSuchImageID(id)
            return [row[0] for row in rows]

        return await self._db.write(change, then=self._changing(lambda _: self._forget(id)))

    async def tag(self, name: str, id: Digest) -> Digest | None:
        """Let a canonical tag name the image. Returns the other image that it named before. Raises NoSuchImageID."""
        return await self._db.write(
            lambda connection: _name(connection, name, id), then=self._changing(lambda _: self._point(name, id))
        )

    async def untag(self, name: str) -> Digest | None:
        """Remove a canonical tag or repository digest; return the image that it named, None if there was no such."""

        def change(connection: sqlite3.Connection) -> Digest | None:
            row = connection.execute("DELETE FROM image_names WHERE name = ? RETURNING image", (name,)).fetchone()
            return None if row is None else Digest(row[0])

        return await self._db.write(change, then=self._changing(lambda _: self._unpoint(name)))

    # the view in memory

    def _load(self, connection: sqlite3.Connection) -> None:
        for id, document in connection.execute("SELECT id, document FROM images"):
            image = find_document(document, Image, f"image {id}") or self._from_config(Digest(id))
            if image is not None:
                self._keep(image)
        for name, id in connection.execute("SELECT name, image FROM image_names"):
            if id in self._images:
                self._point(name, Digest(id))

    def _from_config(self, id: Digest) -> Image | None:
        """What the config alone tells of an image; None if that is lost, too. Blocks: for start-up."""
        try:
            data = self._content.path(id).read_bytes()
            config = decode_config(data)
        except (OSError, ScowError) as error:
            log.error("image %s is lost, pull or make it again: %s", id, error)
            return None
        if digest_of(data, like=id) != id:
            log.error("image %s is lost, pull or make it again: its config is damaged", id)
            return None
        log.error("image %s goes on with what its config tells: it isn't known where it came from", id)
        return Image(id=id, platform=config.platform, diff_ids=config.diff_ids, stored_at=datetime.now(UTC))

    def _changing(self, apply: Callable[[object], None]) -> Callable[[object], None]:
        def changed(result: object) -> None:
            apply(result)
            self.version += 1

        return changed

    def _keep(self, image: Image) -> None:
        self._leave_parent(image.id)
        self._images[image.id] = image
        if image.parent is not None:
            self._children.setdefault(image.parent, set()).add(image.id)

    def _leave_parent(self, id: Digest) -> None:
        known = self._images.get(id)
        if known is not None and known.parent is not None:
            siblings = self._children[known.parent]
            siblings.discard(id)
            if not siblings:
                del self._children[known.parent]

    def _point(self, name: str, id: Digest) -> None:
        self._unpoint(name)
        self._names[name] = id
        self._names_of.setdefault(id, set()).add(name)

    def _unpoint(self, name: str) -> None:
        id = self._names.pop(name, None)
        if id is not None:
            names = self._names_of[id]
            names.discard(name)
            if not names:
                del self._names_of[id]

    def _forget(self, id: Digest) -> None:
        for name in list(self._names_of.get(id, ())):
            self._unpoint(name)
        self._leave_parent(id)
        self._images.pop(id, None)
        self._configs.pop(id, None)


def _read_all(paths: Sequence[Path]) -> list[bytes]:
    found = []
    for path in paths:
        try:
            found.append(path.read_bytes())
        except OSError:
            found.append(b"")
    return found


def _put(connection: sqlite3.Connection, image: Image) -> None:
    connection.execute(
        "INSERT INTO images VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET document = excluded.document",
        (image.id, msgspec.json.encode(image)),
    )


def _name(connection: sqlite3.Connection, name: str, id: Digest) -> Digest | None:
    row = connection.execute("SELECT image FROM image_names WHERE name = ?", (name,)).fetchone()
    try:
        connection.execute("INSERT OR REPLACE INTO image_names VALUES (?, ?)", (name, id))
    except sqlite3.IntegrityError:
        raise NoSuchImageID(id) from None
    return None if row is None or row[0] == id else Digest(row[0])
