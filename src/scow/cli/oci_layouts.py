"""Named contexts that are folders of images, `oci-layout://PATH[:TAG|@DIGEST]`: the one that is meant is loaded."""

from __future__ import annotations

import os

from scow.cli.errors import CliError
from scow.cli.jsontext import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from scow.cli.session import Session

SCHEME = "oci-layout://"
NAME = "org.opencontainers.image.ref.name"
INDEX = "application/vnd.oci.image.index.v1+json"
DOCUMENT_LIMIT = 16 << 20
LOADED = "Loaded image ID: "


def send_image(session: Session, value: str) -> str:
    """Load the image that a context means, without a name; what the engine is to be told. Raises CliError."""
    folder, descriptor = _chosen(value.removeprefix(SCHEME))
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor]}
    files = dict.fromkeys(_needed(folder, descriptor))
    headers = {"Content-Type": "application/x-tar"}
    pieces = _tar(folder, dumps(index).encode(), files)
    response = session.engine.open("POST", "/images/load", {"quiet": "1"}, headers=headers, data=pieces)
    id = ""
    for message in response.messages():
        if message.get("error"):
            raise CliError(f"{value}: {message['error']}")
        text = str(message.get("stream") or "")
        if text.startswith(LOADED):
            id = text.removeprefix(LOADED).strip()
    session.engine.done(response)
    if not id:
        raise CliError(f"{value}: the engine has loaded no image of it")
    return f"docker-image://{id}"


def _chosen(place: str) -> tuple[str, dict[str, Any]]:
    """The layout's folder, and the descriptor of the image that is meant, without annotations that would name it."""
    folder, at, digest = place.partition("@")
    tag = ""
    if not at and ":" in os.path.basename(folder.rstrip("/")):
        folder, _, tag = folder.rpartition(":")
    listed: list[dict[str, Any]] = _document(os.path.join(folder, "index.json")).get("manifests") or []
    if digest:
        found = [each for each in listed if each.get("digest") == digest]
    else:
        wanted = tag or "latest"
        found = [each for each in listed if (each.get("annotations") or {}).get(NAME) == wanted]
        if not found and wanted == "latest" and len(listed) == 1:
            found = listed  # the only one needs no name
    if not found:
        raise CliError(f"{folder} has no image {digest or tag or 'latest'}")
    return folder, {key: value for key, value in found[0].items() if key != "annotations"}


def _needed(folder: str, descriptor: dict[str, Any]) -> Iterator[str]:
    """The files of an image, of those that are there: a layout may lack some of an index's platforms."""
    path = _blob(descriptor)
    if not os.path.exists(os.path.join(folder, path)):
        return
    yield path
    document = _document(os.path.join(folder, path))
    for manifest in document.get("manifests") or ():
        yield from _needed(folder, manifest)
    for blob in (document.get("config"), *(document.get("layers") or ())):
        if blob and os.path.exists(os.path.join(folder, _blob(blob))):
            yield _blob(blob)


def _blob(descriptor: dict[str, Any]) -> str:
    algorithm, _, hex = str(descriptor.get("digest") or "").partition(":")
    if not (algorithm.isalnum() and hex.isalnum()):
        raise CliError(f"invalid digest in an image layout: {descriptor.get('digest')!r}")
    return f"blobs/{algorithm}/{hex}"


def _document(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            found = loads(file.read(DOCUMENT_LIMIT))
    except OSError as error:
        raise CliError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except ValueError as error:
        raise CliError(f"{path}: {error}") from None
    if not isinstance(found, dict):
        raise CliError(f"{path}: it is not a JSON object")
    return found


def _tar(folder: str, index: bytes, files: dict[str, None]) -> Iterator[bytes]:
    from tarfile import TarInfo

    from scow.cli.archives import BLOCK, pack_file, pack_header

    for name, data in (("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'), ("index.json", index)):
        entry = TarInfo(name)
        entry.size = len(data)
        yield pack_header(entry) + data + bytes(-len(data) % BLOCK)
    for name in files:
        yield from pack_file(os.path.join(folder, name), TarInfo(name))
    yield bytes(2 * BLOCK)
