"""Looking into images: what each layer changes, what it hides of those below, and how two images differ.

Runs in a worker (jobs.py): it is Python that computes. A layer is read from its index, or from its directory where it
is unpacked; tars are read only where two files of the same size have to be compared.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from scow.oci.digest import algorithm, encoded
from scow.store.erofs_reader import OPAQUE, IndexReader
from scow.store.ingest import INDEX, ROOT, TAR
from scow.store.tree import Node, Segments

RESULT: Final = "result"  # the file of the answer, in the job's directory
WASTE_LIMIT: Final = 1000  # paths that are told of those whose older copies are hidden
_READ: Final = 1 << 20
_TYPES: Final = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
}

Job = dict[str, Any]


class LayerFiles:
    """One layer as files: `folder` has its tar, and an index or the unpacked root."""

    def __init__(self, diff_id: str, folder: str) -> None:
        self.diff_id = diff_id
        self._folder = folder
        self._index = os.path.exists(f"{folder}/{INDEX}")
        self._tar = -1

    def walk(self) -> Iterator[tuple[bytes, Node]]:
        """Yield (path, node), a directory before what is in it."""
        if self._index:
            yield from IndexReader(Path(self._folder, INDEX).read_bytes()).walk()
        else:
            yield from walk_directory(f"{self._folder}/{ROOT}")

    def pieces(self, path: bytes, node: Node) -> Iterator[bytes]:
        """The content of a regular file."""
        if not self._index:
            with open(os.path.join(os.fsencode(self._folder), ROOT.encode(), path), "rb") as file:
                while data := file.read(_READ):
                    yield data
            return
        if self._tar < 0:
            self._tar = os.open(f"{self._folder}/{TAR}", os.O_RDONLY | os.O_CLOEXEC)
        payload = node.payload
        segments: Segments = ((0, node.size, payload),) if isinstance(payload, int) else payload  # type: ignore[assignment]  # a file's payload is one of the two
        done = 0
        for offset, length, at in segments:
            yield from _zeros(offset - done)
            done = offset + length
            while length:
                data = os.pread(self._tar, min(length, _READ), at)
                if not data:
                    return  # cut off: what was to come differs from anything
                yield data
                at += len(data)
                length -= len(data)
        yield from _zeros(node.size - done)

    def close(self) -> None:
        """Close what was opened."""
        if self._tar >= 0:
            os.close(self._tar)


def _zeros(size: int) -> Iterator[bytes]:
    while size > 0:
        yield bytes(min(size, _READ))
        size -= _READ


def walk_directory(top: str) -> Iterator[tuple[bytes, Node]]:
    """Like LayerFiles.walk, of an unpacked layer; names of one inode share a node."""
    known: dict[int, Node] = {}
    stack = [(b"", os.fsencode(top))]
    while stack:
        path, place = stack.pop()
        status = os.lstat(place)
        node = known.get(status.st_ino)
        if node is None:
            node = known[status.st_ino] = _node_of(place, status)
        yield path, node
        if node.is_directory:
            prefix = path + b"/" if path else b""
            stack.extend((prefix + name, place + b"/" + name) for name in sorted(os.listdir(place), reverse=True))


def _node_of(place: bytes, status: os.stat_result) -> Node:
    kind = stat.S_IFMT(status.st_mode)
    payload: dict[bytes, Node] | bytes | int = 0
    if kind == stat.S_IFLNK:
        payload = os.readlink(place)
    elif kind == stat.S_IFDIR:
        payload = {}
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
        payload = (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)
    xattrs = {os.fsencode(name): os.getxattr(place, name, follow_symlinks=False) for name in _names(place)}
    opaque = xattrs.pop(OPAQUE, b"") == b"y"
    seconds, nanoseconds = divmod(status.st_mtime_ns, 10**9)
    node = Node(
        status.st_mode, status.st_uid, status.st_gid, seconds, nanoseconds, status.st_size, payload, xattrs or None
    )
    node.opaque = opaque
    node.nid = status.st_ino
    return node


def _names(place: bytes) -> list[str]:
    try:
        return os.listxattr(place, follow_symlinks=False)
    except OSError:
        return []


class Entry:
    """One path of the file system that a stack of layers shows: the node, the layer that it is of, what is below."""

    __slots__ = ("children", "layer", "node")

    def __init__(self, node: Node, layer: int) -> None:
        self.node = node
        self.layer = layer
        self.children: dict[bytes, Entry] = {}

    def below(self, path: bytes) -> Iterator[tuple[bytes, "Entry"]]:
        """This entry, named `path`, and all below it."""
        stack = [(path, self)]
        while stack:
            at, entry = stack.pop()
            yield at, entry
            stack.extend((at + b"/" + name, child) for name, child in entry.children.items())


class Change(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """What a layer did to one path: added, changed or removed."""

    path: str
    kind: str
    size: int = 0


class Changes:
    """What a layer did to those below it."""

    def __init__(self) -> None:
        self.added: dict[bytes, Entry] = {}
        self.changed: dict[bytes, tuple[Entry, Entry]] = {}  # before, after
        self.removed: dict[bytes, Entry] = {}

    def told(self) -> list[Change]:
        """All of them, by path."""
        found = [Change(shown(path), "added", size_of(entry.node)) for path, entry in self.added.items()]
        found += [Change(shown(path), "changed", size_of(entry.node)) for path, (_, entry) in self.changed.items()]
        found += [Change(shown(path), "removed", size_of(entry.node)) for path, entry in self.removed.items()]
        return sorted(found, key=lambda each: each.path)


class Stack:
    """Layers, put on each other one by one."""

    def __init__(self) -> None:
        self.root: Entry | None = None
        self.height = 0

    def put(self, layer: LayerFiles) -> Changes:
        """Put a layer on top and tell what it changed."""
        number, changes = self.height, Changes()
        self.height += 1
        gone: dict[bytes, Entry] = {}
        parents: dict[bytes, Entry] = {}
        for path, node in layer.walk():
            if not path:
                before = self.root
                self.root = Entry(node, number)
                if before is not None:
                    self.root.children = before.children
                parents[b""] = self.root
                continue
            folder, _, name = path.rpartition(b"/")
            siblings = parents[folder].children
            before = siblings.pop(name, None)
            if node.is_whiteout:
                if before is not None:
                    gone.update(before.below(path))
                continue
            entry = siblings[name] = Entry(node, number)
            if node.is_directory:
                parents[path] = entry
                if before is not None and before.node.is_directory and not node.opaque:
                    entry.children, before.children = before.children, {}
            if before is not None:
                gone.update(before.below(path))
            was = gone.pop(path, None)
            if was is None:
                changes.added[path] = entry
            elif not (node.is_directory and was.node.is_directory and _same_attributes(node, was.node)):
                changes.changed[path] = was, entry
        changes.removed = gone
        return changes

    def entries(self) -> Iterator[tuple[bytes, Entry]]:
        """Every path with its entry; the root's is empty."""
        stack = [(b"", self.root)] if self.root is not None else []
        while stack:
            path, entry = stack.pop()
            yield path, entry
            prefix = path + b"/" if path else b""
            stack.extend((prefix + name, child) for name, child in entry.children.items())


