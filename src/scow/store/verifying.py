"""Checking a layer against itself, and making its index or its files again. Runs in a worker (jobs.py)."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from scow.oci.digest import algorithm, encoded
from scow.store.erofs import NotExpressible, build_index
from scow.store.erofs_reader import IndexDamaged, IndexReader
from scow.store.exploring import LayerFiles, same_content, shown, walk_directory
from scow.store.ingest import INDEX, ROOT, TAR, Ingest
from scow.store.tarstream import TarReader
from scow.store.tree import LayerCorrupt, LayerTree, Node

Job = dict[str, Any]
GOOD: Final = "good"
MISSING: Final = "missing"
_READ: Final = 1 << 20


def verify(job: Job) -> Job:
    """Compare a layer's tar with `diff_id`, and its index or files with the tar.

    The job: `folder`, `diff_id`, `format`. Answers `tar` and `form`: "good", "missing", or what is wrong; `form` is ""
    where the tar doesn't let it be told.
    """
    folder, diff_id = job["folder"], job["diff_id"]
    try:
        found, tree, size = _read_tar(f"{folder}/{TAR}", algorithm(diff_id))
    except FileNotFoundError:
        return {"tar": MISSING, "form": ""}
    except OSError as error:
        return {"tar": str(error), "form": ""}
    if found != diff_id:
        return {"tar": f"its bytes have {found}", "form": ""}
    if tree is None:
        return {"tar": GOOD, "form": "its tar makes no sense"}
    form = _check_index(folder, tree, size, diff_id) if job["format"] == "erofs" else _check_root(folder, tree)
    return {"tar": GOOD, "form": form}


def reindex(job: Job) -> Job:
    """Write a new `index` of the tar in `folder` to the directory, synced; the tar must be that of `diff_id`."""
    found, tree, size = _read_tar(f"{job['folder']}/{TAR}", algorithm(job["diff_id"]))
    if found != job["diff_id"] or tree is None:
        raise LayerCorrupt(f"the tar has {found}")
    try:
        image = build_index(tree, size, encoded(found)[:16].encode())
    except NotExpressible as error:
        raise LayerCorrupt(str(error)) from error
    with open(f"{job['directory']}/{INDEX}", "xb") as file:
        file.write(image)
        file.flush()
        os.fsync(file.fileno())
    return {}


def rebuild(job: Job) -> Job:
    """Make the layer anew from the blob in the file `source`, as an ingest would, in `directory`/layer."""
    source = os.open(job["source"], os.O_RDONLY | os.O_CLOEXEC)
    try:
        ingest = Ingest({**job, "blob": None}, source)
        try:
            return ingest.run(lambda: None)
        finally:
            ingest.close()
    finally:
        os.close(source)


def _read_tar(path: str, name: str) -> tuple[str, LayerTree | None, int]:
    state, reader, size = hashlib.new(name), TarReader(), 0
    tree: LayerTree | None = None
    broken = False
    with open(path, "rb", buffering=0) as file:
        while data := file.read(_READ):
            state.update(data)
            size += len(data)
            if not broken:
                try:
                    reader.feed(data)
                except LayerCorrupt:
                    broken = True  # damaged: the digest will tell
    if not broken:
        try:
            tree = reader.finish()
        except LayerCorrupt:
            tree = None
    return f"{name}:{state.hexdigest()}", tree, size


def _check_index(folder: str, tree: LayerTree, size: int, diff_id: str) -> str:
    try:
        data = Path(folder, INDEX).read_bytes()
    except FileNotFoundError:
        return MISSING
    except OSError as error:
        return str(error)
    try:
        if data == build_index(tree, size, encoded(diff_id)[:16].encode()):
            return GOOD
        # Of another version, maybe: what counts is what it shows.
        return _compare(tree.walk(), IndexReader(data).walk())
    except (IndexDamaged, NotExpressible) as error:
        return f"damaged: {error}"


def _compare(wanted: Iterator[tuple[bytes, Node]], found: Iterator[tuple[bytes, Node]]) -> str:
    missing = object()
    ours, theirs = dict(wanted), dict(found)
    for path in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(path, missing), theirs.get(path, missing)
        if a is missing or b is missing:
            return f"{shown(path)} is {'not in the tar' if a is missing else 'missing'}"
        if _key(a) != _key(b):  # type: ignore[arg-type]  # neither is missing
            return f"{shown(path)} differs from the tar"
    return GOOD


def _key(node: Node) -> tuple[object, ...]:
    common = node.mode, node.uid, node.gid, node.mtime, node.nsec, node.all_xattrs()
    return common if node.is_directory else (*common, node.size, node.payload)


def _check_root(folder: str, tree: LayerTree) -> str:
    """Compare an unpacked layer with its tar, contents included."""
    if not os.path.isdir(f"{folder}/{ROOT}"):
        return MISSING
    tar = _TarFiles(folder)
    ours, theirs = dict(tree.walk()), dict(walk_directory(f"{folder}/{ROOT}"))
    unpacked = LayerFiles("", folder)
    try:
        for path in sorted(ours.keys() | theirs.keys()):
            a, b = ours.get(path), theirs.get(path)
            if a is None or b is None:
                return f"{shown(path)} is {'not in the tar' if a is None else 'missing'}"
            if (a.mode, a.uid, a.gid) != (b.mode, b.uid, b.gid):
                return f"{shown(path)} differs from the tar"
            if a.mode & 0o170000 == 0o100000:
                if a.size != b.size or not same_content(tar.pieces(path, a), unpacked.pieces(path, b)):
                    return f"{shown(path)} has another content than in the tar"
            elif not a.is_directory and a.payload != b.payload:
                return f"{shown(path)} differs from the tar"
    finally:
        tar.close()
    return GOOD


class _TarFiles(LayerFiles):
    """Contents out of the tar, though the layer is unpacked."""

    def __init__(self, folder: str) -> None:
        super().__init__("", folder)
        self._index = True
