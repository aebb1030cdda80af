"""Removing images, by docker's rules: names go first, an image goes with its last one, its parents after it.

What stands in the way is a conflict. A child (`docker commit` makes such) or a running container can't be overruled;
a stopped container, or names besides the one that was meant, can, by force. Engine API, DELETE /images/{name}.
"""

import logging
from collections.abc import Callable, Sequence

import msgspec

from scow.engine.container import Container
from scow.engine.events import Events
from scow.engine.image_lookup import find_reference, get_image
from scow.engine.image_manifests import ImageManifests
from scow.errors import Conflict, ScowError
from scow.oci.digest import Digest, chain_id, short
from scow.oci.platform import Platform
from scow.oci.reference import InvalidReference, Reference, parse_reference
from scow.store.images import Image
from scow.store.store import Store
from scow.wire.image import DeleteItem

Deletions = list[DeleteItem]

log = logging.getLogger(__name__)


class ImageInUse(Conflict):
    """A child, a container or another name holds the image. The words are docker's."""


class _Obstacle(msgspec.Struct, frozen=True):
    """Why an image can't go. `hard`: not even by force. `used`: a container is it."""

    why: str
    hard: bool
    used: bool


class _Batch:
    """Images on their way out, whose layers are collected together.

    `done` is what is told; `removed` the images, with how much was told by then; `needed` what they needed, None for
    everything that nobody needs.
    """

    def __init__(self) -> None:
        self.done: Deletions = []
        self.removed: list[tuple[int, Image]] = []
        self.needed: set[str] | None = set()