def size_of(node: Node) -> int:
    """The bytes of a file's content; of anything else none."""
    return node.size if stat.S_ISREG(node.mode) else 0


def shown(path: bytes) -> str:
    """An absolute path as text; what isn't UTF-8 is escaped."""
    return "/" + path.decode("utf-8", "backslashreplace")


def _same_attributes(a: Node, b: Node) -> bool:
    return (a.mode, a.uid, a.gid, a.xattrs) == (b.mode, b.uid, b.gid, b.xattrs)


def explore(job: Job) -> None:
    """What each of `layers` (diff IDs, base first, kept in `root`) changes and how much of it the later ones hide.

    With `files` each changed path is told. Leaves JSON in the job's directory.
    """
    stack = Stack()
    layers: list[dict[str, Any]] = []
    hidden: dict[bytes, list[int]] = {}  # path: older copies, and their bytes
    for diff_id in job["layers"]:
        files = LayerFiles(diff_id, _folder(job, diff_id))
        changes = stack.put(files)
        seen: set[int] = set()
        content = 0
        for entry in (*changes.added.values(), *(after for _, after in changes.changed.values())):
            if entry.node.nid not in seen:  # a hard link is no second copy
                seen.add(entry.node.nid)
                content += size_of(entry.node)
        lost: set[tuple[int, int]] = set()
        for path, entry in (
            *((path, before) for path, (before, _) in changes.changed.items()),
            *changes.removed.items(),
        ):
            key = entry.layer, entry.node.nid
            size = size_of(entry.node)
            if size and entry.layer < stack.height - 1 and key not in lost:
                lost.add(key)
                layers[entry.layer]["Wasted"] += size
                copies = hidden.setdefault(path, [0, 0])
                copies[0] += 1
                copies[1] += size
        layers.append(
            {
                "DiffID": diff_id,
                "Content": content,
                "Added": len(changes.added),
                "Changed": len(changes.changed),
                "Removed": len(changes.removed),
                "Wasted": 0,
            }
        )
        if job["files"]:
            layers[-1]["Files"] = changes.told()
    total = sum(each["Content"] for each in layers)
    wasted = sum(each["Wasted"] for each in layers)
    worst = sorted(hidden.items(), key=lambda item: (-item[1][1], item[0]))[:WASTE_LIMIT]
    result = {
        "Content": total,
        "Wasted": wasted,
        "Efficiency": 1.0 if not total else round(1 - wasted / total, 4),
        "WastedFiles": [{"Path": shown(path), "Copies": copies, "Size": size} for path, (copies, size) in worst],
        "Layers": layers,
    }
    Path(job["directory"], RESULT).write_bytes(msgspec.json.encode(result))


