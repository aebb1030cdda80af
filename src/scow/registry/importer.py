"""Takes over the storage folder of docker's registry (distribution): blobs by hard links where the disk allows it.

Beneath `docker/registry/v2` it has `blobs/<algorithm>/<2 hex>/<hex>/data`, and for each repository the links
`_layers/<algorithm>/<hex>/link`, `_manifests/revisions/<algorithm>/<hex>/link`, `_manifests/tags/<tag>/current/link`.
What was taken over before is found and left, so an import can be repeated until the old registry is stopped.
"""

import asyncio
import os
import uuid
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from scow.errors import InvalidArgument, ScowError
from scow.oci.digest import Digest, InvalidDigest, algorithm, encoded, parse_digest
from scow.registry.errors import ReferencesUnknown
from scow.registry.folder import Folder
from scow.registry.manifests import SIZE_LIMIT, read_manifest
from scow.registry.metadata import Metadata, NewManifest, Upload
from scow.registry.names import parse_repository, parse_tag

ROOTS: Final = ("docker/registry/v2", "registry/v2", "v2", ".")


class NotDistribution(InvalidArgument):
    """The folder does not look like docker's registry's."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} is not a storage folder of docker's registry: it has no docker/registry/v2/blobs")


class Imported(msgspec.Struct):
    """What one import has done."""

    repositories: int = 0
    blobs: int = 0
    manifests: int = 0
    tags: int = 0
    problems: list[str] = []


class Importer:
    """Reads the old folder; writes to ours through the same interfaces as pushes do."""

    def __init__(self, source: Path, objects: Folder, metadata: Metadata, *, verify: bool = True) -> None:
        """`verify` reads every blob to check its digest. Raises NotDistribution."""
        found = [root for name in ROOTS if (root := source / name / "blobs").is_dir()]
        if not found or not (found[0].parent / "repositories").is_dir():
            raise NotDistribution(source)
        self._root = found[0].parent
        self._objects = objects
        self._metadata = metadata
        self._verify = verify

    async def run(self) -> Imported:
        """Take over every repository. What cannot be used is named among the problems, and left."""
        done = Imported()
        for name, folder in await asyncio.to_thread(lambda: list(_repositories(self._root / "repositories"))):
            try:
                parse_repository(name)
            except ScowError as error:
                done.problems.append(f"{name}: {error}")
                continue
            await self._take(name, folder, done)
            done.repositories += 1
        return done

    async def _take(self, name: str, folder: Path, done: Imported) -> None:
        taken: set[str] = set()
        for digest in await asyncio.to_thread(_linked, folder / "_layers"):
            await self._take_blob(name, digest, taken, done)
        revisions = await asyncio.to_thread(_linked, folder / "_manifests" / "revisions")
        waiting = [found for digest in revisions if (found := await self._read(name, digest, done)) is not None]
        tags = await asyncio.to_thread(_tags, folder / "_manifests" / "tags")
        # Indexes come after what they list; several rounds, for indexes of indexes.
        problem: dict[str, str] = {}
        while waiting:
            left: list[NewManifest] = []
            for manifest in waiting:
                for digest in manifest.blobs:
                    await self._take_blob(name, digest, taken, done)
                try:
                    await self._metadata.put_manifest(name, manifest, tags.get(manifest.digest, []))
                except ReferencesUnknown as error:
                    problem[manifest.digest] = f"{name}@{manifest.digest}: lacks {', '.join(error.digests)}"
                    left.append(manifest)
                except ScowError as error:
                    done.problems.append(f"{name}@{manifest.digest}: {error}")
                else:
                    done.manifests += 1
                    done.tags += len(tags.get(manifest.digest, []))
            if len(left) == len(waiting):
                done.problems += [problem[manifest.digest] for manifest in left]
                return
            waiting = left

    def _data(self, digest: Digest) -> Path:
        digits = encoded(digest)
        return self._root / "blobs" / algorithm(digest) / digits[:2] / digits / "data"

    async def _take_blob(self, name: str, digest: Digest, taken: set[str], done: Imported) -> None:
        if digest in taken:
            return
        taken.add(digest)
        if await self._metadata.blob(name, digest) is not None:
            return
        upload = Upload(str(uuid.uuid4()), name, algorithm(digest))
        await self._metadata.begin_upload(upload)
        try:
            stored = await self._metadata.close_upload(upload.upload_id, digest)
            size = await self._objects.adopt(self._data(digest), stored, verify=self._verify)
            if await self._metadata.commit_blob(upload, digest, stored, size):
                done.blobs += 1
            else:
                done.problems.append(f"{name}: blob {digest}: the quota is used up")
        except FileNotFoundError:
            await self._metadata.end_upload(upload.upload_id)  # its manifest will be refused, if any needs it
        except (ScowError, OSError) as error:
            await self._metadata.end_upload(upload.upload_id)
            done.problems.append(f"{name}: blob {digest}: {error}")

    async def _read(self, name: str, digest: Digest, done: Imported) -> NewManifest | None:
        path = self._data(digest)

        def read() -> bytes:
            with path.open("rb") as file:
                return file.read(SIZE_LIMIT + 1)

        try:
            data = await asyncio.to_thread(read)
            if len(data) > SIZE_LIMIT:
                raise InvalidArgument("manifest too large")
            return read_manifest(data, "", digest)
        except (ScowError, OSError) as error:
            detail = getattr(error, "detail", None)
            done.problems.append(f"{name}@{digest}: {error}{f': {detail}' if detail else ''}")
            return None


def _repositories(root: Path) -> Iterator[tuple[str, Path]]:
    for folder, names, _ in os.walk(root):
        if "_manifests" in names or "_layers" in names:
            yield str(Path(folder).relative_to(root)), Path(folder)
        names[:] = sorted(name for name in names if not name.startswith("_"))


def _linked(root: Path) -> list[Digest]:
    """Digests that a folder of links names."""
    found = []
    for link in sorted(root.glob("*/*/link")):
        try:
            found.append(parse_digest(f"{link.parent.parent.name}:{link.parent.name}"))
        except InvalidDigest:
            continue
    return found


def _tags(root: Path) -> dict[str, list[str]]:
    """Tags by the digests that they point at."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for link in sorted(root.glob("*/current/link")):
        tag = link.parent.parent.name
        try:
            found[parse_digest(link.read_text().strip())].append(parse_tag(tag))
        except ScowError:
            continue
    return dict(found)
