"""Caches as documents: what is written is read again, what makes no sense is refused or passed over."""

import base64
import json

import msgspec
import pytest

from scow.build.cache import Record
from scow.build.cache_document import CachedStep, CacheInvalid, decode_cache, decode_inline, encode_cache, encode_inline
from scow.build.cache_imports import step_of
from scow.build.image_state import ImageState, format_created, parse_created
from scow.oci.descriptor import Descriptor
from scow.oci.digest import DiffID, Digest
from scow.oci.image_config import History, ImageConfig, RootFS
from scow.oci.platform import Platform

LAYER, OTHER = (DiffID(Digest(f"sha256:{letter * 64}")) for letter in "ab")
AT = 1_700_000_000_123_000_000
RECORDS = [Record(key="1" * 64, diff_id=LAYER, created_at=AT), Record(key="2" * 64, created_at=AT + 1000)]
STEPS = {"1" * 64: CachedStep(AT, LAYER), "2" * 64: CachedStep(AT + 1000, None)}
BLOB = Descriptor(media_type="application/vnd.oci.image.layer.v1.tar+gzip", digest=Digest("sha256:" + "c" * 64), size=5)


def config(**fields: object) -> ImageConfig:
    made = ImageConfig(architecture="amd64", os="linux", rootfs=RootFS(diff_ids=(LAYER,)))
    return msgspec.structs.replace(made, **fields)


def test_a_cache_is_read_as_it_was_written() -> None:
    steps, blobs = decode_cache(encode_cache(RECORDS, {LAYER: BLOB}))
    assert (steps, blobs) == (STEPS, {LAYER: BLOB})
    assert encode_cache(reversed(RECORDS), {LAYER: BLOB}) == encode_cache(RECORDS, {LAYER: BLOB})


def test_an_image_tells_of_its_own_layers() -> None:
    assert decode_inline(config(build_cache=encode_inline(RECORDS, [OTHER, LAYER]))) == {"2" * 64: STEPS["2" * 64]}
    assert decode_inline(config(build_cache=encode_inline(RECORDS, [LAYER]))) == STEPS
    assert decode_inline(config()) == {}


@pytest.mark.parametrize(
    "records",
    [
        [{"digest": "sha256:" + "1" * 64, "layers": [{"layer": 7, "createdAt": ""}]}],
        [{"digest": "sha256:" + "1" * 64, "layers": [{"layer": -1}]}],
        [{"inputs": [[{"link": 0}]], "chains": None}],
    ],
)
def test_records_that_lead_nowhere_are_passed_over(records: object) -> None:
    """As BuildKit's own, whose digests name other things."""
    assert decode_inline(config(build_cache=base64.b64encode(json.dumps(records).encode()).decode())) == {}


@pytest.mark.parametrize("text", ["?", "e30=", base64.b64encode(b"[" * 9000).decode()])
def test_what_is_no_cache_is_refused(text: str) -> None:
    with pytest.raises(CacheInvalid):
        decode_inline(config(build_cache=text))
    with pytest.raises(CacheInvalid):
        decode_cache(text.encode())


@pytest.mark.parametrize("at", [0, AT, AT + 456_789])
def test_times_are_read_to_the_nanosecond(at: int) -> None:
    assert parse_created(format_created(at)) == at
    assert parse_created("2023-11-14T23:13:20.5+01:00") == 1_700_000_000_500_000_000
    assert parse_created("yesterday") == parse_created(None) == 0


def _step(created_by: str, **fields: object) -> History:
    return msgspec.structs.replace(History(created="2023-11-14T22:13:20Z", created_by=created_by), **fields)


BASE = ImageState(platform=Platform(os="linux", architecture="amd64"), history=(_step("base"),), diff_ids=(LAYER,))


@pytest.mark.parametrize(
    ("history", "diff_ids", "found"),
    [
        ((_step("base"), _step("RUN x")), (LAYER, OTHER), CachedStep(1_700_000_000_000_000_000, OTHER)),
        ((_step("base"), _step("RUN x", empty_layer=True)), (LAYER,), CachedStep(1_700_000_000_000_000_000, None)),
        ((_step("base"), _step("RUN y")), (LAYER, OTHER), None),
        ((_step("other"), _step("RUN x")), (LAYER, OTHER), None),
        ((_step("base"), _step("RUN x")), (OTHER, LAYER), None),
        ((_step("base"), _step("RUN x")), (LAYER,), None),
        ((_step("base"),), (LAYER,), None),
        ((_step("base"), _step("RUN x", comment="buildkit.dockerfile.v0")), (LAYER, OTHER), None),
    ],
)
def test_a_history_gives_the_step_that_follows_the_builds_own(
    history: tuple[History, ...], diff_ids: tuple[DiffID, ...], found: CachedStep | None
) -> None:
    image = config(history=history, rootfs=RootFS(diff_ids=diff_ids))
    assert step_of(image, BASE, "RUN x") == found
