"""Reading a layer's EROFS index back: which files it shows, and where in the tar their data is.

The counterpart of erofs.py, for what it writes: reading an index takes milliseconds where reading its tar takes
seconds. Nothing in the index is believed: what doesn't fit raises IndexDamaged.
"""

import stat
import struct
from collections.abc import Iterator
from typing import Final

from scow.store import erofs
from scow.store.tree import Node, Segments

_INODE: Final = struct.Struct("<HHHHQIIIIqII16x")
_DIRENT: Final = struct.Struct("<QHBB")
_HOLE: Final = 0xFFFFFFFF
_PREFIXES: Final = {1: b"user.", 4: b"trusted.", 6: b"security."}
_ACLS: Final = {2: b"system.posix_acl_access", 3: b"system.posix_acl_default"}
OPAQUE: Final = b"trusted.overlay.opaque"


class IndexDamaged(Exception):
    """The index makes no sense."""


class IndexReader:
    """One index, whole in memory: it has about a hundred bytes for a file."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._nodes: dict[int, Node] = {}
        try:
            magic, _, _, bits, _, root = struct.unpack_from("<IIIBBH", data, 1024)
        except struct.error:
            raise IndexDamaged("it is too short") from None
        if magic != erofs.MAGIC or bits != erofs.BLOCK_BITS:
            raise IndexDamaged("it has no superblock of ours")
        self._root = root

    def walk(self) -> Iterator[tuple[bytes, Node]]:
        """Yield (path, node), a directory before what is in it, names in bytewise order; the root's path is empty.

        Hard links share a node. Raises IndexDamaged.
        """
        try:
            yield from self._walk()
        except (struct.error, IndexError, UnicodeError) as error:
            raise IndexDamaged(str(error)) from error

    def _walk(self) -> Iterator[tuple[bytes, Node]]:
        seen: set[int] = set()
        stack = [(b"", self._root)]
        while stack:
            path, nid = stack.pop()
            node, at = self._inode(nid)
            yield path, node
            if node.mode & 0o170000 == stat.S_IFDIR:
                if nid in seen:
                    raise IndexDamaged(f"the directory {path!r} has two parents")
                seen.add(nid)
                prefix = path + b"/" if path else b""
                entries = [(name, child) for name, child in self._entries(node.size, at) if name not in (b".", b"..")]
                stack.extend((prefix + name, child) for name, child in reversed(entries))

    def _inode(self, nid: int) -> tuple[Node, int]:
        """An inode, and for a directory the block at which its entries begin."""
        data = self._data
        at = nid << 5
        layout, xattr_count, mode, _, size, union, _, uid, gid, mtime, nsec, links = _INODE.unpack_from(data, at)
        known = self._nodes.get(nid)
        if known is not None:
            return known, union
        at += 64
        xattrs: dict[bytes, bytes] = {}
        if xattr_count:
            length = 12 + 4 * (xattr_count - 1)
            xattrs = _xattrs(data[at + 12 : at + length])
            at += length
        kind = mode & 0o170000
        payload: dict[bytes, Node] | bytes | int | Segments = 0
        if kind == stat.S_IFREG:
            payload = self._segments(size, union, at + 7 & ~7) if layout >> 1 == 4 else 0
        elif kind == stat.S_IFLNK:
            start = at if layout >> 1 == 2 else union << erofs.BLOCK_BITS
            payload = data[start : start + size]
        elif kind == stat.S_IFDIR:
            payload = {}
        else:
            payload = union
        opaque = xattrs.pop(OPAQUE, b"") == b"y" if kind == stat.S_IFDIR else False
        node = Node(mode, uid, gid, mtime, nsec, size, payload, xattrs or None)
        node.opaque = opaque
        node.links = links
        node.nid = nid
        self._nodes[nid] = node
        return node, union

    def _segments(self, size: int, union: int, at: int) -> int | Segments:
        """Where the data is: one place, or the pieces of a file with holes."""
        bits = erofs.BLOCK_BITS + (union & 0x1F)
        count = (size + (1 << bits) - 1) >> bits
        if count > len(self._data) >> 3:
            raise IndexDamaged("a file has more chunks than the index has room for")
        blocks = [block for _, _, block in struct.iter_unpack("<HHI", self._data[at : at + 8 * count])]
        if len(blocks) != count:
            raise IndexDamaged("a file's chunks are cut off")
        segments: list[tuple[int, int, int]] = []
        for number, block in enumerate(blocks):
            if block == _HOLE:
                continue
            offset, start = number << bits, block << erofs.BLOCK_BITS
            length = min(1 << bits, size - offset)
            if segments and segments[-1][0] + segments[-1][1] == offset and segments[-1][2] + segments[-1][1] == start:
                segments[-1] = (segments[-1][0], segments[-1][1] + length, segments[-1][2])
            else:
                segments.append((offset, length, start))
        if len(segments) == 1 and segments[0][:2] == (0, size):
            return segments[0][2]
        return tuple(segments)

    def _entries(self, size: int, block: int) -> Iterator[tuple[bytes, int]]:
        data = self._data
        start = block << erofs.BLOCK_BITS
        for base in range(start, start + size, erofs.BLOCK):
            end = min(base + erofs.BLOCK, start + size)
            first_name = struct.unpack_from("<H", data, base + 8)[0]
            count = first_name // 12
            heads = [_DIRENT.unpack_from(data, base + 12 * number) for number in range(count)]
            for number, (nid, name_at, _, _) in enumerate(heads):
                name_end = base + heads[number + 1][1] if number + 1 < count else end
                yield data[base + name_at : name_end].rstrip(b"\0"), nid


def _xattrs(data: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        name_length, index, value_length = struct.unpack_from("<BBH", data, at)
        at += 4
        name = data[at : at + name_length]
        value = data[at + name_length : at + name_length + value_length]
        prefix = _ACLS.get(index) if index in _ACLS else _PREFIXES.get(index)
        if prefix is None or len(value) != value_length:
            raise IndexDamaged("an extended attribute of no known kind")
        found[prefix + name] = value
        at += (name_length + value_length + 3) & ~3
    return found
