"""The check of everything that an engine keeps: bytes against digests, indexes against tars, records against files.

`run` looks at one thing after the other, beside whatever else goes on, and tells what is not as it should be. With
`repair` it puts right what can be: content and layers are fetched again from where their images came, or made of what
is good; what nobody refers to is dropped. What takes a damaged thing's place is verified first, and nothing damaged is
removed that isn't replaced or of no further use, so that a repair makes nothing worse, however it ends.
"""

import asyncio
import hashlib
import os
import sqlite3
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Final

from scow.engine.container import ContainerTable
from scow.engine.volumes import Volumes
from scow.errors import Conflict, ScowError
from scow.linux import mount
from scow.oci.descriptor import Descriptor
from scow.oci.digest import HEX_LENGTH, DiffID, Digest, algorithm, encoded, short
from scow.oci.media_types import OCI_LAYER
from scow.oci.reference import parse_reference
from scow.store.content import NoSuchContent
from scow.store.images import Image
from scow.store.layers import Layer, NoSuchLayer
from scow.store.snapshots import VIEW
from scow.store.store import Store
from scow.store.verifying import GOOD
from scow.transfer.credentials import Credentials, credentials_by_host
from scow.transfer.registries import Registries
from scow.transfer.restore import Restorer
from scow.wire.check import CheckMessage

SETTLED_S: Final = 60.0  # what is younger may be in the making
KNOWN_TOPS: Final = frozenset(
    {
        *("blobs", "layers", "snapshots", "containers", "volumes", "ingest", "trash", "empty", "lock"),
        *("state.db", "state.db-wal", "state.db-shm", "events.jsonl", "reserve"),
    }
)
_READ: Final = 1 << 20

Findings = AsyncGenerator[CheckMessage, None]


class Checking:
    """Checks a store, one check at a time."""

    def __init__(self, store: Store, registries: Registries, table: ContainerTable, volumes: Volumes) -> None:
        self._store = store
        self._registries = registries
        self._table = table
        self._volumes = volumes
        self._running = False

    async def run(self, *, repair: bool, auth: str | None = None) -> Findings:
        """Check everything; gives steps, findings, and a summary at the end. Raises Conflict if a check runs.

        `auth` is the header X-Registry-Config: credentials by registry, with which repairs may fetch.
        """
        if self._running:
            raise Conflict("a check is already running")
        self._running = True
        return self._run(repair, credentials_by_host(auth))

    async def _run(self, repair: bool, credentials: dict[str, Credentials]) -> Findings:
        try:
            restorer = Restorer(self._registries, self._store, lambda reference: credentials.get(reference.domain))
            check = _Check(self._store, self._table, self._volumes, restorer, repair)
            found = left = 0
            async with self._store.leases.hold():
                async for message in check.everything():
                    found += bool(message.problem)
                    left += bool(message.problem) and not message.repaired
                    yield message
            async for message in check.garbage():  # not under the lease, which would protect it
                found += 1
                left += not message.repaired
                yield message
            yield CheckMessage(summary=True, checked=check.checked, found=found, left=left)
        finally:
            self._running = False


