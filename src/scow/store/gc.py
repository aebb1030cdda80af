"""Garbage collection: content and layers that no image, snapshot or lease reaches.

Reached are: an image's config, manifest and index, every manifest that a repository digest of it names, the blobs that
those manifests list, its layers and their compressed forms; the layers of snapshots and views; and what leases
protect. It runs beside pulls and starts: what is reached is looked at again, without waiting in between, right before
each removal, and the stores hide what they remove before they first wait.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Container, Iterable, Iterator, Sequence
from typing import Final, Protocol

import msgspec

from scow import points
from scow.errors import ScowError
from scow.oci import manifest
from scow.oci.descriptor import Descriptor
from scow.oci.digest import DiffID, Digest
from scow.store.content import Content, NoSuchContent
from scow.store.images import Image, Images
from scow.store.leases import Leases
from scow.store.snapshots import Snapshots

MANIFEST_CACHE_LIMIT: Final = 10_000  # manifests whose references are remembered; some kB each

log = logging.getLogger(__name__)


class StoredLayer(Protocol):
    """What the collection needs to know of a layer."""

    @property
    def diff_id(self) -> DiffID:
        """Its name."""


class LayerStore(Protocol):
    """What the collection needs of the layers."""

    def all(self) -> Iterable[StoredLayer]:
        """Return every layer."""

    def known_blobs_of(self, diff_id: DiffID) -> Sequence[Descriptor]:
        """Return the layer's compressed forms, whether or not they are in content."""

    def is_dispensable(self, digest: Digest, staying: Container[str]) -> bool:
        """Return whether content is a compressed form of a layer that is here and `staying`: it can be had again."""

    async def remove(self, diff_id: DiffID) -> int:
        """Remove the layer, hidden before the first wait; return the bytes that were freed."""


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """What a collection removed, and the bytes that it freed."""

    content: tuple[Digest, ...] = ()
    layers: tuple[DiffID, ...] = ()
    content_size: int = 0
    layers_size: int = 0

    @property
    def size(self) -> int:
        """All bytes that were freed."""
        return self.content_size + self.layers_size


class _References(msgspec.Struct, frozen=True):
    """What a document leads to: documents, and blobs that lead nowhere."""

    documents: tuple[Digest, ...] = ()
    blobs: tuple[Digest, ...] = ()


class _Reached:
    """What was reached at one moment; `moment` are the versions of what it was computed from."""

    def __init__(self, digests: set[str], moment: tuple[int, int]) -> None:
        self.digests = digests
        self.moment = moment


async def _pass(point: str) -> None:
    await points.at(f"gc.{point}")


