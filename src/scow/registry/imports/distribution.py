"""The storage folder of docker's registry (distribution).

Beneath `docker/registry/v2` it has `blobs/<algorithm>/<2 hex>/<hex>/data`, and for each repository the links
`_layers/<algorithm>/<hex>/link`, `_manifests/revisions/<algorithm>/<hex>/link`, `_manifests/tags/<tag>/current/link`.
"""

import asyncio
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from scow.errors import InvalidArgument, ScowError
from scow.oci.digest import Digest, InvalidDigest, algorithm, encoded, parse_digest
from scow.registry.imports.files import FileImporter, Imported, Say
from scow.registry.metadata import Metadata
from scow.registry.names import parse_repository, parse_tag
from scow.registry.objects import Objects

ROOTS: Final = ("docker/registry/v2", "registry/v2", "v2", ".")


class NotDistribution(InvalidArgument):
    """The folder does not look like docker's registry's."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"{folder} is neither a storage folder of docker's registry, which has docker/registry/v2/blobs, "
            "nor an OCI layout, which has index.json"
        )


class DistributionImporter:
    """Reads the old folder; writes to ours through the same interfaces as pushes do."""

    def __init__(
        self, source: Path, objects: Objects, metadata: Metadata, say: Say, *, verify: bool = True, namespace: str = ""
    ) -> None:
        """`namespace` is put before the repositories' names. Raises NotDistribution."""
        found = [root for name in ROOTS if (root := source / name / "blobs").is_dir()]
        if not found or not (found[0].parent / "repositories").is_dir():
            raise NotDistribution(source)
        self._root = found[0].parent
        self._prefix = f"{namespace}/" if namespace else ""
        self._files = FileImporter(objects, metadata, self._data, say, verify=verify)

    async def run(self, wanted: Callable[[str], bool] = lambda _: True) -> Imported:
        """Take over the repositories that are `wanted` by name."""
        done = self._files.done
        for name, folder in await asyncio.to_thread(lambda: list(_repositories(self._root / "repositories"))):
            if not wanted(name):
                continue
            try:
                parse_repository(self._prefix + name)
            except ScowError as error:
                done.problems.append(f"{name}: {error}")
                continue
            blobs = await asyncio.to_thread(_linked, folder / "_layers")
            revisions = await asyncio.to_thread(_linked, folder / "_manifests" / "revisions")
            tags = await asyncio.to_thread(_tags, folder / "_manifests" / "tags")
            await self._files.take(self._prefix + name, blobs, revisions, tags)
        return done

    def _data(self, digest: Digest) -> Path:
        digits = encoded(digest)
        return self._root / "blobs" / algorithm(digest) / digits[:2] / digits / "data"


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


def _tags(root: Path) -> dict[Digest, list[str]]:
    """Tags by the digests that they point at."""
    found: defaultdict[Digest, list[str]] = defaultdict(list)
    for link in sorted(root.glob("*/current/link")):
        tag = link.parent.parent.name
        try:
            found[parse_digest(link.read_text().strip())].append(parse_tag(tag))
        except ScowError:
            continue
    return dict(found)
