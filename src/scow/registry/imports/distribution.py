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
from scow.registry.imports.folders import LINK_LIMIT, names_in, read_file
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
        self._root = found[0].parent.resolve()
        self._prefix = f"{namespace}/" if namespace else ""
        self._files = FileImporter(objects, metadata, self._data, self._root / "blobs", say, verify=verify)

    async def run(self, wanted: Callable[[str], bool] = lambda _: True) -> Imported:
        """Take over the repositories that are `wanted` by name."""
        done = self._files.done
        root = self._root / "repositories"
        for name, folder in await asyncio.to_thread(lambda: list(_repositories(root, done.problems))):
            if not wanted(name):
                continue
            try:
                parse_repository(self._prefix + name)
            except ScowError as error:
                done.problems.append(f"{name}: {error}")
                continue
            found = await asyncio.to_thread(_Links, name, folder, root, done.problems)
            await self._files.take(self._prefix + name, found.blobs, found.revisions, found.tags)
        return done

    def _data(self, digest: Digest) -> Path:
        digits = encoded(digest)
        return self._root / "blobs" / algorithm(digest) / digits[:2] / digits / "data"


class _Links:
    """What the links of one repository name. What cannot be read is a problem: it must not be missed in silence."""

    def __init__(self, name: str, folder: Path, root: Path, problems: list[str]) -> None:
        """Blocks."""
        self._root = root
        self._problems = problems
        self.blobs = self._linked(folder / "_layers")
        self.revisions = self._linked(folder / "_manifests" / "revisions")
        self._known = set(self.revisions)
        self.tags: defaultdict[Digest, list[str]] = defaultdict(list)
        """By the digests that they point at."""
        for tag in self._names(folder / "_manifests" / "tags"):
            self._read_tag(name, tag, folder / "_manifests" / "tags" / tag / "current" / "link")

    def _linked(self, folder: Path) -> list[Digest]:
        found = []
        for kind in self._names(folder):
            for digits in self._names(folder / kind):
                if "link" not in self._names(folder / kind / digits):
                    continue  # docker's registry leaves the folder of a link that was deleted
                try:
                    found.append(parse_digest(f"{kind}:{digits}"))
                except InvalidDigest as error:
                    self._problems.append(f"{folder / kind / digits}: {error}")
        return found

    def _read_tag(self, name: str, tag: str, link: Path) -> None:
        try:
            digest = parse_digest(read_file(link, self._root, LINK_LIMIT).decode().strip())
            self.tags[digest].append(parse_tag(tag))
            if digest not in self._known:
                self._problems.append(f"{name}:{tag}: its manifest {digest} is not there")
        except FileNotFoundError:
            return  # deleted
        except OSError as error:
            self._problems.append(f"{name}:{tag}: {link}: {error.strerror}")
        except (ScowError, UnicodeDecodeError) as error:
            self._problems.append(f"{name}:{tag}: {link}: {error}")

    def _names(self, folder: Path) -> list[str]:
        try:
            return names_in(folder)
        except OSError as error:
            self._problems.append(f"{folder}: {error.strerror}")
            return []


def _repositories(root: Path, problems: list[str]) -> Iterator[tuple[str, Path]]:
    def note(error: OSError) -> None:
        problems.append(f"{error.filename}: {error.strerror}")

    for folder, names, _ in os.walk(root, onerror=note):
        if "_manifests" in names or "_layers" in names:
            yield str(Path(folder).relative_to(root)), Path(folder)
        names[:] = sorted(name for name in names if not name.startswith("_"))
