"""A layer's change set in memory: what the tar's entries, read in order, make of an empty directory.

Both forms of a layer (EROFS index, unpacked directory) are drawn from this tree, so that they agree on what duplicates,
links, whiteouts and odd names mean. Nothing here touches a file system: a name with `..`, a link through a symlink and
the like are resolved in the tree and can't lead out of it. image-spec layer.md.
"""

import stat
from collections.abc import Iterator
from typing import Final

from scow.errors import InvalidArgument

ENTRY_LIMIT: Final = 4_000_000  # entries of one layer; a node costs about 250 bytes
PATH_LIMIT: Final = 4096
NAME_LIMIT: Final = 255
SYMLINK_HOPS: Final = 40

WHITEOUT: Final = b".wh."
OPAQUE: Final = b".wh..wh..opq"
WHITEOUT_META: Final = b".wh..wh."  # aufs' own files, which mean nothing outside aufs

IMPLICIT_DIRECTORY: Final = stat.S_IFDIR | 0o755

Segments = tuple[tuple[int, int, int], ...]
"""Data of a sparse file: (offset in the file, length, offset in the tar) each."""


class LayerCorrupt(InvalidArgument):
    """The layer is no valid tar, or no valid compressed one, or asks for something that can't be."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"invalid layer: {reason}")
        self.reason = reason


class Node:
    """One inode. What `payload` holds depends on the type: a directory's children, a symlink's target, a regular file's
    offset in the tar or its segments, a device's number as Linux packs it into 32 bits."""

    __slots__ = ("gid", "links", "mode", "mtime", "nid", "nsec", "opaque", "payload", "size", "uid", "xattrs")

    def __init__(
        self,
        mode: int,
        uid: int,
        gid: int,
        mtime: int,
        nsec: int,
        size: int,
        payload: "dict[bytes, Node] | bytes | int | Segments",
        xattrs: dict[bytes, bytes] | None,
    ) -> None:
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.mtime = mtime
        self.nsec = nsec
        self.size = size
        self.payload = payload
        self.xattrs = xattrs
        self.opaque = False
        self.links = 0
        self.nid = 0

    @property
    def children(self) -> "dict[bytes, Node]":
        """The entries of a directory."""
        assert isinstance(self.payload, dict)
        return self.payload

    @property
    def is_directory(self) -> bool:
        return self.mode & 0o170000 == stat.S_IFDIR

    @property
    def is_symlink(self) -> bool:
        return self.mode & 0o170000 == stat.S_IFLNK

    @property
    def is_whiteout(self) -> bool:
        """Overlayfs takes a character device 0:0 for "the lower layers' file of this name is gone"."""
        return self.mode & 0o170000 == stat.S_IFCHR and self.payload == 0

    def all_xattrs(self) -> dict[bytes, bytes]:
        """The extended attributes as they are to be seen on the file, overlayfs' mark included."""
        xattrs = self.xattrs or {}
        return {**xattrs, b"trusted.overlay.opaque": b"y"} if self.opaque else xattrs


def device_number(major: int, minor: int) -> int:
    """Pack a device number as the kernel's new_encode_dev does. Raises LayerCorrupt beyond 12 and 20 bits."""
    if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
        raise LayerCorrupt(f"device number {major}:{minor} is out of range")
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


def split_device_number(packed: int) -> tuple[int, int]:
    """Undo device_number: (major, minor)."""
    return (packed >> 8) & 0xFFF, (packed & 0xFF) | ((packed >> 12) & 0xFFF00)


def _directory(mode: int = IMPLICIT_DIRECTORY) -> Node:
    return Node(mode, 0, 0, 0, 0, 0, {}, None)


def shown(path: bytes) -> str:
    """A path for people: what isn't UTF-8 or is a control character is escaped."""
    text = path.decode("utf-8", "backslashreplace")
    return repr(text if len(text) < 300 else text[:300] + "…")[1:-1]


