"""An OCI layout: `index.json` and `blobs/<algorithm>/<hex>`, as skopeo, buildx and `docker save` write it.

image-spec image-layout.md
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from scow.errors import InvalidArgument, ScowError
from scow.oci.descriptor import Descriptor
from scow.oci.digest import Digest, algorithm, encoded, parse_digest
from scow.oci.reference import parse_reference
from scow.registry.imports.files import FileImporter, Imported, Say
from scow.registry.metadata import Metadata
from scow.registry.names import parse_repository, parse_tag
from scow.registry.objects import Objects

REF_NAME: Final = "org.opencontainers.image.ref.name"
IMAGE_NAME: Final = "io.containerd.image.name"
INDEX_LIMIT: Final = 64 << 20
DEPTH_LIMIT: Final = 16


class BadLayout(InvalidArgument):
    """The folder is no layout that can be read."""

    def __init__(self, folder: Path, why: str) -> None:
        super().__init__(f"{folder} is no OCI layout that can be read: {why}")


def is_layout(folder: Path) -> bool:
    """Whether a folder is an OCI layout."""
    return (folder / "index.json").is_file() and (folder / "blobs").is_dir()


class _Index(msgspec.Struct):
    manifests: list[Descriptor]


class LayoutImporter:
    """Reads the layout; writes to ours through the same interfaces as pushes do."""

    def __init__(
        self,
        source: Path,
        objects: Objects,
        metadata: Metadata,
        say: Say,
        *,
        verify: bool = True,
        namespace: str = "",
        repository: str = "",
    ) -> None:
        """`repository` is where images go whose names are tags alone, and all others too if it is given."""
        self._source = source
        self._prefix = f"{namespace}/" if namespace else ""
        self._repository = repository
        self._files = FileImporter(objects, metadata, self._data, source / "blobs", say, verify=verify)

    async def run(self, wanted: Callable[[str], bool] = lambda _: True) -> Imported:
        """Take over what index.json names, if its repository is `wanted`. Raises BadLayout."""
        manifests: defaultdict[str, list[Digest]] = defaultdict(list)
        tags: defaultdict[str, defaultdict[Digest, list[str]]] = defaultdict(lambda: defaultdict(list))
        for descriptor in await asyncio.to_thread(self._index):
            try:
                name, tag = self._name(descriptor)
                digest = parse_digest(descriptor.digest)
            except ScowError as error:
                self._files.done.problems.append(f"{descriptor.digest[:100]}: {error}")
                continue
            if not wanted(name):
                continue
            await self._collect(name, digest, manifests[name], 0)
            if tag is not None:
                tags[name][digest].append(tag)
        for name, digests in manifests.items():
            await self._files.take(self._prefix + name, [], list(dict.fromkeys(digests)), tags[name])
        return self._files.done

    def _index(self) -> list[Descriptor]:
        try:
            with (self._source / "index.json").open("rb") as file:
                data = file.read(INDEX_LIMIT + 1)
            if len(data) > INDEX_LIMIT:
                raise BadLayout(self._source, "index.json is too large")
            return msgspec.json.decode(data, type=_Index).manifests
        except OSError as error:
            raise BadLayout(self._source, error.strerror or str(error)) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadLayout(self._source, f"index.json: {error}") from error

    def _name(self, descriptor: Descriptor) -> tuple[str, str | None]:
        """The repository and tag of an entry. Raises InvalidArgument and what its parts may raise."""
        notes = descriptor.annotations or {}
        ref = notes.get(REF_NAME, "")
        full = notes.get(IMAGE_NAME) or (ref if "/" in ref or ":" in ref else "")
        tag, repository = ref if ref != full else "", self._repository
        if full:
            reference = parse_reference(full)
            repository = repository or reference.path
            tag = reference.tag or ("" if reference.digest else tag)
        if not repository:
            raise InvalidArgument("index.json does not say which repository it belongs to: --repository does")
        parse_repository(self._prefix + repository)
        return repository, parse_tag(tag) if tag else None

    async def _collect(self, name: str, digest: Digest, found: list[Digest], depth: int) -> None:
        """A manifest and, of an index, the children that are here."""
        if digest in found or depth > DEPTH_LIMIT:
            return
        found.append(digest)
        manifest = await self._files.read(name, digest)
        for child in manifest.manifests if manifest is not None else ():
            if await asyncio.to_thread(self._data(child).exists):
                await self._collect(name, child, found, depth + 1)

    def _data(self, digest: Digest) -> Path:
        return self._source / "blobs" / algorithm(digest) / encoded(digest)
