"""The build cache as a document that travels: inside of an image's config, or as a manifest of its own in a registry.

The form is BuildKit's: layers, and records that say under which digest a step is known and which layer it made. The
digests are our steps' keys, which depend on content alone and are the same on every machine. Those that BuildKit
writes name its own operations, so that they are read and never met.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from scow.build.cache import Record, Sources
from scow.build.image_state import format_created, parse_created
from scow.errors import InvalidArgument
from scow.oci.descriptor import Descriptor
from scow.oci.digest import DiffID, InvalidDigest, parse_digest
from scow.oci.image_config import ImageConfig

CONFIG_TYPE: Final = "application/vnd.buildkit.cacheconfig.v0"
"""The media type of a cache's config in a registry."""
LIMIT: Final = 32 << 20  # bytes of a config
_RECORDS: Final = 100_000
T = TypeVar("T")

_PREFIX: Final = "sha256:"


class CacheInvalid(InvalidArgument):
    """What should be a build cache is none."""

    def __init__(self, why: str) -> None:
        super().__init__(f"invalid build cache: {why}")


class _Annotations(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    media_type: str = ""
    diff_id: str = msgspec.field(name="diffID", default="")
    size: int = 0


class _Layer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    blob: str = ""
    parent: int = 0  # BuildKit's: the layer below, -1 for none
    annotations: _Annotations | None = None


class _Result(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    layer: int
    created_at: str = ""


class _Record(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    layers: list[_Result] | None = None
    digest: str = ""
    created_at: str = ""  # ours: a step that changed no file has a time, too
    sources: Sources | None = None  # ours: what a copy from a stage took


class _Document(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    layers: list[_Layer] | None = None
    records: list[_Record] | None = None


class CachedStep(msgspec.Struct, frozen=True):
    """What a cache says of a step: when it was done (nanoseconds since the epoch), and the layer that it made."""

    created_at: int
    diff_id: DiffID | None
    sources: Sources | None = None  # of what only says what a copy took


def encode_cache(records: Iterable[Record], blobs: Mapping[DiffID, Descriptor]) -> bytes:
    """The config of a cache whose layers have these blobs. The same records give the same bytes."""
    order = {diff_id: number for number, diff_id in enumerate(blobs)}
    layers = [
        _Layer(
            blob=blob.digest,
            parent=-1,
            annotations=_Annotations(media_type=blob.media_type, diff_id=diff_id, size=blob.size),
        )
        for diff_id, blob in blobs.items()
    ]
    return msgspec.json.encode(_Document(layers=layers, records=_described(records, order)))


def decode_cache(data: bytes) -> tuple[dict[str, CachedStep], dict[DiffID, Descriptor]]:
    """Read a cache's config: its steps by key, and its layers' blobs. Raises CacheInvalid."""
    document = _decoded(data, _Document)
    diff_ids: list[DiffID | None] = []
    blobs: dict[DiffID, Descriptor] = {}
    for layer in document.layers or ():
        notes = layer.annotations or _Annotations()
        try:
            diff_id = DiffID(parse_digest(notes.diff_id))
            blob = Descriptor(media_type=notes.media_type, digest=parse_digest(layer.blob), size=notes.size)
        except InvalidDigest:
            diff_ids.append(None)  # of no use, and its number is counted
            continue
        diff_ids.append(diff_id)
        blobs[diff_id] = blob
    return _steps(document.records or (), diff_ids), blobs


def encode_inline(records: Iterable[Record], diff_ids: Sequence[DiffID]) -> str:
    """The records of an image's own steps, for its config."""
    order = {diff_id: number for number, diff_id in enumerate(diff_ids)}
    return base64.b64encode(msgspec.json.encode(_described(records, order))).decode()


def decode_inline(config: ImageConfig) -> dict[str, CachedStep]:
    """The steps that an image's config tells of, by key; none if it tells nothing. Raises CacheInvalid."""
    if not config.build_cache:
        return {}
    try:
        data = base64.b64decode(config.build_cache, validate=True)
    except (binascii.Error, ValueError) as error:
        raise CacheInvalid(str(error)) from error
    return _steps(_decoded(data, list[_Record]), config.diff_ids)


def _described(records: Iterable[Record], order: Mapping[DiffID, int]) -> list[_Record]:
    found = []
    for record in sorted(records, key=lambda each: each.key):
        created = format_created(record.created_at)
        if record.sources is not None:
            found.append(_Record(digest=_PREFIX + record.key, sources=record.sources))
        elif record.diff_id is None:
            found.append(_Record(digest=_PREFIX + record.key, created_at=created))
        elif record.diff_id in order:
            result = _Result(layer=order[record.diff_id], created_at=created)
            found.append(_Record(digest=_PREFIX + record.key, layers=[result]))
    return found


def _steps(records: Sequence[_Record], diff_ids: Sequence[DiffID | None]) -> dict[str, CachedStep]:
    if len(records) > _RECORDS:
        raise CacheInvalid(f"{len(records)} records")
    found: dict[str, CachedStep] = {}
    for record in records:
        key = record.digest.removeprefix(_PREFIX)
        if record.sources is not None:
            found[key] = CachedStep(0, None, record.sources)
        elif record.layers:
            number = record.layers[0].layer
            diff_id = diff_ids[number] if 0 <= number < len(diff_ids) else None
            if diff_id is not None:
                found[key] = CachedStep(parse_created(record.layers[0].created_at), diff_id)
        elif record.created_at:
            found[key] = CachedStep(parse_created(record.created_at), None)
    return found


def _decoded(data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise CacheInvalid(str(error)) from error
