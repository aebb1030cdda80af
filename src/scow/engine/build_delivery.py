"""What becomes of what a build made: an image of the catalogue, with or without index and attestations, and archives
and trees of files for the client to fetch.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from scow import points
from scow.build.attestation import encode_statement
from scow.build.image_state import ImageState
from scow.build.output import Annotation, Output
from scow.build.packing import Outcome, Packed, pack
from scow.engine.build_results import BuildResults, Form, Tree, Trees
from scow.engine.events import Events
from scow.oci.digest import Digest, sha256
from scow.oci.platform import host_platform, satisfies
from scow.oci.reference import Reference
from scow.store.assembly import publish
from scow.store.images import Image, NoSuchImageID
from scow.store.store import Store


class Delivered(msgspec.Struct, frozen=True, kw_only=True):
    """Where the results are: the image's ID, what its names stand for if that has a manifest, what is to be fetched."""

    id: Digest
    top: Any = None
    result: str = ""
    names: tuple[Reference, ...] = ()


class Delivery:
    """Delivers one build's outcomes. Hold a lease around it."""

    def __init__(
        self,
        store: Store,
        events: Events,
        results: BuildResults,
        outcomes: Sequence[Outcome],
        names: Sequence[Reference],
        annotations: Sequence[Annotation],
        epoch: int | None,
    ) -> None:
        self._store = store
        self._events = events
        self._results = results
        self._outcomes = outcomes
        self._names = tuple(names)
        self._annotations = tuple(annotations)
        self._epoch = epoch
        here = [each for each in outcomes if satisfies(each.platform, host_platform())]
        self._main = (here or list(outcomes))[0]
        """The outcome that names stand for here: one that runs on this machine, if there is one."""

    async def run(self, outputs: Sequence[Output]) -> Delivered:
        """Bring the outcomes to all outputs; to the catalogue if there is none, or if there are names for files."""
        images = [each for each in outputs if each.is_image and not each.is_file]
        files = [each for each in outputs if each.is_file]
        names = tuple(dict.fromkeys([*self._names, *(name for each in images for name in each.names)]))
        top = None
        if images or not outputs or (names and files):
            top = await self._publish(self._noted(images[0] if images else Output(kind="image")), names)
        result = await self._for_client(files, names) if files else ""
        published = images or files or not outputs
        return Delivered(id=self._main.id, top=top, result=result, names=names if published else ())

    def _noted(self, output: Output) -> Output:
        return msgspec.structs.replace(output, annotations=(*self._annotations, *output.annotations))

    def _is_simple(self, output: Output) -> bool:
        return output.is_plain and len(self._outcomes) == 1 and not self._main.predicates

    async def _publish(self, output: Output, names: Sequence[Reference]) -> Any:
        images = self._store.images
        state = self._main.state
        if not self._is_simple(output):
            packed = await pack(self._store, self._outcomes, output, _called(names))
            image = images.find(self._main.id) or self._image()
            manifest = packed.manifests[list(self._outcomes).index(self._main)]
            index = packed.top.digest if packed.is_index else None
            await points.at("build.packed")
            await images.publish(msgspec.structs.replace(image, manifest=manifest.digest, index=index))
        else:
            packed = None
            if state.based_on is None:
                await self._publish_plain(state)
        await points.at("build.published")
        for name in names:
            await self._name(name)
            self._events.emit("image", "tag", self._main.id, {"name": name.familiar})
        return None if packed is None else packed.top

    async def _name(self, name: Reference) -> None:
        """Give the image a name; again the image, too, if somebody has just removed it: it is what the build made."""
        try:
            await self._store.images.tag(str(name), self._main.id)
        except NoSuchImageID:
            await self._store.images.publish(self._image(), name=str(name))

    def _image(self) -> Image:
        state = self._main.state
        return Image(
            id=self._main.id,
            platform=self._main.platform,
            diff_ids=state.diff_ids,
            size=sum(self._store.layers.get(diff_id).size for diff_id in state.diff_ids),
            created=None if state.created is None else datetime.fromisoformat(state.created),
            stored_at=datetime.now(UTC),
        )

    async def _publish_plain(self, state: ImageState) -> None:
        """Publish an image without a manifest: one that it got by an earlier build, and no registry has, goes."""
        known = self._store.images.find(self._main.id)
        if known is not None and known.manifest and not self._store.images.digests(known.id):
            await self._store.images.put(msgspec.structs.replace(known, manifest="", index=None))
        await publish(self._store, state.image_config())

    async def _for_client(self, outputs: Sequence[Output], names: Sequence[Reference]) -> str:
        made: list[Form | Trees] = []
        digests: set[str] = set()
        for output in outputs:
            if output.is_image:
                called = tuple(dict.fromkeys([*names, *output.names]))
                packed = await pack(self._store, self._outcomes, self._noted(output), _called(called))
                made.append(self._form(packed, called))
                digests |= packed.digests
            else:
                trees = await self._trees(output, names)
                made.append(trees)
                for tree in trees.trees:
                    digests |= {*tree.diff_ids, *tree.files.values()}
        return self._results.keep(made, frozenset(digests))

    def _form(self, packed: Packed, names: tuple[Reference, ...]) -> Form:
        manifest = packed.manifests[list(self._outcomes).index(self._main)]
        return Form(
            top=packed.top if packed.is_index else msgspec.structs.replace(packed.top, platform=None),
            manifest=manifest.digest,
            id=self._main.id,
            diff_ids=self._main.state.diff_ids,
            names=names,
        )

    async def _trees(self, output: Output, names: Sequence[Reference]) -> Trees:
        """The file systems, with what was attested beside their files; each in a folder if there are several."""
        split = output.platform_split if output.platform_split is not None else len(self._outcomes) > 1
        trees = []
        for outcome in self._outcomes:
            files = {}
            for predicate in outcome.predicates:
                data = await asyncio.to_thread(encode_statement, predicate, ())
                files[predicate.file] = await self._put(data)
            prefix = str(outcome.platform).replace("/", "_") if split else ""
            trees.append(Tree(prefix=prefix, diff_ids=outcome.state.diff_ids, files=files))
        return Trees(trees=tuple(trees), mtime=self._epoch)

    async def _put(self, data: bytes) -> Digest:
        digest = sha256(data)
        if not self._store.content.has(digest):
            await self._store.content.put(data, digest)
        return digest


def _called(names: Sequence[Reference]) -> list[str]:
    return [name.familiar for name in names]
