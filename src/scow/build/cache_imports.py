"""What `--cache-from` names: caches from elsewhere, asked for a step when our own doesn't know it.

A cache is read when the first step needs it, and its layers are brought one by one, as steps are found. An image
without a cache in its config is of use all the same: as docker's classic builder does, a step is found by what the
image's history says, as long as the history until there is the build's own.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from scow.build.cache import Sources
from scow.build.cache_document import CachedStep
from scow.build.image_state import ImageState, parse_created
from scow.errors import ScowError
from scow.oci.digest import DiffID
from scow.oci.image_config import ImageConfig
from scow.wire.progress import ProgressMessage

log = logging.getLogger(__name__)

Emit = Callable[[ProgressMessage], None]
Note = Callable[[str], None]


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What a source has: steps by their keys, and the config of the image, if it is one."""

    steps: Mapping[str, CachedStep] = {}
    image: ImageConfig | None = None


class Source(Protocol):
    """One cache from elsewhere."""

    @property
    def name(self) -> str:
        """What users call it."""

    async def read(self) -> Known:
        """Learn what is there. Raises ScowError."""

    async def bring(self, diff_id: DiffID, emit: Emit) -> None:
        """Have a layer in the store. Raises ScowError."""


class Imports:
    """The caches from elsewhere that one build may use."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._reading: asyncio.Task[list[tuple[Source, Known]]] | None = None

    @property
    def wanted(self) -> bool:
        """Whether there are any."""
        return bool(self._sources)

    async def find_sources(self, key: str, note: Note) -> Sources | None:
        """What a copy took of a stage, if a cache knows."""
        for _, known in await self._known(note):
            if key in known.steps and known.steps[key].sources is not None:
                return known.steps[key].sources
        return None

    async def _known(self, note: Note) -> list[tuple[Source, Known]]:
        if not self._sources:
            return []
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._read(note))
        return await asyncio.shield(self._reading)

    async def find(self, key: str, state: ImageState, created_by: str, note: Note, emit: Emit) -> CachedStep | None:
        """What a cache knows of a step, its layer brought into the store; None if no cache does, or can give it.

        `created_by` is what the history would say of the step, empty if that wouldn't say enough; `note` is told why a
        cache can't be used, once.
        """
        known = await self._known(note)
        candidates = [(source, each.steps[key]) for source, each in known if key in each.steps]
        if created_by:
            by_history = [(source, step_of(each.image, state, created_by)) for source, each in known if each.image]
            candidates += [(source, step) for source, step in by_history if step is not None]
        for source, step in candidates:
            if step.diff_id is None:
                return step
            try:
                await source.bring(step.diff_id, emit)
                return step
            except ScowError as error:
                note(f"failed to use the cache {source.name}: {error}")
        return None

    async def aclose(self) -> None:
        """End what still runs."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self, note: Note) -> list[tuple[Source, Known]]:
        async def read(source: Source) -> Known:
            try:
                return await source.read()
            except ScowError as error:
                note(f"failed to import the cache {source.name}: {error}")
                return Known()

        return list(zip(self._sources, await asyncio.gather(*map(read, self._sources)), strict=True))


def step_of(image: ImageConfig, state: ImageState, created_by: str) -> CachedStep | None:
    """What an image's history tells of the step after `state`, if it is the same until there and goes on so."""
    history, done = image.history or (), len(state.history)
    if len(history) <= done or history[:done] != state.history:
        return None
    count = len(state.diff_ids)
    if image.diff_ids[:count] != state.diff_ids or image.platform != state.platform:
        return None
    step = history[done]
    if step.created_by != created_by or step.comment or step.author != state.author:
        return None
    if step.empty_layer:
        return CachedStep(parse_created(step.created), None)
    return CachedStep(parse_created(step.created), image.diff_ids[count]) if len(image.diff_ids) > count else None