class Collector:
    """Finds and removes garbage; one collection at a time, under `_lock`.

    `pause` is awaited at named points, so that tests can stop there: "listed" when the candidates are known,
    "reached" when what is in use is, "removing" before each removal, "removed" after it.

    Without `keep_compressed` the blobs of layers that are here are garbage: only a lease keeps them.
    """

    def __init__(
        self,
        content: Content,
        layers: LayerStore,
        images: Images,
        snapshots: Snapshots,
        leases: Leases,
        pause: Callable[[str], Awaitable[None]] | None = None,
        *,
        keep_compressed: bool = True,
    ) -> None:
        self._content = content
        self._layers = layers
        self._images = images
        self._snapshots = snapshots
        self._leases = leases
        self._pause = pause or _pass
        self._keep_compressed = keep_compressed
        self._lock = asyncio.Lock()
        self._references: dict[Digest, _References] = {}

    async def collect(self, only: Collection[str] | None = None) -> Collected:
        """Remove what nothing reaches and return what that was. Safe beside everything; one failing item is skipped.

        With `only` nothing else is looked at.
        """
        async with self._lock:
            # Listed first: what appears later is not a candidate.
            layers = [layer.diff_id for layer in self._layers.all() if only is None or layer.diff_id in only]
            if only is None:
                content: Iterable[Digest] = await self._content.all()
            else:
                with self._leases.silence():
                    content = [digest for digest in map(Digest, only) if self._content.has(digest)]
            await self._pause("listed")
            reached = await self._reach()
            await self._pause("reached")
            removed_layers: list[DiffID] = []
            removed_content: list[Digest] = []
            layers_size = content_size = 0
            # Layers before blobs: a layer's compressed forms are in use for as long as it is.
            for diff_id in layers:
                await self._pause("removing")
                reached = await self._current(reached)
                if self._in_use(diff_id, reached):
                    continue
                if await self._snapshots.cool(diff_id):
                    reached = await self._current(reached)
                    if self._in_use(diff_id, reached):
                        continue
                with _skipping(f"layer {diff_id}"):
                    layers_size += await self._layers.remove(diff_id)
                    removed_layers.append(diff_id)
                await self._pause("removed")
            for digest in content:
                await self._pause("removing")
                reached = await self._current(reached)
                if self._in_use(digest, reached):
                    continue
                with _skipping(f"content {digest}"):
                    content_size += await self._content.remove(digest)
                    removed_content.append(digest)
                self._references.pop(digest, None)
                await self._pause("removed")
            return Collected(
                content=tuple(removed_content),
                layers=tuple(removed_layers),
                content_size=content_size,
                layers_size=layers_size,
            )

    def forget(self, digest: Digest) -> None:
        """Don't rely on what a document referred to: it was removed."""
        self._references.pop(digest, None)

    async def needs_of(self, image: Image) -> set[str]:
        """Return the digests and diff IDs that the image alone reaches."""
        digests: set[str] = {image.id, *image.diff_ids}
        for diff_id in image.diff_ids:
            digests.update(blob.digest for blob in self._layers.known_blobs_of(diff_id))
        await self._follow(self._documents_of(image), digests)
        return digests

    async def garbage(self) -> list[str]:
        """Return the digests and diff IDs that a collection would remove now."""
        async with self._lock:
            layers = [layer.diff_id for layer in self._layers.all()]
            content = await self._content.all()
            reached = await self._reach()
            return [each for each in (*layers, *content) if not self._in_use(each, reached)]

    def _in_use(self, digest: str, reached: _Reached) -> bool:
        return digest in reached.digests or self._leases.protects(digest)

    def _moment(self) -> tuple[int, int]:
        return self._images.version, self._snapshots.version

    async def _current(self, reached: _Reached) -> _Reached:
        """Return `reached` if it still holds, else compute it anew; the caller must act without waiting."""
        while reached.moment != self._moment():
            reached = await self._reach()
        return reached

    async def _reach(self) -> _Reached:
        moment = self._moment()
        digests: set[str] = set(self._snapshots.used_diff_ids())
        documents: list[Digest] = []
        for image in self._images.all():
            digests.add(image.id)
            digests.update(image.diff_ids)
            documents += self._documents_of(image)
        for layer in self._layers.all():
            # Leased layers too: what is about to be published again keeps its compressed form.
            if layer.diff_id in digests or self._leases.protects(layer.diff_id):
                digests.update(blob.digest for blob in self._layers.known_blobs_of(layer.diff_id))
        await self._follow(documents, digests)
        if not self._keep_compressed:
            digests = {digest for digest in digests if not self._layers.is_dispensable(Digest(digest), digests)}
        return _Reached(digests, moment)

    def _documents_of(self, image: Image) -> list[Digest]:
        documents = [Digest(each) for each in (image.manifest, image.index) if each]
        return documents + [Digest(each.partition("@")[2]) for each in self._images.digests(image.id)]

    async def _follow(self, documents: Iterable[Digest], digests: set[str]) -> None:
        """Add documents, and what they lead to, to `digests`."""
        pending = list(dict.fromkeys(documents))
        while pending:
            digest = pending.pop()
            if digest not in digests:
                digests.add(digest)
                found = await self._references_of(digest)
                digests.update(found.blobs)
                pending += found.documents

    async def _references_of(self, digest: Digest) -> "_References":
        known = self._references.get(digest)
        if known is not None:
            return known
        try:
            # peek, not get: looking must not make every lease that is held protect what is looked at.
            document = manifest.decode(await self._content.peek(digest, limit=manifest.MAX_DOCUMENT_SIZE))
        except NoSuchContent:
            return _References()  # not remembered: it can come yet
        except ScowError:
            found = _References()  # it refers to nothing
        else:
            if isinstance(document, manifest.Index):
                found = _References(documents=tuple(each.digest for each in document.manifests))
            else:
                found = _References(blobs=(document.config.digest, *(each.digest for each in document.layers)))
        if len(self._references) >= MANIFEST_CACHE_LIMIT:
            self._references.clear()
        self._references[digest] = found
        return found


@contextlib.contextmanager
def _skipping(what: str) -> Iterator[None]:
    """Let the collection go on when one item can't be removed: a layer that is mounted, an I/O error."""
    try:
        yield
    except (ScowError, OSError) as error:
        log.warning("garbage collection: %s stays: %s", what, error)