class ImageRemoval:
    """Removes images from the catalogue. `users` gives the containers that were made from an image."""

    def __init__(
        self, store: Store, events: Events, manifests: ImageManifests, users: Callable[[Digest], Sequence[Container]]
    ) -> None:
        self._store = store
        self._events = events
        self._manifests = manifests
        self._users = users

    async def remove(self, ref: str, *, force: bool, prune: bool, platforms: Sequence[Platform] = ()) -> Deletions:
        """Untag what `ref` means, and delete what nothing names or uses any more; `prune`: parents as well.

        With `platforms` only what an index has for them goes. Raises ImageInUse, NoSuchImage, PlatformMissing.
        """
        image = get_image(self._store.images, ref)
        if platforms:
            dropped = await self._manifests.remove_platforms(ref, image, platforms)
            return [DeleteItem(deleted=digest) for digest in dropped]
        batch = _Batch()
        await self._remove(ref, image, batch, force=force, prune=prune)
        return await self._collected(batch)

    async def prune(self, refs: Sequence[str]) -> Deletions:
        """Remove all of these that nothing stands in the way of, and look for garbage of all kinds."""
        batch = _Batch()
        for ref in refs:
            try:
                await self._remove(ref, get_image(self._store.images, ref), batch, force=False, prune=True)
            except ScowError as error:
                log.info("image %s is not pruned: %s", ref, error)
        batch.needed = None
        return await self._collected(batch)

    async def _remove(self, ref: str, image: Image, batch: "_Batch", *, force: bool, prune: bool) -> None:
        done = batch.done
        named = self._reference(ref, image)
        if named is not None:
            self._check_last_name(ref, image, force)
            await self._untag_reference(named, image, done)
            if self._names(image.id):
                return
        elif self._has_one_name(image.id):
            # Its one name is meant by the ID: no obstacle, unlike several.
            obstacle = self._obstacle(image.id, force=force, unnamed=True)
            if obstacle is not None:
                raise _in_use(image.id, obstacle)
        await self._delete(image, batch, force=force, prune=prune, quiet=named is not None)

    # names

    def _names(self, id: Digest) -> list[str]:
        """Tags and repository digests, those of a repository beside each other."""
        return sorted([*self._store.images.names(id), *self._store.images.digests(id)])

    def _reference(self, ref: str, image: Image) -> Reference | None:
        """The name of the image that `ref` is, None if it is an ID."""
        try:
            reference = parse_reference(ref)
        except InvalidReference:
            return None
        named = find_reference(self._store.images, reference)
        return reference.with_default_tag() if named is not None and named.id == image.id else None

    def _has_one_name(self, id: Digest) -> bool:
        """Whether all names are of one repository, with at most one tag among them."""
        names = [parse_reference(name) for name in self._names(id)]
        tags = [name for name in names if name.tag is not None]
        return len(names) <= 1 or (len(tags) <= 1 and len({name.name for name in names}) == 1)

    def _check_last_name(self, ref: str, image: Image, force: bool) -> None:
        """Refuse to leave what a container uses without a name."""
        if force or not self._has_one_name(image.id):
            return
        if users := self._users(image.id):
            raise ImageInUse(
                f'conflict: unable to remove repository reference "{ref}" (must force) - '
                f"container {users[0].id[:12]} is using its referenced image {short(image.id)}"
            )

    async def _untag_reference(self, reference: Reference, image: Image, done: Deletions) -> None:
        """Remove a name; the digests of a repository go with its last tag."""
        name = reference if reference.digest is None else reference.with_digest(reference.digest)
        await self._untag(str(name), reference.familiar, image, done)
        names = [parse_reference(other) for other in self._names(image.id)]
        siblings = [other for other in names if other.name == reference.name]
        if reference.digest is None and all(other.tag is None for other in siblings):
            for other in siblings:
                await self._untag(str(other), other.familiar, image, done)

    async def _untag(self, name: str, shown: str, image: Image, done: Deletions) -> None:
        await self._store.images.untag(name)
        done.append(DeleteItem(untagged=shown))
        self._events.emit("image", "untag", image.id, {"name": image.id})

    # the image itself

    def _obstacle(self, id: Digest, *, force: bool, unnamed: bool = False) -> _Obstacle | None:
        """What stands in the way; with `unnamed` its names don't."""
        if self._store.images.children(id):
            return _Obstacle("image has dependent child images", hard=True, used=False)
        users = self._users(id)
        for container in users:
            if container.state.live:
                why = f"image is being used by running container {container.id[:12]}"
                return _Obstacle(why, hard=True, used=True)
        if force:
            return None
        if not unnamed and self._names(id):
            return _Obstacle("image is referenced in multiple repositories", hard=False, used=False)
        if users:
            why = f"image is being used by stopped container {users[0].id[:12]}"
            return _Obstacle(why, hard=False, used=True)
        return None

    async def _delete(self, image: Image, batch: "_Batch", *, force: bool, prune: bool, quiet: bool) -> None:
        """Delete the image and, with `prune`, the parents that nothing needs. `quiet`: what must stay, stays."""
        images = self._store.images
        needed = set() if batch.needed is None else await self._store.needs_of(image)
        obstacle = self._obstacle(image.id, force=force, unnamed=not quiet and self._has_one_name(image.id))
        if obstacle is not None:
            is_dangling = not self._names(image.id) and not images.children(image.id)
            if quiet and (obstacle.used or not is_dangling):
                return
            raise _in_use(image.id, obstacle)
        for name in self._names(image.id):
            await self._untag(name, parse_reference(name).familiar, image, batch.done)
        # With force even from under stopped containers: their snapshots keep the layers that they need.
        if batch.needed is not None:
            batch.needed |= needed
        self._store.sweep_soon()  # whatever becomes of us: the image is gone, and what it needed is left
        await images.remove(image.id)
        batch.done.append(DeleteItem(deleted=image.id))
        batch.removed.append((len(batch.done), image))
        self._events.emit("image", "delete", image.id, {"name": image.id})
        parent = images.find(image.parent) if image.parent is not None else None
        if prune and parent is not None:
            await self._delete(parent, batch, force=False, prune=True, quiet=True)

    async def _collected(self, batch: "_Batch") -> Deletions:
        """Collect what the removed images needed; tell each layer that went with the last image that had it."""
        if not batch.removed and batch.needed is not None:
            return batch.done
        gone = set((await self._store.collect(batch.needed)).layers)
        done = batch.done
        for end, image in reversed(batch.removed):
            layers = [
                DeleteItem(deleted=chain_id(image.diff_ids[:depth]))
                for depth in range(len(image.diff_ids), 0, -1)
                if image.diff_ids[depth - 1] in gone
            ]
            gone.difference_update(image.diff_ids)
            done[end:end] = layers
        return done


def _in_use(id: Digest, obstacle: _Obstacle) -> ImageInUse:
    force = "cannot be forced" if obstacle.hard else "must be forced"
    return ImageInUse(f"conflict: unable to delete {short(id)} ({force}) - {obstacle.why}")
