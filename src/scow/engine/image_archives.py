"""Images as archives: save and load. Engine API, /images/get, /images/{name}/get, /images/load."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack

from scow.engine.events import Events
from scow.engine.image_lookup import NoSuchImage, find_image
from scow.engine.streams import ProgressStream
from scow.errors import InvalidArgument
from scow.oci.platform import Platform
from scow.oci.reference import InvalidReference, Reference, parse_reference
from scow.store.images import Image
from scow.store.store import Store
from scow.transfer.load import load
from scow.transfer.registries import Registries
from scow.transfer.restore import Restorer
from scow.transfer.save import Part, Wanted, plan, size_of
from scow.wire.progress import ProgressMessage


class SavedArchive:
    """An archive that is ready to be sent: `size` bytes in `parts`, which stay until `aclose`."""

    def __init__(self, parts: Sequence[Part], keep: AsyncExitStack) -> None:
        self.parts = parts
        self.size = size_of(parts)
        self._keep = keep

    async def aclose(self) -> None:
        """Let the store remove what is in the archive, if it likes. Idempotent."""
        await self._keep.aclose()


class ImageArchives:
    """Saves and loads the engine's images."""

    def __init__(self, store: Store, events: Events, registries: Registries) -> None:
        self._store = store
        self._events = events
        self._restorer = Restorer(registries, store)

    async def save(self, refs: Sequence[str], platform: Platform | None = None) -> SavedArchive:
        """Images by tag, digest or ID; a repository without a tag means all of its tags. Raises NoSuchImage."""
        if not refs:
            raise InvalidArgument("no images to save")
        wanted = [each for ref in dict.fromkeys(refs) for each in self._wanted(ref)]
        async with AsyncExitStack() as keep:
            await keep.enter_async_context(self._store.leases.hold())
            parts = await plan(self._store, wanted, platform, self._restorer)
            for each in wanted:
                self._events.emit("image", "save", each.image.id, {"name": each.image.id})
            return SavedArchive(parts, keep.pop_all())

    def _wanted(self, ref: str) -> list[Wanted]:
        """What one argument names: all tags of a repository, else an image by ID, tag or digest, in docker's order."""
        images = self._store.images
        try:
            reference: Reference | None = parse_reference(ref)
        except InvalidReference:
            reference = None
        if reference is not None and reference.is_name_only:
            tagged = [
                (parse_reference(name), id)
                for name, id in sorted(images.all_names().items())
                if parse_reference(name).name == reference.name
            ]
            by_image: dict[str, list[Reference]] = {}
            for name, id in tagged:
                by_image.setdefault(id, []).append(name)
            found = [(images.find(id), tuple(by_image[id])) for id in dict.fromkeys(id for _, id in tagged)]
            if found:
                return [Wanted(ref, image, names) for image, names in found if image is not None]
        image = find_image(images, ref)
        if image is None:
            parse_reference(ref)  # says what is wrong with it, if that is so
            raise NoSuchImage(ref)
        is_tag = reference is not None and reference.tag is not None and self._names(reference, image)
        return [
            Wanted(ref, image, (reference.repository().with_tag(reference.tag or ""),) if reference and is_tag else ())
        ]

    def _names(self, reference: Reference, image: Image) -> bool:
        return reference.digest is None and self._store.images.resolve(str(reference)) == image.id

    async def load(
        self, arriving: AsyncIterator[bytes], *, quiet: bool = False, platform: Platform | None = None
    ) -> ProgressStream:
        """Take an archive. All errors come from the stream, as with dockerd: clients look for them there."""

        async def work(emit: Callable[[ProgressMessage], None]) -> None:
            loaded = await load(arriving, store=self._store, emit=emit, quiet=quiet, platform=platform)
            for each in loaded:
                self._events.emit("image", "load", each.image.id, {"name": each.image.id})

        return ProgressStream(work)
