"""Attestations: in-toto statements about an image, in a manifest of their own that refers to the image's.

The manifest is in the image's index, marked as docker marks it, and names the image as its subject, so that registries
list it as a referrer. https://docs.docker.com/build/metadata/attestations/attestation-storage, distribution-spec
"Listing Referrers".
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from scow.errors import InvalidArgument
from scow.oci import media_types
from scow.oci.descriptor import Descriptor
from scow.oci.digest import encoded, sha256
from scow.oci.platform import Platform

IN_TOTO: Final = "application/vnd.in-toto+json"
ARTIFACT: Final = "application/vnd.docker.attestation.manifest.v1+json"
STATEMENT_V1: Final = "https://in-toto.io/Statement/v1"
STATEMENT_V0: Final = "https://in-toto.io/Statement/v0.1"
PREDICATE_TYPE: Final = "in-toto.io/predicate-type"
REFERENCE_TYPE: Final = "vnd.docker.reference.type"
REFERENCE_DIGEST: Final = "vnd.docker.reference.digest"
EMPTY: Final = b"{}"
UNKNOWN: Final = Platform(os="unknown", architecture="unknown")
TYPES: Final = ("provenance", "sbom")


class Predicate(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of an image; `file` is its name in trees of files."""

    type: str
    value: Mapping[str, Any]
    file: str
    statement: str = STATEMENT_V1


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """An attestation that was asked for, with its options."""

    type: str
    options: Mapping[str, str] = {}


def parse_requests(texts: Sequence[str]) -> dict[str, Request]:
    """Read `type=TYPE[,option=value...]`, the last of each type counting. Raises InvalidArgument."""
    found: dict[str, Request] = {}
    for text in texts:
        fields = dict(each.strip().partition("=")[::2] for each in text.split(","))
        type = fields.pop("type", "")
        if type not in TYPES:
            raise InvalidArgument(f"unsupported attestation type {type!r}: it is one of {', '.join(TYPES)}")
        if fields.pop("disabled", "false").lower() in ("true", "1"):
            found.pop(type, None)
        else:
            found[type] = Request(type=type, options=fields)
    return found


def encode_statement(predicate: Predicate, subject: Sequence[Mapping[str, object]]) -> bytes:
    """Make the statement that something has a predicate: an image, or what lies beside it, if nothing is named.

    in-toto attestation framework, "Statement".
    """
    return encode(
        {
            "_type": predicate.statement,
            "predicateType": predicate.type,
            "subject": list(subject),
            "predicate": predicate.value,
        }
    )


def attach(
    predicates: Sequence[Predicate], names: Sequence[str], subject: Descriptor
) -> tuple[Descriptor, dict[str, bytes]]:
    """Make the manifest of an image's attestations: its descriptor for the index, and all documents by digest."""
    documents: dict[str, bytes] = {sha256(EMPTY): EMPTY}
    digest = {"sha256": encoded(subject.digest)}
    layers = []
    for predicate in predicates:
        data = encode_statement(predicate, [{"name": name, "digest": digest} for name in names])
        documents[sha256(data)] = data
        layers.append(
            {
                "mediaType": IN_TOTO,
                "digest": sha256(data),
                "size": len(data),
                "annotations": {PREDICATE_TYPE: predicate.type},
            }
        )
    manifest = encode(
        {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_MANIFEST,
            "artifactType": ARTIFACT,
            "config": {"mediaType": media_types.OCI_EMPTY, "digest": sha256(EMPTY), "size": len(EMPTY), "data": "e30="},
            "layers": layers,
            "subject": {"mediaType": subject.media_type, "digest": subject.digest, "size": subject.size},
        }
    )
    documents[sha256(manifest)] = manifest
    descriptor = Descriptor(
        media_type=media_types.OCI_MANIFEST,
        digest=sha256(manifest),
        size=len(manifest),
        artifact_type=ARTIFACT,
        annotations={REFERENCE_DIGEST: subject.digest, REFERENCE_TYPE: "attestation-manifest"},
        platform=UNKNOWN,
    )
    return descriptor, documents


def encode(value: object) -> bytes:
    """A document as JSON: the same value gives the same bytes."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