class _Check:
    def __init__(self, store: Store, table: ContainerTable, volumes: Volumes, restorer: Restorer, repair: bool) -> None:
        self._store = store
        self._table = table
        self._volumes = volumes
        self._restorer = restorer
        self._repair = repair
        self.checked = 0

    async def everything(self) -> Findings:
        """All checks in the order in which repairs build on each other."""
        for part in (
            self._database(),
            self._documents(),
            self._layers(),
            self._blobs(),
            self._missing_layers(),
            self._records(),
            self._orphans(),
            self._mounts(),
        ):
            async for message in part:
                yield message

    # --- records

    async def _database(self) -> Findings:
        yield CheckMessage(step="state database", total=1)

        def look(db: sqlite3.Connection) -> list[str]:
            said = [str(row[0]) for row in db.execute("PRAGMA quick_check(10)")]
            broken = [
                f"{row[0]}: a row refers to {row[2]}, which has none" for row in db.execute("PRAGMA foreign_key_check")
            ]
            return [each for each in said if each != "ok"] + broken

        self.checked += 1
        for problem in await self._store.db.read(look):
            yield CheckMessage(kind="database", id="state.db", problem=problem, repair="restore it from a backup")

    async def _records(self) -> Findings:
        """Containers against snapshots and folders, volumes against folders."""
        yield CheckMessage(step="containers and volumes", total=1)
        snapshots = self._store.snapshots
        keys = set(snapshots.keys())
        for container in list(self._table):
            self.checked += 1
            if container.removing or container.state.status == "removing":
                continue
            if container.id not in keys:
                fixed = await self._try(snapshots.prepare, container.id, container.record.diff_ids)
                yield self._finding(
                    "container", container.name, "its writable layer is gone", fixed, "an empty one made"
                )
            elif not snapshots.upper(container.id).is_dir():
                upper = snapshots.upper(container.id)
                fixed = await self._try(asyncio.to_thread, upper.mkdir, parents=True, exist_ok=True)
                yield self._finding(
                    "container", container.name, "its writable layer is gone", fixed, "an empty one made"
                )
            if not container.folder.is_dir():
                folder = container.folder
                fixed = await self._try(asyncio.to_thread, folder.mkdir, 0o710, parents=True, exist_ok=True)
                yield self._finding(
                    "container", container.name, "its folder is gone", fixed, "made again, without its log"
                )
        for volume in (await self._volumes.list({})).volumes:
            self.checked += 1
            if self._volumes.is_lost(volume.name):
                problem = "its record is damaged, and what its driver was told is lost"
                yield CheckMessage(kind="volume", id=volume.name, problem=problem, repair="remove it and make it again")
                continue
            place = Path(volume.mountpoint)
            if volume.driver == "local" and not await asyncio.to_thread(place.is_dir):
                fixed = await self._try(asyncio.to_thread, place.mkdir, parents=True, exist_ok=True)
                yield self._finding("volume", volume.name, "its folder is gone", fixed, "made again, empty")

    # --- content

    def _wanted_documents(self) -> dict[Digest, Image]:
        images = self._store.images
        wanted: dict[Digest, Image] = {}
        for image in images.all():
            named = (each.rpartition("@")[2] for each in images.digests(image.id))
            for digest in (image.id, image.manifest, image.index, *named):
                if digest:
                    wanted.setdefault(Digest(digest), image)
        return wanted

    async def _documents(self) -> Findings:
        """Configs, manifests and indexes. Manifests first: a config is found again by what its manifest says."""
        wanted = self._wanted_documents()
        order = sorted(wanted, key=lambda digest: digest == wanted[digest].id)
        yield CheckMessage(step="documents", total=len(order))
        for digest in order:
            self.checked += 1
            image = wanted[digest]
            try:
                await self._store.content.peek(digest)
                continue
            except (NoSuchContent, OSError) as error:
                problem = "it is damaged" if self._store.content.path(digest).exists() else f"it is missing: {error}"
            fixed = await self._try(self._restorer.document, digest, image)
            yield self._finding("document", digest, problem, fixed, "fetched again", images=[image])

    async def _blobs(self) -> Findings:
        """Compressed layers, and whatever else is in content."""
        wanted = self._wanted_documents()
        blobs = self._store.layers.known_blobs()
        content = [digest for digest in await self._store.content.all() if digest not in wanted]
        yield CheckMessage(step="blobs", total=len(content))
        for number, digest in enumerate(content, 1):
            self.checked += 1
            path = self._store.content.path(digest)
            problem = await asyncio.to_thread(_blob_problem, path, digest)
            if problem:
                yield await self._damaged_blob(digest, path, problem, blobs.get(digest))
            yield CheckMessage(step="blobs", done=number, total=len(content))

    async def _damaged_blob(
        self, digest: Digest, path: Path, problem: str, known: tuple[DiffID, Descriptor] | None
    ) -> CheckMessage:
        if known is None:
            return self._finding("blob", digest, problem, "no image tells where it came from")
        diff_id, descriptor = known
        images = self._images_of(diff_id)
        if descriptor.media_type == OCI_LAYER:
            fixed = await self._try(self._relink, diff_id, digest)
            return self._finding("blob", digest, problem, fixed, "linked to its layer again", images=images)
        fixed = await self._try(self._restorer.blob, descriptor, diff_id, anew=True)
        if fixed and self._repair:
            # Its layer was found good, or made so, before: without the blob it is as good as with it.
            state, _ = await self._verify(self._store.layers.get(diff_id))
            if state == GOOD:
                await self._store.content.remove(digest)
                return self._finding("blob", digest, problem, "", "dropped; made again when wanted", images=images)
        return self._finding("blob", digest, problem, fixed, "replaced", images=images)

    async def _relink(self, diff_id: DiffID, digest: Digest) -> None:
        """Let an uncompressed blob be its layer's tar again."""
        link = self._store.paths.ingest / f"content-{os.urandom(8).hex()}"
        await asyncio.to_thread(os.link, await self._store.layers.tar(diff_id), link)
        await self._store.content.adopt(link, digest)

    # --- layers

    async def _layers(self) -> Findings:
        layers = self._store.layers.all()
        yield CheckMessage(step="layers", total=len(layers))
        for number, layer in enumerate(layers, 1):
            self.checked += 1
            try:
                self._store.layers.get(layer.diff_id)  # from here on the lease holds it
                tar, form = await self._verify(layer)
            except NoSuchLayer:
                continue
            if tar != GOOD:
                fixed = await self._try(self._rebuild, layer)
                yield self._layer_finding("layer", layer, tar, fixed, "made anew")
            elif form != GOOD:
                fixed = await self._try(self._reform, layer)
                kind = "index" if layer.format == "erofs" else "layer"
                yield self._layer_finding(kind, layer, form, fixed, "made of the tar again")
            yield CheckMessage(step="layers", done=number, total=len(layers))

    def _layer_finding(self, kind: str, layer: Layer, problem: str, failed: str, done: str) -> CheckMessage:
        running = [
            container.name
            for container in self._table
            if container.state.live and layer.diff_id in container.record.diff_ids
        ]
        if running:
            done += "; what runs on it is to be restarted"
        images = self._images_of(layer.diff_id)
        return self._finding(kind, layer.diff_id, problem, failed, done, images=images, containers=running)

    async def _verify(self, layer: Layer) -> tuple[str, str]:
        answer, _ = await self._store.layers.ask(
            layer.diff_id,
            {
                "do": "verify",
                "diff_id": layer.diff_id,
                "folder": str(self._store.layers.folder(layer.diff_id)),
                "format": layer.format,
            },
        )
        return str(answer["tar"]), str(answer["form"])

    async def _reform(self, layer: Layer) -> None:
        """Make index or unpacked files of a good tar."""
        tar = str(await self._store.layers.tar(layer.diff_id))
        job = {"do": "reindex"} if layer.format == "erofs" else {"do": "unpack", "tar": tar}
        await self._store.layers.replace(layer.diff_id, dict(job))
        await self._check_again(layer)

    async def _rebuild(self, layer: Layer) -> None:
        """Make the layer of a blob of it: one that is here and good, else one that is fetched."""
        layers, content = self._store.layers, self._store.content
        reasons: list[str] = []
        for blob in await self._blobs_of(layer.diff_id):
            path = content.path(blob.digest)
            try:
                problem = await asyncio.to_thread(_blob_problem, path, blob.digest)
                if problem or not content.has(blob.digest):
                    await self._restorer.blob(blob, layer.diff_id, anew=True)
                await layers.replace(layer.diff_id, {"do": "rebuild", "source": str(path)})
                await self._check_again(layer)
                return
            except ScowError as error:
                reasons.append(str(error))
        raise NoSuchLayer(layer.diff_id) if not reasons else Conflict("; ".join(reasons))

    async def _blobs_of(self, diff_id: DiffID) -> list[Descriptor]:
        known = {blob.digest: blob for id, blob in self._store.layers.known_blobs().values() if id == diff_id}
        for image in self._images_of(diff_id):
            try:
                blob = await self._restorer.descriptor(image, diff_id)
            except ScowError:
                continue  # without a manifest nothing tells which blob it is
            known.setdefault(blob.digest, blob)
        return sorted(known.values(), key=lambda blob: not self._store.content.has(blob.digest))

    async def _check_again(self, layer: Layer) -> None:
        tar, form = await self._verify(layer)
        if (tar, form) != (GOOD, GOOD):
            raise Conflict(f"still wrong afterwards: {form if tar == GOOD else tar}")

    async def _missing_layers(self) -> Findings:
        wanted = {diff_id: image for image in self._store.images.all() for diff_id in image.diff_ids}
        yield CheckMessage(step="images", total=len(self._store.images.all()))
        for diff_id, image in wanted.items():
            self.checked += 1
            if self._store.layers.find(diff_id) is None:
                fixed = await self._try(self._restorer.layer, diff_id)
                images = self._images_of(diff_id)
                yield self._finding("layer", diff_id, "it is missing", fixed, "fetched again", images=images or [image])

    def _images_of(self, diff_id: DiffID) -> list[Image]:
        return [image for image in self._store.images.all() if diff_id in image.diff_ids]

    # --- what nobody knows

    async def _orphans(self) -> Findings:
        yield CheckMessage(step="files", total=1)
        for path, drop in await asyncio.to_thread(self._strangers):
            self.checked += 1
            if not drop:
                yield self._finding("file", str(path), "it is not of this engine", "it is left alone")
                continue
            fixed = await self._try(self._store.trash.take, path)
            yield self._finding("file", str(path), "nothing refers to it", fixed, "removed")

    def _strangers(self) -> list[tuple[Path, bool]]:
        """What is under the data root without a record, and whether it is ours to drop."""
        paths, found = self._store.paths, []
        layers = {layer.diff_id for layer in self._store.layers.all()}
        for kind in _folders(paths.layers):
            found += [each for each in kind.iterdir() if f"{kind.name}:{each.name}" not in layers]
        for kind in _folders(paths.blobs):
            length = HEX_LENGTH.get(kind.name, 0)
            for each in (entry for folder in _folders(kind) for entry in folder.iterdir()):
                if len(each.name) != length or each.parent.name != each.name[:2] or not each.is_file():
                    found.append(each)
        snapshots = set(self._store.snapshots.keys())
        found += [each for each in paths.snapshots.iterdir() if each.name not in snapshots]
        containers = {container.id for container in self._table}
        found += [each for each in _folders(paths.data_root / "containers") if each.name not in containers]
        found += [each for each in _folders(paths.data_root / "volumes") if not self._volumes.exists(each.name)]
        old = time.time() - SETTLED_S
        strangers = [(each, True) for each in found if each.lstat().st_mtime < old]
        tops = (each for each in paths.data_root.iterdir() if each.name not in KNOWN_TOPS)
        return strangers + [(each, False) for each in tops if not each.name.startswith(("build", "plugins"))]

    async def garbage(self) -> Findings:
        """Content and layers that nothing reaches."""
        garbage = await self._store.garbage()
        if not garbage:
            return
        if self._repair:
            await self._store.collect()
        left = set(await self._store.garbage()) if self._repair else set(garbage)
        for digest in garbage:
            failed = "" if self._repair and digest not in left else "it goes with the next collection"
            yield self._finding("garbage", digest, "nothing refers to it", failed, "removed")

    async def _mounts(self) -> Findings:
        yield CheckMessage(step="mounts", total=1)
        snapshots, paths = self._store.snapshots, self._store.paths
        known = set(snapshots.keys())
        layers = {encoded(layer.diff_id)[:20] for layer in self._store.layers.all()}
        for root, names in ((paths.rootfs, known), (paths.layer_mounts, layers)):
            top = await asyncio.to_thread(os.path.realpath, root)
            for entry in await asyncio.to_thread(mount.mounts, top):
                name = entry.target.removeprefix(f"{top}/").partition("/")[0]
                if entry.target == top or name in names or name.startswith(VIEW):
                    continue
                self.checked += 1
                fixed = await self._try(asyncio.to_thread, mount.ensure_unmounted, Path(entry.target))
                yield self._finding("mount", entry.target, "nothing of ours is mounted there", fixed, "unmounted")
        for container in list(self._table):
            if container.state.status == "running" and container.id in known:
                self.checked += 1
                async with container.lock:  # not amid a start or an exit
                    gone = container.state.status == "running" and not snapshots.mounted(container.id)
                if gone:
                    yield self._finding(
                        "mount", container.name, "it runs, but its root is not mounted", "restart the container"
                    )

    # --- findings

    async def _try(self, repair: Callable[..., Awaitable[object]], *args: Any, **options: Any) -> str:
        """Do a repair, if there is to be any; why it failed, "" if it didn't."""
        if not self._repair:
            return "run the check with --repair"
        try:
            await repair(*args, **options)
        except (ScowError, OSError) as error:
            return str(error) or type(error).__name__
        return ""

    def _finding(
        self,
        kind: str,
        id: str,
        problem: str,
        failed: str,
        done: str = "",
        *,
        images: Iterable[Image] = (),
        containers: Iterable[str] = (),
    ) -> CheckMessage:
        return CheckMessage(
            kind=kind,
            id=id,
            problem=problem,
            repair=failed or done,
            repaired=not failed,
            images=[self._name(image) for image in images] or None,
            containers=list(containers) or None,
        )

    def _name(self, image: Image) -> str:
        names = self._store.images.names(image.id)
        return parse_reference(names[0]).familiar if names else short(image.id)


def _folders(root: Path) -> list[Path]:
    try:
        return [each for each in root.iterdir() if each.is_dir()]
    except FileNotFoundError:
        return []


def _blob_problem(path: Path, digest: Digest) -> str:
    """What is wrong with a blob; "" if nothing is, or it went meanwhile."""
    state = hashlib.new(algorithm(digest))
    try:
        with path.open("rb", buffering=0) as file:
            while data := file.read(_READ):
                state.update(data)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return str(error)
    found = f"{algorithm(digest)}:{state.hexdigest()}"
    return "" if found == digest else f"its bytes have {found}"
