"""The images that are measured with, made here: a shell, one big layer, many small files, many tiny layers."""

import gzip
import hashlib
import io
import json
import os
import random
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scow.oci import media_types
from scow.oci.platform import host_platform
from scow.samples.__main__ import push_blob, put
from scow.samples.hello_world import Blob

APPLETS = "sh cat true sleep echo ls dd head httpd wc seq yes"
LINE = (
    b"The quick brown fox jumps over the lazy dog, and the lazy dog sleeps on in the sun of the afternoon.\n"[:99]
    + b"\n"
)
LINES = "/lines"
LINES_SIZE = 8 << 20
BIG_SIZE = 160 << 20
SMALL_FILES = 20_000
SMALL_SIZE = 500 << 20
SMALL_LAYERS = 5
TINY_LAYERS = 40


def push(registry: str, name: str) -> None:
    """Make the image `name` and push it to `http://registry` as bench/NAME. Raises urllib.error.URLError."""
    base = f"http://{registry}/v2/bench/{name}"
    layers: list[Blob] = []
    diff_ids: list[str] = []
    for tar in _LAYERS[name]():
        diff_ids.append(_digest(tar))
        layers.append(_blob(media_types.DOCKER_LAYER_GZIP, gzip.compress(tar, 1, mtime=0)))
        push_blob(base, layers[-1])
    platform = host_platform()
    config = _document(
        media_types.DOCKER_CONFIG,
        {
            "architecture": platform.architecture,
            "os": "linux",
            "created": "2026-01-02T03:04:05Z",
            "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created": "2026-01-02T03:04:05Z", "created_by": f"layer {n}"} for n in range(len(layers))],
        },
    )
    push_blob(base, config)
    manifest = _document(
        media_types.DOCKER_MANIFEST,
        {
            "schemaVersion": 2,
            "mediaType": media_types.DOCKER_MANIFEST,
            "config": config.descriptor,
            "layers": [layer.descriptor for layer in layers],
        },
    )
    put(f"{base}/manifests/latest", manifest)


def archive(name: str, tag: str, path: Path) -> None:
    """Write the image `name` as docker's archive, its layers not compressed, with a tag of its own."""
    tars = list(_LAYERS[name]())
    config = json.dumps(
        {
            "architecture": host_platform().architecture,
            "os": "linux",
            "created": "2026-01-02T03:04:05Z",
            "config": {"Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(tar) for tar in tars]},
        }
    ).encode()
    names = [f"layer{number}/layer.tar" for number in range(len(tars))]
    listed = json.dumps([{"Config": "config.json", "RepoTags": [tag], "Layers": names}]).encode()
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as file:
        for member, data in zip([*names, "config.json", "manifest.json"], [*tars, config, listed], strict=True):
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))


def fresh() -> bytes:
    """The tar of the big layer with a file that makes it a new one."""
    if not _big_files:
        _big_files.update({f"file{n}": content for n, content in enumerate(_contents(160, BIG_SIZE, seed=1))})
    return _tar({"new": os.urandom(16), **_big_files})


def context(dockerfile: str, files: int = 0) -> bytes:
    """The tar of a build's context: a Dockerfile, and a folder `files` with so many small ones."""
    contents: dict[str, bytes | str] = {"Dockerfile": dockerfile.encode()}
    return _tar(contents | {f"files/d{n % 100}/file{n}": LINE * (n % 50) for n in range(files)})


_big_files: dict[str, bytes | str] = {}


def _busybox() -> Iterator[bytes]:
    found = shutil.which("busybox")
    if found is None:
        raise FileNotFoundError("busybox (Debian package busybox-static) is not installed")
    files: dict[str, bytes | str] = {"bin/": b"", "bin/busybox": Path(found).read_bytes()}
    files |= {f"bin/{applet}": "busybox" for applet in APPLETS.split()}
    files |= {"etc/": b"", "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n", "etc/group": b"root:x:0:\n"}
    files |= {"tmp/": b"", "root/": b"", LINES.strip("/"): LINE * (LINES_SIZE // len(LINE))}
    yield _tar(files)


def _big() -> Iterator[bytes]:
    yield _tar({f"file{n}": content for n, content in enumerate(_contents(160, BIG_SIZE, seed=1))})


def _small() -> Iterator[bytes]:
    count, size = SMALL_FILES // SMALL_LAYERS, SMALL_SIZE // SMALL_LAYERS
    for layer in range(SMALL_LAYERS):
        contents = _contents(count, size, seed=100 + layer)
        yield _tar({f"l{layer}/d{n % 200}/file{n}": content for n, content in enumerate(contents)})


def _tiny() -> Iterator[bytes]:
    for layer in range(TINY_LAYERS):
        yield _tar({f"tiny{layer}": f"layer {layer}\n".encode()})


def _contents(count: int, total: int, seed: int) -> Iterator[bytes]:
    """Files of about the same size; like a distribution's, they compress to less than half."""
    source = random.Random(seed)
    pool = source.randbytes(1 << 20)
    words = b"".join(LINE[: source.randrange(10, 90)] + b"%d" % source.randrange(10**6) for _ in range(20_000))
    for _ in range(count):
        size = int(total / count * source.uniform(0.5, 1.5))
        pieces = bytearray()
        while len(pieces) < size:
            text = source.randrange(len(words) - 6000)
            noise = source.randrange(len(pool) - 2000)
            pieces += words[text : text + 6000] + pool[noise : noise + 2000]
        yield bytes(pieces[:size])


_LAYERS = {"busybox": _busybox, "big": _big, "small": _small, "tiny": _tiny}


def _tar(files: dict[str, bytes | str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name.rstrip("/"))
            entry.mtime, entry.mode = 1_700_000_000, 0o755
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
            elif name.endswith("/"):
                entry.type = tarfile.DIRTYPE
            else:
                entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content) if isinstance(content, bytes) and entry.isreg() else None)
    return buffer.getvalue()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _blob(media_type: str, data: bytes) -> Blob:
    return Blob(media_type, _digest(data), data)


def _document(media_type: str, value: dict[str, Any] | Sequence[Any]) -> Blob:
    return _blob(media_type, json.dumps(value).encode())
