"""Blobs and manifests that lie in files become ours: by hard links where the disk allows it, else copied.

It goes the way of a push: blobs first, then manifests, indexes after what they list, tags with their manifest. What is
here is left, so an import that was killed, or that shall catch up, is simply repeated.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from scow.errors import InvalidArgument, ScowError
from scow.oci.digest import Digest, digest_of
from scow.registry.adoption import adopt
from scow.registry.errors import ReferencesUnknown
from scow.registry.imports.folders import opened, read_file
from scow.registry.manifests import SIZE_LIMIT, read_manifest
from scow.registry.metadata import Metadata, NewManifest
from scow.registry.objects import Objects
from scow.registry.os_errors import sentence

SAY_S: Final = 5.0
"""Between two lines about the progress of one repository."""

Say = Callable[[str], None]


class Imported(msgspec.Struct):
    """What one import has done."""

    repositories: int = 0
    blobs: int = 0
    bytes: int = 0  # of those blobs
    there: int = 0  # blobs that were here already
    manifests: int = 0
    tags: int = 0
    problems: list[str] = []

    def __str__(self) -> str:
        return (
            f"{self.repositories} repositories: {self.manifests} manifests, {self.tags} tags, {self.blobs} blobs "
            f"({self.bytes} bytes), {self.there} blobs were here; {len(self.problems)} problems"
        )


class FileImporter:
    """Takes over what lies in files. `path` says where."""

    def __init__(
        self,
        objects: Objects,
        metadata: Metadata,
        path: Callable[[Digest], Path],
        root: Path,
        say: Say,
        *,
        verify: bool,
    ) -> None:
        """`root` is the folder that the files lie in; `verify` reads every blob to check its digest."""
        self.done = Imported()
        self._objects = objects
        self._metadata = metadata
        self._path = path
        self._root = root.resolve()  # it may be a link to another disk itself
        self._say = say
        self._verify = verify
        self._said = time.monotonic()

    async def take(
        self, name: str, blobs: Sequence[Digest], manifests: Sequence[Digest], tags: Mapping[Digest, list[str]]
    ) -> None:
        """Take over one repository. What cannot be used is named among the problems, and left."""
        taken: set[Digest] = set()
        for digest in blobs:
            await self._take_blob(name, digest, taken)
        waiting = [found for digest in manifests if (found := await self.read(name, digest)) is not None]
        # Indexes come after what they list; several rounds, for indexes of indexes.
        problems: dict[Digest, str] = {}
        while waiting:
            left: list[NewManifest] = []
            for manifest in waiting:
                for digest in manifest.blobs:
                    await self._take_blob(name, digest, taken)
                try:
                    await self._metadata.put_manifest(name, manifest, tags.get(manifest.digest, []))
                except ReferencesUnknown as error:
                    problems[manifest.digest] = f"{name}@{manifest.digest}: lacks {', '.join(error.digests)}"
                    left.append(manifest)
                except ScowError as error:
                    self.done.problems.append(f"{name}@{manifest.digest}: {error}")
                else:
                    self.done.manifests += 1
                    self.done.tags += len(tags.get(manifest.digest, []))
                self._tell(name)
            if len(left) == len(waiting):
                self.done.problems += [problems[manifest.digest] for manifest in left]
                break
            waiting = left
        self.done.repositories += 1
        self._say(f"{name}: {len(manifests)} manifests, {len(taken)} blobs; in all {self.done.bytes} bytes of blobs")

    def _tell(self, name: str) -> None:
        if time.monotonic() - self._said > SAY_S:
            self._said = time.monotonic()
            self._say(f"{name}: so far {self.done.manifests} manifests, {self.done.blobs} blobs in all")

    async def _take_blob(self, name: str, digest: Digest, taken: set[Digest]) -> None:
        if digest in taken:
            return
        taken.add(digest)
        self._tell(name)
        if await self._metadata.blob(name, digest) is not None:
            self.done.there += 1
            return
        try:
            with opened(self._path(digest), self._root) as path:
                size = await adopt(self._objects, self._metadata, name, digest, path, verify=self._verify)
        except FileNotFoundError:
            return  # its manifest will be refused, if any needs it
        except (ScowError, OSError) as error:
            self.done.problems.append(f"{name}: blob {digest}: {sentence(error)}")
        else:
            self.done.blobs += 1
            self.done.bytes += size

    async def read(self, name: str, digest: Digest, media_type: str = "") -> NewManifest | None:
        """A manifest that can be used; None, and a problem, if it can't."""
        try:
            data = await asyncio.to_thread(read_file, self._path(digest), self._root, SIZE_LIMIT + 1)
            if len(data) > SIZE_LIMIT:
                raise InvalidArgument("manifest too large")
            if digest_of(data, digest) != digest:
                raise InvalidArgument("the content is not that of its digest")
            return read_manifest(data, media_type, digest)
        except (ScowError, OSError) as error:
            detail = getattr(error, "detail", None)
            self.done.problems.append(f"{name}@{digest}: {sentence(error)}{f': {detail}' if detail else ''}")
            return None
