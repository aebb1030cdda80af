"""What the registry reads in a manifest, whatever somebody sends as one."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scow.oci import media_types
from scow.oci.digest import Digest, parse_digest
from scow.registry.errors import ManifestRefused
from scow.registry.manifests import DEPTH_LIMIT, read_manifest
from scow.registry.metadata import NewManifest

DIGESTS = [f"{name}:{hashlib.new(name, b'').hexdigest()}" for name in ("sha256", "sha512")]
ANY = Digest(DIGESTS[0])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
TYPES = st.sampled_from(
    [*media_types.MANIFESTS, *media_types.INDEXES, *media_types.SCHEMA1, "a/b", "a/b\r\nX-Evil: 1", "A/B", "", "é/x"]
)


def fields(**known: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """An object of which any field may be absent, and any may be something else altogether."""
    return st.fixed_dictionaries({}, optional={name: value | JSON for name, value in known.items()})


DESCRIPTORS = st.fixed_dictionaries(
    {"mediaType": TYPES, "digest": st.sampled_from(DIGESTS), "size": st.integers(0, 9)},
    optional={"urls": st.lists(st.text(), max_size=1), "data": st.text(max_size=4)},
) | fields(mediaType=TYPES, digest=st.sampled_from([*DIGESTS, "sha256:../x", "md5:0"]), size=st.integers(-1, 1 << 64))
DOCUMENTS = fields(
    schemaVersion=st.just(2),
    mediaType=TYPES,
    config=DESCRIPTORS,
    layers=st.lists(DESCRIPTORS, max_size=3),
    manifests=st.lists(DESCRIPTORS, max_size=3),
    blobs=st.lists(DESCRIPTORS, max_size=2),
    subject=DESCRIPTORS,
    artifactType=TYPES,
    annotations=st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2),
)
IMAGE = {
    "schemaVersion": 2,
    "config": {"mediaType": "a/b", "digest": DIGESTS[0], "size": 0},
    "layers": [{"mediaType": "a/b", "digest": DIGESTS[1], "size": 0}],
}


def read(data: bytes, content_type: str = "") -> NewManifest | None:
    """What is read, None if it is refused; nothing else may come of it."""
    try:
        return read_manifest(data, content_type, Digest(DIGESTS[0]))
    except ManifestRefused:
        return None


@given(DOCUMENTS, TYPES | st.text())
@example(IMAGE, "a/b")
def test_what_is_taken_is_fit_for_headers_and_names_digests_alone(document: dict[str, Any], content_type: str) -> None:
    manifest = read(json.dumps(document).encode(), content_type)
    if manifest is None:
        return
    assert manifest.media_type.isascii()
    assert manifest.media_type.isprintable()
    for digest in (*manifest.blobs, *manifest.manifests, *([manifest.subject] if manifest.subject else [])):
        parse_digest(digest)
    named = [document.get("config"), *(document.get("layers") or []), *(document.get("blobs") or [])]
    foreign = {
        each["digest"] for each in named if each and (each.get("urls") or media_types.is_foreign(each["mediaType"]))
    }
    assert {each["digest"] for each in named if each} <= {*manifest.blobs, *foreign}
    assert {each["digest"] for each in document.get("manifests") or []} == set(manifest.manifests)


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_manifest_or_refused(data: bytes) -> None:
    read(data)


@given(st.data())
def test_a_manifest_that_is_cut_off_is_refused(data: st.DataObject) -> None:
    whole = json.dumps(IMAGE).encode()
    assert read(whole) is not None
    assert read(whole[: data.draw(st.integers(0, len(whole) - 1))]) is None


def test_an_index_and_an_image_in_one_are_refused_however_the_type_is_spelt() -> None:
    both = {**IMAGE, "manifests": []}
    for media_type in (*media_types.MANIFESTS, *media_types.INDEXES):
        for spelt in (media_type, media_type.upper()):
            assert read(json.dumps({**both, "mediaType": spelt}).encode(), spelt) is None
            assert read(json.dumps(both).encode(), spelt) is None


def nested(levels: int) -> bytes:
    """A manifest with something nested in so many levels, the manifest itself and brackets in strings among them."""
    inner = b'{"a":[' * ((levels - 1) // 2) + b'"{[\\"{[\\\\"' + b"]}" * ((levels - 1) // 2)
    return (
        b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[],"more":'
        + inner
        + b"}"
    )


def test_manifests_may_be_nested_up_to_a_limit() -> None:
    for levels, more in ((DEPTH_LIMIT - 1, b""), (3, b" " + b'{"x":[]},' * 100)):
        data = nested(levels)
        if more:
            data = data[:-1] + b',"list":[' + more.rstrip(b",") + b"]}"
        assert read_manifest(data, "", ANY).media_type.endswith("index.v1+json")
    for levels in (DEPTH_LIMIT + 1, 1001, 100_001):
        with pytest.raises(ManifestRefused, match=f"nested in more than {DEPTH_LIMIT} levels"):
            read_manifest(nested(levels), "", ANY)


@pytest.mark.parametrize(
    "data",
    [b"[" * 100_000, b"{" * 100, b'{"a":' * 5000, b"]" * 100, b'{"a":"' + b"[" * 1000],
    ids=["arrays", "objects", "members", "ends", "string"],
)
def test_what_is_not_even_closed_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestRefused):
        read_manifest(data, "", ANY)
