"""The words of outputs, annotations and attestations."""

from typing import Any

import pytest

from scow.build.attestation import parse_requests
from scow.build.output import Annotation, decode_outputs, parse_annotation, parse_output
from scow.errors import InvalidArgument
from scow.oci.media_types import Compression
from scow.oci.platform import Platform

ARM = Platform(os="linux", architecture="arm64")


def test_an_output_has_a_form() -> None:
    (output,) = decode_outputs(
        [
            {
                "Type": "oci",
                "Attrs": {"dest": "-", "compression": "zstd", "compression-level": "19", "force-compression": "true"},
            }
        ]
    )
    assert (output.compression, output.level, output.force, output.oci, output.is_file) == (
        *(Compression.ZSTD, 19, True, True, True),
    )


def test_an_image_that_nothing_is_asked_of_stays_without_a_manifest() -> None:
    assert parse_output("image", {"name": "a:1,b", "push": "true"}).is_plain
    assert not parse_output("image", {"annotation.key": "value"}).is_plain
    assert [name.familiar for name in parse_output("image", {"name": "a:1,b"}).names] == ["a:1", "b:latest"]


@pytest.mark.parametrize(
    ("kind", "attributes", "named"),
    [
        ("moon", {}, "unsupported output type 'moon'"),
        ("oci", {"compression": "lzma"}, "unsupported compression 'lzma'"),
        ("oci", {"compression-level": "10"}, "invalid compression-level 10"),
        ("oci", {"compression": "zstd", "compression-level": "0"}, "invalid compression-level 0"),
        ("oci", {"compression": "uncompressed", "compression-level": "1"}, "invalid compression-level 1"),
        ("oci", {"compression-level": "high"}, "non-integer value 'high'"),
        ("oci", {"force-compression": "perhaps"}, "non-bool value 'perhaps'"),
        ("oci", {"colour": "red"}, "has no option 'colour'"),
        ("local", {"compression": "gzip"}, "has no option 'compression'"),
        ("image", {"annotation-moon.key": "value"}, "invalid annotation"),
        ("image", {"name": "UPPER"}, "must be lowercase"),
    ],
)
def test_an_output_that_makes_no_sense_is_refused(kind: str, attributes: dict[str, str], named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        parse_output(kind, attributes)


def test_images_in_the_engine_have_one_form() -> None:
    plain: dict[str, Any] = {"Type": "docker", "Attrs": None}
    zstd: dict[str, Any] = {"Type": "image", "Attrs": {"compression": "zstd"}}
    file: dict[str, Any] = {"Type": "oci", "Attrs": {"compression": "zstd", "dest": "-"}}
    assert len(decode_outputs([plain, file, {"Type": "registry", "Attrs": {"name": "a"}}])) == 3
    with pytest.raises(InvalidArgument, match="can't differ in their form"):
        decode_outputs([plain, zstd])


def test_attributes_are_texts() -> None:
    values: list[dict[str, Any]] = [{"Type": "oci", "Attrs": {"dest": 1}}]
    with pytest.raises(InvalidArgument, match="not an object of texts"):
        decode_outputs(values)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("key=value", [("manifest", "key", "value", None)]),
        ("key=a=b:c", [("manifest", "key", "a=b:c", None)]),
        ("index:key=value", [("index", "key", "value", None)]),
        ("index,manifest:key=", [("index", "key", "", None), ("manifest", "key", "", None)]),
        ("manifest[linux/arm64]:key=value", [("manifest", "key", "value", ARM)]),
        ("manifest-descriptor:key=value", [("manifest-descriptor", "key", "value", None)]),
        ("org.example:key=value", [("manifest", "org.example:key", "value", None)]),
    ],
)
def test_an_annotation_may_say_where_it_belongs(text: str, found: list[tuple[str, str, str, Platform | None]]) -> None:
    assert [(each.place, each.key, each.value, each.platform) for each in parse_annotation(text)] == found


def test_outputs_carry_annotations_of_their_own() -> None:
    output = parse_output("image", {"annotation-manifest[linux/arm64].a.b": "c", "annotation-index.d": "e"})
    assert output.annotations == (
        Annotation(place="manifest", key="a.b", value="c", platform=ARM),
        Annotation(place="index", key="d", value="e"),
    )


@pytest.mark.parametrize("text", ["key", "=value"])
def test_an_annotation_is_a_key_and_a_value(text: str) -> None:
    with pytest.raises(InvalidArgument, match="expected key=value"):
        parse_annotation(text)


def test_the_last_request_for_an_attestation_counts() -> None:
    asked = parse_requests(
        ["type=sbom", "type=provenance,mode=max", "type=provenance,mode=min", "type=sbom,disabled=true"]
    )
    assert {type: dict(request.options) for type, request in asked.items()} == {"provenance": {"mode": "min"}}
    with pytest.raises(InvalidArgument, match="unsupported attestation type 'moon'"):
        parse_requests(["type=moon"])