def compare(job: Job) -> None:
    """How the image of the layers `to` differs from that of `from`, path by path. Leaves JSON in the job's directory.

    With `times` files that differ only by when they were modified are told, too.
    """
    layers: dict[str, LayerFiles] = {}
    sides: list[tuple[list[LayerFiles], dict[bytes, Entry]]] = []
    for side in (job["from"], job["to"]):
        files = [layers.setdefault(diff_id, LayerFiles(diff_id, _folder(job, diff_id))) for diff_id in side]
        stack = Stack()
        for each in files:
            stack.put(each)
        sides.append((files, dict(stack.entries())))
    (old_files, old), (new_files, new) = sides
    found: list[dict[str, Any]] = []
    try:
        for path in sorted(old.keys() | new.keys()):
            before, after = old.get(path), new.get(path)
            if before is None or after is None:
                entry = before or after
                assert entry is not None
                found.append({"Path": shown(path), "Kind": "removed" if after is None else "added", **_about(entry)})
                continue
            a, b = old_files[before.layer], new_files[after.layer]
            if a is b and before.node.nid == after.node.nid:
                continue  # one and the same file
            what = _differences(path, (a, before.node), (b, after.node), times=job["times"])
            if what:
                found.append(
                    {"Path": shown(path), "Kind": "changed", "What": what, "Before": _about(before), **_about(after)}
                )
    finally:
        for each in layers.values():
            each.close()
    Path(job["directory"], RESULT).write_bytes(msgspec.json.encode(found))


def _folder(job: Job, diff_id: str) -> str:
    return f"{job['root']}/{algorithm(diff_id)}/{encoded(diff_id)}"


def _about(entry: Entry) -> dict[str, Any]:
    node = entry.node
    about = {
        "Type": _TYPES.get(node.mode & 0o170000, "unknown"),
        "Mode": stat.filemode(node.mode),
        "Owner": f"{node.uid}:{node.gid}",
        "Size": size_of(node),
    }
    if isinstance(node.payload, bytes):
        about["Target"] = node.payload.decode("utf-8", "backslashreplace")
    return about


def _differences(path: bytes, old: tuple[LayerFiles, Node], new: tuple[LayerFiles, Node], *, times: bool) -> list[str]:
    (old_layer, a), (new_layer, b) = old, new
    what: list[str] = []
    same_type = a.mode & 0o170000 == b.mode & 0o170000
    if not same_type:
        what.append("type")
    if a.mode & 0o7777 != b.mode & 0o7777 and not (same_type and a.is_symlink):
        what.append("mode")
    if (a.uid, a.gid) != (b.uid, b.gid):
        what.append("owner")
    if (a.xattrs or {}) != (b.xattrs or {}):
        what.append("xattrs")
    if same_type and stat.S_ISREG(a.mode):
        if a.size != b.size:
            what += ["size", "content"]
        elif not same_content(old_layer.pieces(path, a), new_layer.pieces(path, b)):
            what.append("content")
    elif same_type and not a.is_directory and a.payload != b.payload:
        what.append("target" if a.is_symlink else "device")
    if times and (a.mtime, a.nsec) != (b.mtime, b.nsec):
        what.append("time")
    return what


def same_content(a: Iterator[bytes], b: Iterator[bytes]) -> bool:
    """Whether two contents, in pieces of any size, are equal."""
    left = right = b""
    while True:
        left, right = left or next(a, b""), right or next(b, b"")
        size = min(len(left), len(right))
        if not size:
            return left == right
        if left[:size] != right[:size]:
            return False
        left, right = left[size:], right[size:]
