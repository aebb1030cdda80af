"""What the registry reads in a pushed manifest: its type, what it refers to, its subject. image-spec manifest.md.

A registry is less particular than an engine: artifacts of any media type are welcome as long as they are JSON objects
whose descriptors are well-formed. The bytes are stored as they came; this view is never written back.
"""

import codecs
import re
from typing import Final

import msgspec

from scow.oci import media_types
from scow.oci.digest import Digest, InvalidDigest, parse_digest
from scow.registry.errors import ManifestRefused
from scow.registry.metadata import NewManifest

SIZE_LIMIT: Final = 4 << 20
"""Largest manifest, in bytes."""
REFERENCES_LIMIT: Final = 20_000
ANNOTATIONS_LIMIT: Final = 50_000
URLS_SIZE: Final = 64 << 10
"""Bytes of one descriptor's URLs. As with annotations, more of them would take many times their size in memory."""
DEPTH_LIMIT: Final = 64
"""Levels of arrays and objects, one in another; what specifications know has five."""
_PIECE_SIZE: Final = 64 << 10
_NEITHER: Final = bytes(sorted(set(range(256)) - set(b'"{}[]')))
_ALIKE: Final = bytes.maketrans(b"[]", b"{}")
_STRING: Final = re.compile(rb'"[^"]*"')
_MAX_SIZE: Final = (1 << 63) - 1
# Types that clients send when they know nothing better; the document's own word counts then.
_VAGUE: Final = {"", "application/json", "application/octet-stream", "application/x-www-form-urlencoded", "text/plain"}


class _Descriptor(msgspec.Struct, rename="camel"):
    media_type: str
    digest: str
    size: int
    urls: msgspec.Raw = msgspec.Raw()


class _Document(msgspec.Struct, rename="camel"):
    schema_version: int | None = None
    media_type: str | None = None
    artifact_type: str | None = None
    config: _Descriptor | None = None
    layers: list[_Descriptor] | None = None
    blobs: list[_Descriptor] | None = None
    manifests: list[_Descriptor] | None = None
    subject: _Descriptor | None = None
    annotations: msgspec.Raw = msgspec.Raw()


_DECODER: Final = msgspec.json.Decoder(_Document)
_URLS: Final = msgspec.json.Decoder(list[str] | None)
_ANNOTATIONS: Final = msgspec.json.Decoder(dict[str, str] | None)


def read_manifest(data: bytes, content_type: str, digest: Digest) -> NewManifest:
    """Read a pushed manifest. `content_type` is the request's, parameters and all. Raises ManifestRefused."""
    announced = content_type.partition(";")[0].strip()
    try:
        _check_text(data)
        _check_depth(data)
        document = _DECODER.decode(data)
        annotations = _read_annotations(document.annotations)
    except UnicodeDecodeError as error:
        raise ManifestRefused("not UTF-8") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise ManifestRefused(str(error) or "nested too deeply") from error
    media_type = _media_type(document, announced)
    kind = media_type.lower()
    is_index, is_manifest = media_types.is_index(kind), media_types.is_manifest(kind)
    if is_index or is_manifest:
        _check_shape(document, is_index)
    layers = [*(document.layers or ()), *(document.blobs or ())]
    blobs = ([document.config] if document.config else []) + [layer for layer in layers if not _is_foreign(layer)]
    children = document.manifests or []
    every = [*blobs, *layers, *children, *([document.subject] if document.subject else [])]
    if len(every) > REFERENCES_LIMIT:
        raise ManifestRefused(f"more than {REFERENCES_LIMIT} references")
    for descriptor in every:
        _check_descriptor(descriptor)
    artifact_type = document.artifact_type or None
    if artifact_type is None and document.config and not is_index:
        artifact_type = document.config.media_type
    if artifact_type is not None and "\0" in artifact_type:  # which PostgreSQL takes in no text
        raise ManifestRefused("the artifact type has a NUL character")
    return NewManifest(
        digest=digest,
        media_type=media_type,
        data=data,
        artifact_type=artifact_type,
        subject=Digest(document.subject.digest) if document.subject else None,
        annotations=annotations if document.subject else None,  # they are shown in lists of what refers to a subject
        blobs=tuple(dict.fromkeys(Digest(blob.digest) for blob in blobs)),
        manifests=tuple(dict.fromkeys(Digest(child.digest) for child in children)),
    )


