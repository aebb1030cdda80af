"""How large the build cache may grow before its oldest parts go: `builder.gc` of daemon.json, BuildKit's defaults."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from scow.engine.log_limits import parse_size
from scow.engine.moments import parse_moment
from scow.errors import InvalidArgument
from scow.wire.build import CacheRoom

FILTERS: Final = frozenset({"until", "id", "parent", "type", "description", "inuse", "shared", "private", "unused-for"})
"""What of a cache is meant, for pruning."""

MOUNT: Final = "exec.cachemount"
"""The type of cache mounts' directories."""

_RESERVED: Final = 0.1  # of the disk
_MOST: Final = 0.6
_FREE: Final = 0.2
_BRIEFLY: Final = 512 << 20  # bytes: of what is soon made again, if it wasn't used for two days


class GcPolicy(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """One rule of `builder.gc.policy`. Sizes are bytes, with a unit or without."""

    all: bool = False
    filter: tuple[str, ...] = ()
    keep_storage: str | int = ""  # the older name of the next
    reserved_space: str | int = ""
    max_used_space: str | int = ""
    min_free_space: str | int = ""


class GcConfig(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """The key `builder.gc` of daemon.json; the sizes are those of the rules that hold if `policy` names none."""

    enabled: bool = True
    policy: tuple[GcPolicy, ...] = ()
    default_keep_storage: str | int = ""
    default_reserved_space: str | int = ""
    default_max_used_space: str | int = ""
    default_min_free_space: str | int = ""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What of a cache is removed, the oldest first, and how much may stay."""

    filters: Mapping[str, Sequence[str]] = {}
    all: bool = False
    room: CacheRoom


def rules(config: GcConfig, disk_size: int) -> tuple[Rule, ...]:
    """The rules that hold on a disk of so many bytes, none if they are switched off. Raises InvalidArgument."""
    if not config.enabled:
        return ()
    if config.policy:
        return tuple(_rule(policy) for policy in config.policy)
    room = CacheRoom(
        reserved=_bytes(config.default_reserved_space or config.default_keep_storage),
        most=_bytes(config.default_max_used_space),
        free=_bytes(config.default_min_free_space),
    )
    if room == CacheRoom():
        room = CacheRoom(reserved=int(_RESERVED * disk_size), most=int(_MOST * disk_size), free=int(_FREE * disk_size))
    return (
        Rule(filters={"type": [MOUNT], "unused-for": ["48h"]}, room=CacheRoom(most=_BRIEFLY)),
        Rule(filters={"unused-for": ["1440h"]}, room=room),
        Rule(room=room),
    )


def _rule(policy: GcPolicy) -> Rule:
    filters: dict[str, list[str]] = {}
    for text in policy.filter:
        name, equals, value = text.partition("=")
        if not equals or name not in FILTERS:
            raise InvalidArgument(f"invalid filter of the build cache: '{text}'")
        if name in ("until", "unused-for"):
            parse_moment(value, 0.0)
        filters.setdefault(name, []).append(value.removeprefix("="))
    room = CacheRoom(
        reserved=_bytes(policy.reserved_space or policy.keep_storage),
        most=_bytes(policy.max_used_space),
        free=_bytes(policy.min_free_space),
    )
    return Rule(filters=filters, all=policy.all, room=room)


def _bytes(size: str | int) -> int:
    found = parse_size(str(size)) if size else 0
    if found < 0:
        raise InvalidArgument(f"invalid size: '{size}'")
    return found
