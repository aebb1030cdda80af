"""Images that tests make by themselves: busybox from its static binary, or any files, pushed to a registry."""

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from isal import igzip

from scow.oci import media_types
from scow.oci.platform import host_platform
from scow.samples.__main__ import push_blob, put
from scow.samples.hello_world import Blob

BUSYBOX = Path("/bin/busybox")
APPLETS = """
sh cat echo ls true false sleep env id pwd head tail wc dd mkdir rm touch stat ps kill hostname ip ping wget
nc grep sed date mount umount chmod chown ln cp mv tr seq yes test stty tty printf readlink nslookup httpd vi
"""


class BuiltImage(NamedTuple):
    """An image ready to be pushed."""

    blobs: list[Blob]
    manifest: Blob


def blob(media_type: str, data: bytes) -> Blob:
    """Content with its digest."""
    return Blob(media_type, f"sha256:{hashlib.sha256(data).hexdigest()}", data)


def document(media_type: str, value: Mapping[str, Any]) -> Blob:
    """A JSON document with its digest."""
    return blob(media_type, json.dumps(value).encode())


def tar(entries: Mapping[str, bytes | str | tarfile.TarInfo]) -> bytes:
    """A tar of files (bytes), symlinks (a string names the target) and whatever a TarInfo says; `x/` is a folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in entries.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            entry = tarfile.TarInfo(name.rstrip("/"))
            entry.mtime, entry.mode = 1_700_000_000, 0o755
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                archive.addfile(entry)
            elif name.endswith("/"):
                entry.type = tarfile.DIRTYPE
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def build(layers: Sequence[bytes], config: Mapping[str, Any] | None = None, **document_fields: Any) -> BuiltImage:
    """An image of these tars, base first, gzipped, for this machine's platform."""
    platform = host_platform()
    packed = [blob(media_types.OCI_LAYER_GZIP, igzip.compress(layer, 1, mtime=0)) for layer in layers]
    described = document(
        media_types.OCI_CONFIG,
        {
            "architecture": platform.architecture,
            "os": "linux",
            "created": "2026-01-02T03:04:05Z",
            "config": {"Env": ["PATH=/bin:/usr/bin"], "Cmd": ["sh"], **(config or {})},
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers],
            },
            "history": [{"created": "2026-01-02T03:04:05Z", "created_by": f"layer {n}"} for n in range(len(layers))],
            **document_fields,
        },
    )
    manifest = document(
        media_types.OCI_MANIFEST,
        {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_MANIFEST,
            "config": described.descriptor,
            "layers": [layer.descriptor for layer in packed],
        },
    )
    return BuiltImage([described, *packed], manifest)


def busybox_files() -> dict[str, bytes | str]:
    """The files of a busybox root: one binary and its names, users and the usual folders."""
    if not BUSYBOX.exists() and shutil.which("busybox") is None:
        raise FileNotFoundError("busybox-static is not installed")
    binary = (BUSYBOX if BUSYBOX.exists() else Path(str(shutil.which("busybox")))).read_bytes()
    files: dict[str, bytes | str] = {"bin/": b"", "bin/busybox": binary}
    files |= {f"bin/{applet}": "busybox" for applet in APPLETS.split()}
    files |= {
        "etc/": b"",
        "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
        b"app:x:1000:1000::/home/app:/bin/sh\n",
        "etc/group": b"root:x:0:\nnobody:x:65534:\napp:x:1000:\nextra:x:2000:app\n",
        "root/": b"",
        "tmp/": b"",
        "home/": b"",
        "home/app/": b"",
        "data/": b"",
        "data/seed": b"seed\n",
    }
    return files


def busybox(config: Mapping[str, Any] | None = None) -> BuiltImage:
    """An image with a shell and the usual tools."""
    return build([tar(busybox_files())], config)


def push(registry: str, name: str, image: BuiltImage, tag: str = "latest") -> str:
    """Push to `http://registry` as `name:tag`; the manifest's digest."""
    base = f"http://{registry}/v2/{name}"
    for each in image.blobs:
        push_blob(base, each)
    put(f"{base}/manifests/{tag}", image.manifest)
    return image.manifest.digest