class LayerTree:
    """Grows by `add` and `link` in the order of the tar; `finish` resolves what could not be at once."""

    def __init__(self) -> None:
        self.root = _directory()
        self.entries = 0  # of the tar
        # Every directory by its clean path: most entries need one look-up here. A removal of a directory or symlink
        # empties it, since paths below (or through) that would still be found.
        self._known: dict[bytes, dict[bytes, Node]] = {b"": self.root.children}
        self._pending: list[tuple[dict[bytes, Node], bytes, Node, bytes]] = []

    def add(self, path: bytes, node: Node) -> None:
        """Put `node` at `path` as the tar spells it. Raises LayerCorrupt."""
        self.entries += 1
        if self.entries > ENTRY_LIMIT:
            raise LayerCorrupt(f"more than {ENTRY_LIMIT} entries")
        if path[:2] == b"./":
            path = path[2:]
        if path[-1:] == b"/":
            path = path[:-1]
        parent, _, name = path.rpartition(b"/")
        children = self._known.get(parent)
        if children is None or name in (b"", b".", b"..") or len(path) > PATH_LIMIT or len(name) > NAME_LIMIT:
            parts = _split(path)
            if not parts:
                if not node.is_directory:
                    raise LayerCorrupt("its root is not a directory")
                _update(self.root, node)
                return
            name = parts.pop()
            parent = b"/".join(parts)
            path = parent + b"/" + name if parent else name
            children = self._ensure(parts)
        if name[:4] == WHITEOUT:
            self._whiteout(parent, children, name, node)
            return
        if name in children:
            self._replace(children, name, node)
        else:
            children[name] = node
        if node.mode & 0o170000 == stat.S_IFDIR:
            self._known[path] = children[name].children

    def link(self, path: bytes, target: bytes) -> None:
        """Make `path` one more name of the file at `target`, which may also come later. Raises LayerCorrupt."""
        node = self._find(_split(target))
        if node is None or node.mode == 0:
            # A placeholder, so that later entries of the same name replace the link as they would any file.
            node = Node(0, 0, 0, 0, 0, 0, target, None)
            self.add(path, node)
            parts = _split(path)
            if parts and not parts[-1].startswith(WHITEOUT):
                self._pending.append((self._ensure(parts[:-1]), parts[-1], node, target))
            return
        if node.is_directory:
            raise LayerCorrupt(f"hard link {shown(path)} -> {shown(target)}: that is a directory")
        if self._find(_split(path)) is node:
            self.entries += 1
            return
        self.add(path, node)

    def finish(self) -> None:
        """Resolve links to entries that came later. Raises LayerCorrupt if the layer has none of that name."""
        for children, name, placeholder, target in self._pending:
            if children.get(name) is not placeholder:
                continue
            seen = {id(placeholder)}
            node = self._find(_split(target))
            while node is not None and node.mode == 0 and id(node) not in seen:
                seen.add(id(node))
                assert isinstance(node.payload, bytes)
                node = self._find(_split(node.payload))
            if node is None or node.mode == 0 or node.is_directory:
                raise LayerCorrupt(f"hard link {shown(name)} -> {shown(target)}: the layer has no such file")
            children[name] = node
        self._pending.clear()

    def files_size(self) -> int:
        """Bytes of all files and symlinks, each once however many names it has: what docker calls a layer's size."""
        total = 0
        linked: set[int] = set()
        folders = [self.root.children]
        while folders:
            for node in folders.pop().values():
                if type(node.payload) is dict:
                    folders.append(node.payload)
                elif node.size and id(node) not in linked:
                    linked.add(id(node))
                    total += node.size
        return total

    def walk(self) -> Iterator[tuple[bytes, Node]]:
        """Yield (path, node), a directory before what is in it, names in bytewise order; the root's path is empty."""
        stack: list[tuple[bytes, Node]] = [(b"", self.root)]
        while stack:
            path, node = stack.pop()
            yield path, node
            if node.is_directory:
                prefix = path + b"/" if path else b""
                children = node.children
                stack.extend((prefix + name, children[name]) for name in sorted(children, reverse=True))

    def _whiteout(self, parent: bytes, children: dict[bytes, Node], name: bytes, node: Node) -> None:
        if name == OPAQUE:
            found = self._find(parent.split(b"/") if parent else [])
            assert found is not None
            found.opaque = True
            return
        if name.startswith(WHITEOUT_META):
            return
        hidden = name[4:]
        if hidden in (b"", b".", b".."):
            raise LayerCorrupt(f"whiteout {shown(name)} in /{shown(parent)} hides nothing that can be named")
        there = children.get(hidden)
        # A whiteout speaks of the lower layers only, wherever it stands among the entries: layer.md#whiteouts
        if there is None:
            children[hidden] = Node(stat.S_IFCHR, 0, 0, node.mtime, node.nsec, 0, 0, None)
        elif there.is_directory:
            there.opaque = True

    def _replace(self, children: dict[bytes, Node], name: bytes, node: Node) -> None:
        old = children[name]
        if node.is_directory:
            if old.is_directory:
                _update(old, node)
                return
            node.opaque = old.is_whiteout  # else the lower layers' directory would shine through
        if old.is_directory or old.is_symlink:
            self._forget()
        children[name] = node

    def _forget(self) -> None:
        self._known.clear()
        self._known[b""] = self.root.children

    def _ensure(self, parts: list[bytes]) -> dict[bytes, Node]:
        """The children of a directory, made with its parents where missing; symlinks are followed inside the layer."""
        path = b"/".join(parts)
        known = self._known.get(path)
        if known is None:
            node = self._walk(parts, make=True)
            assert node is not None
            known = self._known[path] = node.children
        return known

    def _find(self, parts: list[bytes]) -> Node | None:
        """What is at a path; a symlink at its end is not followed."""
        if not parts:
            return self.root
        known = self._known.get(b"/".join(parts[:-1]))
        if known is None:
            parent = self._walk(parts[:-1], make=False)
            if parent is None:
                return None
            known = parent.children
        return known.get(parts[-1])

    def _walk(self, parts: list[bytes], *, make: bool) -> Node | None:
        todo = parts[::-1]
        trail = [self.root]
        hops = 0
        while todo:
            name = todo.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":  # of a symlink's target: as in a chroot, the root's parent is the root
                if len(trail) > 1:
                    trail.pop()
                continue
            children = trail[-1].children
            node = children.get(name)
            if node is None or node.is_whiteout:
                if not make:
                    return None
                if len(name) > NAME_LIMIT:
                    raise LayerCorrupt(f"a name of {len(name)} bytes: {shown(name[:40])}…")
                made = _directory()
                made.opaque = node is not None
                children[name] = node = made
            if node.is_symlink:
                hops += 1
                assert isinstance(node.payload, bytes)
                if hops > SYMLINK_HOPS:
                    raise LayerCorrupt(f"too many symlinks in {shown(b'/'.join(parts))}")
                if node.payload.startswith(b"/"):
                    del trail[1:]
                todo.extend(node.payload.split(b"/")[::-1])
                continue
            if not node.is_directory:
                if not make:
                    return None
                raise LayerCorrupt(f"{shown(b'/'.join(parts))} has an entry below it, but is not a directory")
            trail.append(node)
        return trail[-1]


def _split(path: bytes) -> list[bytes]:
    if len(path) > PATH_LIMIT:
        raise LayerCorrupt(f"a path of {len(path)} bytes: {shown(path[:80])}…")
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            if not parts:
                raise LayerCorrupt(f"the path {shown(path)} leads out of the layer")
            parts.pop()
        elif part not in (b"", b"."):
            if len(part) > NAME_LIMIT:
                raise LayerCorrupt(f"a name of {len(part)} bytes: {shown(part[:40])}…")
            parts.append(part)
    return parts


def _update(old: Node, new: Node) -> None:
    """A directory that comes again keeps its children and takes the later attributes."""
    old.mode, old.uid, old.gid, old.mtime, old.nsec = new.mode, new.uid, new.gid, new.mtime, new.nsec
    old.xattrs = new.xattrs
