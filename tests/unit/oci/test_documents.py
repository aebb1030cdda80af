"""Digests, platforms, manifests, indexes and image configs."""

import json
from typing import Any

import pytest

from scow.oci import media_types
from scow.oci.descriptor import Descriptor
from scow.oci.digest import DiffID, Digest, InvalidDigest, chain_id, parse_digest, sha256
from scow.oci.image_config import ConfigInvalid, decode_config
from scow.oci.manifest import Index, Manifest, ManifestInvalid, decode
from scow.oci.platform import InvalidPlatform, Platform, parse_platform, satisfies, select

SHA = Digest("sha256:" + "a" * 64)


def blob(**more: Any) -> dict[str, Any]:
    return {"mediaType": media_types.OCI_LAYER_GZIP, "digest": SHA, "size": 3, **more}


def test_a_chain_of_one_layer_is_named_by_its_diff_id() -> None:
    assert chain_id([DiffID(SHA)]) == SHA


def test_a_chain_id_is_the_digest_of_the_lower_chain_and_the_diff_id() -> None:
    assert chain_id([DiffID(SHA), DiffID(SHA)]) == sha256(f"{SHA} {SHA}".encode())


@pytest.mark.parametrize("text", ["", "a", "sha256:", "sha256:" + "A" * 64, "md5:" + "a" * 32, "sha512:" + "a" * 64])
def test_only_registered_algorithms_in_lower_case_make_a_digest(text: str) -> None:
    with pytest.raises(InvalidDigest):
        parse_digest(text)


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/arm64", "linux/arm64/v8"),
        ("linux/arm/v7", "linux/arm/v7"),
        ("linux/arm/v8", "linux/arm/v7"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("linux/s390x", None),
        ("x86_64", "linux/amd64"),
    ],
)
def test_the_best_platform_of_an_index_is_chosen(wanted: str, chosen: str | None) -> None:
    platforms = [
        Platform(os="unknown", architecture="unknown"),
        Platform(os="linux", architecture="arm", variant="v6"),
        Platform(os="linux", architecture="arm", variant="v7"),
        Platform(os="linux", architecture="arm64", variant="v8"),
        Platform(os="linux", architecture="amd64"),
    ]
    offers = [Descriptor(media_type=media_types.OCI_MANIFEST, digest=SHA, size=1, platform=each) for each in platforms]
    found = select(offers, parse_platform(wanted))
    assert (str(found.platform) if found else None) == chosen


def test_an_image_of_a_lower_variant_satisfies_the_request() -> None:
    assert satisfies(Platform(os="linux", architecture="arm", variant="v6"), parse_platform("linux/arm/v7"))
    assert not satisfies(Platform(os="linux", architecture="arm", variant="v7"), parse_platform("linux/arm/v6"))


@pytest.mark.parametrize("text", ["", "linux/nonsense", "a/b/c/d", "linux/../x", "beos/amd64"])
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(InvalidPlatform):
        parse_platform(text)


def test_a_manifest_without_media_type_is_known_by_its_shape() -> None:
    document = {"schemaVersion": 2, "config": blob(), "layers": [blob()]}
    assert isinstance(decode(json.dumps(document).encode()), Manifest)
    assert isinstance(decode(b'{"schemaVersion":2,"manifests":[]}'), Index)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("[]", "not a JSON object"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"schemaVersion":1,"signatures":[]}', "schema 1 is not supported"),
        ('{"schemaVersion":3,"manifests":[]}', "schemaVersion is 3"),
        ('{"schemaVersion":2,"manifests":[],"layers":[]}', "both manifests and layers"),
        ('{"schemaVersion":2,"config":{}}', "mediaType"),
        (json.dumps({"schemaVersion": 2, "config": blob(size=-1), "layers": []}), "negative"),
        (json.dumps({"schemaVersion": 2, "config": blob(digest="x"), "layers": []}), "invalid digest"),
        (json.dumps({"schemaVersion": 2, "mediaType": "text/x", "config": blob(), "layers": []}), "unsupported"),
    ],
)
def test_a_broken_manifest_is_refused_with_the_reason(document: str, words: str) -> None:
    with pytest.raises((ManifestInvalid, InvalidDigest), match=words):
        decode(document.encode())


def test_a_manifest_announced_as_an_index_is_refused() -> None:
    document = {"schemaVersion": 2, "mediaType": media_types.OCI_MANIFEST, "config": blob(), "layers": []}
    with pytest.raises(ManifestInvalid, match="announced as"):
        decode(json.dumps(document).encode(), media_types.OCI_INDEX)


def test_an_image_config_tells_its_platform_and_layers() -> None:
    config = decode_config(
        json.dumps(
            {
                "architecture": "arm64",
                "os": "linux",
                "variant": "v8",
                "config": {"Env": ["A=1"], "Cmd": None, "ExposedPorts": {"80/tcp": {}}},
                "rootfs": {"type": "layers", "diff_ids": [SHA]},
                "unknown": 1,
            }
        ).encode()
    )
    assert str(config.platform) == "linux/arm64/v8"
    assert config.diff_ids == (SHA,)
    assert config.exec.env == ["A=1"]


@pytest.mark.parametrize("document", ["{}", "[]", '{"rootfs":{"type":"x"}}', '{"rootfs":{"diff_ids":[1]}}'])
def test_what_is_no_image_config_is_refused(document: str) -> None:
    with pytest.raises(ConfigInvalid):
        decode_config(document.encode())