def _media_type(document: _Document, announced: str) -> str:
    own = document.media_type or ""
    if announced.lower() in _VAGUE:
        announced = ""
    if document.schema_version == 1 or {own.lower(), announced.lower()} & set(media_types.SCHEMA1):
        raise ManifestRefused("docker schema 1 is not supported: push in a newer format")
    if own and announced and own.lower() != announced.lower():  # the case of media types means nothing
        raise ManifestRefused(f"mediaType is {own}, Content-Type is {announced}")
    media_type = own or announced
    if not media_type:
        media_type = media_types.OCI_INDEX if document.manifests is not None else media_types.OCI_MANIFEST
    if not media_type.isascii() or not media_type.isprintable() or " " in media_type or media_type.count("/") != 1:
        raise ManifestRefused("mediaType is not a media type")
    return media_type


def _check_shape(document: _Document, is_index: bool) -> None:
    if document.schema_version != 2:
        raise ManifestRefused("schemaVersion must be 2")
    if is_index:
        if document.manifests is None:
            raise ManifestRefused("an index needs manifests")
        # One document read as both is CVE-2021-41190.
        if document.config is not None or document.layers is not None:
            raise ManifestRefused("an index has neither config nor layers")
        return
    if document.config is None or document.layers is None:
        raise ManifestRefused("an image manifest needs config and layers")
    if document.manifests is not None:
        raise ManifestRefused("an image manifest has no manifests")


def _check_descriptor(descriptor: _Descriptor) -> None:
    try:
        parse_digest(descriptor.digest)
    except InvalidDigest as error:
        raise ManifestRefused(str(error)) from error
    if not 0 <= descriptor.size <= _MAX_SIZE:
        raise ManifestRefused(f"the size of {descriptor.digest} is {descriptor.size}")


def _is_foreign(layer: _Descriptor) -> bool:
    # Such layers are fetched from their urls and need not be here; `urls` alone exempts too, as in docker's registry.
    return _has_urls(layer) or media_types.is_foreign(layer.media_type)


def _has_urls(layer: _Descriptor) -> bool:
    text = memoryview(layer.urls)
    if not text:
        return False
    if len(text) > URLS_SIZE:
        raise ManifestRefused(f"the urls of {layer.digest} have more than {URLS_SIZE} bytes")
    try:
        return bool(_URLS.decode(text))
    except msgspec.DecodeError as error:
        raise ManifestRefused(f"the urls of {layer.digest}: {error}") from error


def _read_annotations(raw: msgspec.Raw) -> dict[str, str] | None:
    """Raises msgspec.DecodeError and ManifestRefused."""
    text = bytes(raw)
    if not text:
        return None
    # Each has four quotation marks, and perhaps some that are escaped.
    if (text.count(b'"') - text.count(b'\\"')) // 4 > ANNOTATIONS_LIMIT:
        raise ManifestRefused(f"more than {ANNOTATIONS_LIMIT} annotations")
    return _ANNOTATIONS.decode(text)


def _check_depth(data: bytes) -> None:
    """Raise ManifestRefused for what is nested too deeply; what is no JSON may pass.

    In no call of a parser's, which would have a stack that is deep.
    """
    if data.count(b"{") + data.count(b"[") <= DEPTH_LIMIT:
        return
    if b"\\" in data:
        data = data.replace(rb"\\", b"").replace(rb"\"", b"")
    # Brackets in strings are none; of the rest each turn takes the innermost ones away.
    left = _STRING.sub(b"", data.translate(_ALIKE, _NEITHER))
    for _ in range(DEPTH_LIMIT):
        before, left = left, left.replace(b"{}", b"")
        if len(left) == len(before):
            return
    if left:
        raise ManifestRefused(f"nested in more than {DEPTH_LIMIT} levels")


def _check_text(data: bytes) -> None:
    """Raise UnicodeDecodeError for what is not UTF-8: msgspec does not look into strings that it does not need."""
    if len(data) <= _PIECE_SIZE:
        data.decode()
        return
    # Piece by piece: a string of all of it may take four times as much memory.
    decoder, view = codecs.getincrementaldecoder("utf-8")(), memoryview(data)
    for start in range(0, len(data), _PIECE_SIZE):
        decoder.decode(view[start : start + _PIECE_SIZE])
    decoder.decode(b"", True)
