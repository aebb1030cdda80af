"""The image `hello-world`: an index for amd64 and arm64, each one layer with one tiny static program."""

import gzip
import hashlib
import io
import json
import tarfile
from typing import Any, Final, NamedTuple

from scow.oci import media_types
from scow.samples.elf import printing_program

CREATED: Final = "2026-01-01T00:00:00Z"
PLATFORMS: Final[tuple[tuple[str, str], ...]] = (("amd64", ""), ("arm64", "v8"))

TEXT: Final = """
Hello from Scow!
If you can read this, your engine is afloat, and every part of it did its work.

This is what happened between your command and this text:
 1. The client asked the engine to make a container of "hello-world".
 2. The engine had no such image, so the client had it pulled: the engine asked
    the registry for the image's index and chose the manifest for your platform
    ({architecture}).
 3. It fetched the image's config and its layer, checked every byte against its
    digest, and kept them.
 4. It mounted the layer, put a writable one on top, and started the image's
    program in a container of its own. The program wrote these lines.
 5. The engine carried them to the client, and the client to your terminal.

Something more to try, a shell in a whole distribution:
 $ scow run -it debian bash

Docker's own client speaks to this engine, too: point DOCKER_HOST at its socket.

"""


class Blob(NamedTuple):
    """A piece of content with its digest and media type."""

    media_type: str
    digest: str
    data: bytes

    @property
    def descriptor(self) -> dict[str, Any]:
        """How a manifest points to it."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.data)}


class Image(NamedTuple):
    """All of an image in the order in which a registry takes it: blobs, manifests, and the index (`top`) last."""

    blobs: list[Blob]
    manifests: list[Blob]
    top: Blob


def hello_world() -> Image:
    """Make the image; the same bytes every time."""
    blobs: list[Blob] = []
    manifests: list[Blob] = []
    entries: list[dict[str, Any]] = []
    for architecture, variant in PLATFORMS:
        program = printing_program(architecture, TEXT.format(architecture=f"linux/{architecture}").encode())
        tar = _layer(program)
        layer = _blob(media_types.OCI_LAYER_GZIP, gzip.compress(tar, mtime=0))
        config = _document(
            media_types.OCI_CONFIG,
            {
                "architecture": architecture,
                "os": "linux",
                **({"variant": variant} if variant else {}),
                "created": CREATED,
                "config": {
                    "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                    "Cmd": ["/hello"],
                    "WorkingDir": "/",
                },
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}"]},
                "history": [
                    {"created": CREATED, "created_by": "COPY hello / # scow.samples"},
                    {"created": CREATED, "created_by": 'CMD ["/hello"]', "empty_layer": True},
                ],
            },
        )
        manifest = _document(
            media_types.OCI_MANIFEST,
            {
                "schemaVersion": 2,
                "mediaType": media_types.OCI_MANIFEST,
                "config": config.descriptor,
                "layers": [layer.descriptor],
            },
        )
        platform = {"architecture": architecture, "os": "linux", **({"variant": variant} if variant else {})}
        blobs += [config, layer]
        manifests.append(manifest)
        entries.append({**manifest.descriptor, "platform": platform})
    index = _document(
        media_types.OCI_INDEX,
        {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": entries},
    )
    return Image(blobs, manifests, index)


def _layer(program: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        entry = tarfile.TarInfo("hello")
        entry.size, entry.mode, entry.mtime = len(program), 0o755, 1767225600
        tar.addfile(entry, io.BytesIO(program))
    return buffer.getvalue()


def _blob(media_type: str, data: bytes) -> Blob:
    return Blob(media_type, f"sha256:{hashlib.sha256(data).hexdigest()}", data)


def _document(media_type: str, document: dict[str, Any]) -> Blob:
    return _blob(media_type, json.dumps(document, separators=(",", ":")).encode())
