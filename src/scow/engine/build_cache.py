"""What the build cache tells about itself, and its pruning. Engine API, BuildCache and BuildPrune."""

import asyncio
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from scow.build.cache import Cache
from scow.build.cache_mounts import CacheMounts
from scow.build.image_state import parse_created
from scow.engine import validation
from scow.engine.cache_limits import FILTERS, MOUNT, Rule
from scow.engine.moments import parse_moment
from scow.store.store import Store
from scow.wire.build import CacheRecord, CacheRoom, PruneBuildReply
from scow.wire.message import encode
from scow.wire.times import format_time

REGULAR: Final = "regular"
_TRUE: Final = frozenset({"", "1", "true"})


class _Item(msgspec.Struct, frozen=True, kw_only=True):
    """A record or a cache directory, as pruning sees it."""

    record: CacheRecord
    used_at: int
    is_mount: bool


def bytes_to_keep(room: CacheRoom, total: int, free: int) -> int:
    """How many bytes of a cache stay; 0 if nothing was said, so that all of it may go. BuildKit's rules."""
    if room == CacheRoom():
        return 0
    missing = room.free - free
    keep = room.most or total
    if missing > 0:
        keep = min(keep, total - missing)
    if not (room.most or room.free):
        keep = 0
    return max(keep, room.reserved, 1)


class BuildCache:
    """Shows and prunes the cache of one engine."""

    def __init__(self, cache: Cache, mounts: CacheMounts, store: Store, folder: Path) -> None:
        """`folder` is on the disk whose room counts."""
        self._folder = folder
        self._cache = cache
        self._mounts = mounts
        self._store = store

    async def rows(self) -> list[dict[str, Any]]:
        """Everything in the cache that takes room, for `system df`."""
        items = await self._items()
        return [json.loads(encode(item.record)) for item in items if item.is_mount or item.record.size]

    async def prune(self, filters: Mapping[str, Sequence[str]], *, all: bool, room: CacheRoom) -> PruneBuildReply:
        """Remove what no build uses now: without `all`, only steps that no image came by.

        What was used last stays, as far as `room` lets it. Raises InvalidArgument for filters that make no sense.
        """
        validation.check_filters(filters, FILTERS)
        before = self._bytes()
        chosen = await self._remove(Rule(filters=filters, all=all, room=room))
        await self._store.collect()
        return PruneBuildReply(
            caches_deleted=[item.record.id for item in chosen] or None, space_reclaimed=self._freed(before, chosen)
        )

    async def trim(self, rules: Sequence[Rule]) -> int:
        """Remove what goes beyond the rules, one after the other; return the bytes that the disk got back."""
        before = self._bytes()
        removed = [item for rule in rules for item in await self._remove(rule)]
        if removed:
            await self._store.collect()
        return self._freed(before, removed)

    def _freed(self, before: int, removed: Sequence[_Item]) -> int:
        return max(0, before - self._bytes()) + sum(item.record.size for item in removed if item.is_mount)

    async def _remove(self, rule: Rule) -> list[_Item]:
        """Remove the records and directories that a rule leaves no room for; layers go with the next collection."""
        items = sorted(await self._items(), key=lambda item: item.used_at)
        wanted = [item for item in items if self._is_wanted(item, rule.filters, rule.all)]
        # What images have, too, takes no room of the cache's own.
        counted = [item for item in items if rule.all or not item.record.shared]
        total = sum(item.record.size for item in counted)
        free = (await asyncio.to_thread(shutil.disk_usage, self._folder)).free
        keep = bytes_to_keep(rule.room, total, free)
        chosen: list[_Item] = []
        for item in wanted:
            if keep and total <= keep:
                break
            chosen.append(item)
            total -= item.record.size
        mounts = [item for item in chosen if item.is_mount]
        await self._cache.remove([item.record.id for item in chosen if not item.is_mount])
        await self._mounts.remove([item.record.id for item in mounts])
        return chosen

    def _bytes(self) -> int:
        return sum(layer.size for layer in self._store.layers.all())

    async def _items(self) -> list[_Item]:
        held: set[object] = set()
        for image in self._store.images.all():
            held.update(image.diff_ids)
            # Steps that changed no file are known by their times, to the nanosecond.
            history = (await self._store.images.config(image.id)).history or ()
            held.update(parse_created(step.created) for step in history if step.empty_layer)
        items: list[_Item] = []
        for step in self._cache.all():
            record = CacheRecord(
                id=step.key,
                type=REGULAR,
                description=step.description,
                shared=(step.diff_id or step.created_at) in held,
                size=step.size,
                created_at=format_time(step.created_at),
                last_used_at=format_time(step.used_at) if step.used_at else None,
                usage_count=step.uses,
            )
            items.append(_Item(record=record, used_at=step.used_at, is_mount=False))
        for mount in self._mounts.all():
            record = CacheRecord(
                id=mount.id,
                type=MOUNT,
                description=f"cached mount {mount.name}",
                in_use=self._mounts.in_use(mount.id),
                size=await self._mounts.size(mount.id),
                created_at=format_time(mount.created_at),
                last_used_at=format_time(mount.used_at),
                usage_count=mount.uses,
            )
            items.append(_Item(record=record, used_at=mount.used_at, is_mount=True))
        return items

    def _is_wanted(self, item: _Item, filters: Mapping[str, Sequence[str]], all: bool) -> bool:
        record = item.record
        if record.in_use or (record.shared and not all and not filters.get("shared")):
            return False
        for name in ("until", "unused-for"):
            if any(item.used_at / 1e9 > parse_moment(value, time.time()) for value in filters.get(name, ())):
                return False
        for name, value in (
            ("id", record.id),
            ("type", record.type),
            ("description", record.description),
        ):
            if filters.get(name) and not any(_fits(value, wanted, name) for wanted in filters[name]):
                return False
        if filters.get("parent"):
            return False  # steps are keyed by what they stand on, not by who made that
        for name, flag in (("inuse", record.in_use), ("shared", record.shared), ("private", not record.shared)):
            if any((text.lower() in _TRUE) is not flag for text in filters.get(name, ())):
                return False
        return True


def _fits(value: str, wanted: str, name: str) -> bool:
    return wanted in value if name == "description" else value == wanted or (name == "id" and value.startswith(wanted))
