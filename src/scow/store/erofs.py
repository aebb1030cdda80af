"""Writing the EROFS index of a layer: inodes, names and attributes here, file data in the layer's own tar.

The kernel mounts it as `mount -t erofs INDEX DIR -o device=TAR`. Blocks are 512 bytes, as a tar's are, so that a file's
data is a chunk of the second device, at the block where the tar has it. Format: linux/fs/erofs/erofs_fs.h,
Documentation/filesystems/erofs.rst.

    superblock (at 1024) | device slot | inodes, each with its attributes, chunk indexes or short target
    | directories, long targets
"""

import stat
import struct
from typing import Final

from scow.store.tree import LayerTree, Node, Segments

BLOCK: Final = 512
BLOCK_BITS: Final = 9
CHUNK_BITS_LIMIT: Final = 31 + BLOCK_BITS  # the format has five bits for a chunk's size: 1 TiB
CHUNK_COUNT_LIMIT: Final = 1 << 20  # of one file: 8 MiB of index
MAGIC: Final = 0xE0F5E1E2
FEATURES: Final = 0x4 | 0x8  # CHUNKED_FILE | DEVICE_TABLE

_SUPER_OFFSET: Final = 1024
_SLOT: Final = 9  # of 128 bytes: right behind the superblock
_ROOT_OFFSET: Final = (_SLOT + 1) * 128  # first of the inodes: its number has 16 bits
_SUPER: Final = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQB3xIQ8x")
_DEVICE: Final = struct.Struct("<64sI60x")
_INODE: Final = struct.Struct("<HHHHQIIIIqII16x")
_FILE: Final = struct.Struct("<HHHHQIIIIqII16xHHI")  # with one chunk index
_CHUNK: Final = struct.Struct("<HHI")
_DIRENT: Final = struct.Struct("<QHBB")
_XATTR: Final = struct.Struct("<BBH")

_EXTENDED: Final = 1
_PLAIN: Final = _EXTENDED | 0 << 1
_INLINE: Final = _EXTENDED | 2 << 1
_CHUNKED: Final = _EXTENDED | 4 << 1
_INDEXES: Final = 0x20
_HOLE: Final = 0xFFFFFFFF
_INLINE_LIMIT: Final = BLOCK - 64

_FILE_TYPE: Final = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}
_XATTR_PREFIXES: Final = ((b"user.", 1), (b"trusted.", 4), (b"security.", 6))
_XATTR_ACLS: Final = {b"system.posix_acl_access": 2, b"system.posix_acl_default": 3}


class NotExpressible(Exception):
    """The layer has something that an index can't say; the layer is to be unpacked instead."""


def build_index(tree: LayerTree, tar_size: int, label: bytes = b"") -> bytearray:
    """Return the index of a layer whose tar has `tar_size` bytes. Deterministic. Raises NotExpressible."""
    return _Index(tree, tar_size, label).image


class _Index:
    def __init__(self, tree: LayerTree, tar_size: int, label: bytes) -> None:
        tar_blocks = (tar_size + BLOCK - 1) >> BLOCK_BITS
        if tar_blocks >= _HOLE:
            raise NotExpressible(f"a tar of {tar_size} bytes has more blocks than the index can number")
        # (directory, its parent, the names of each block)
        self._directories: list[tuple[Node, Node, list[list[bytes]]]] = []
        self._files: list[Node] = []
        self._xattrs: dict[int, bytes] = {}  # by nid
        self._chunks: dict[int, tuple[int, list[int]]] = {}  # by nid: chunk bits, blocks; only of unusual files
        self._cursor = _ROOT_OFFSET
        self._place_all(tree.root)
        data_start = (self._cursor + BLOCK - 1) >> BLOCK_BITS
        long_targets = [n for n in self._files if n.is_symlink and n.size > _INLINE_LIMIT]
        data_blocks = sum(len(blocks) for _, _, blocks in self._directories)
        data_blocks += sum((n.size + BLOCK - 1) >> BLOCK_BITS for n in long_targets)
        blocks = data_start + data_blocks
        self.image = bytearray(blocks << BLOCK_BITS)
        inodes = len(self._directories) + len(self._files)
        _SUPER.pack_into(
            self.image, _SUPER_OFFSET, MAGIC, 0, 0, BLOCK_BITS, 0, tree.root.nid, inodes, 0, 0, blocks, 0, 0,
            bytes(16), label[:16], FEATURES, 0, 1, _SLOT, 0, 0, 0, 0, 0, 0, 0,
        )  # fmt: skip
        _DEVICE.pack_into(self.image, _SLOT * 128, b"", tar_blocks)
        self._next_block = data_start
        self._write_directories()
        self._write_files()

    # first: every inode gets its place

    def _place_all(self, root: Node) -> None:
        root.nid = self._place(root)
        stack = [(root, root)]
        directories, files = self._directories, self._files
        while stack:
            node, parent = stack.pop()
            children = node.children
            links = 2
            used = 0
            names: list[bytes] = []
            blocks = [names]
            for name in sorted([b".", b"..", *children]):
                used += 12 + len(name)
                if used > BLOCK:
                    names = []
                    blocks.append(names)
                    used = 12 + len(name)
                names.append(name)
                child = children.get(name)
                if child is None:
                    continue
                if child.mode & 0o170000 == stat.S_IFDIR:
                    links += 1
                    child.nid = self._place(child)
                    stack.append((child, node))
                elif child.links:
                    child.links += 1
                else:
                    child.links = 1
                    child.nid = self._place(child)
                    files.append(child)
            node.links = links
            node.size = (len(blocks) - 1) * BLOCK + used
            directories.append((node, parent, blocks))

    def _place(self, node: Node) -> int:
        at = self._cursor
        kind = node.mode & 0o170000
        size = 64
        attributes = b""
        if node.xattrs is not None or node.opaque:
            attributes = _encode_xattrs(node)
            size += len(attributes)
        if kind == stat.S_IFREG:
            if node.size:
                if isinstance(node.payload, int) and node.size <= 1 << CHUNK_BITS_LIMIT:
                    count = 1
                else:
                    bits, blocks = _chunks(node)
                    self._chunks[at >> 5] = bits, blocks
                    count = len(blocks)
                size = (size + 7 & ~7) + 8 * count
        elif kind == stat.S_IFLNK and node.size <= _INLINE_LIMIT:
            # a target beside its inode must not cross a block
            while ((at + size) & BLOCK - 1) + node.size > BLOCK:
                at += 32
            size += node.size
        if attributes:
            self._xattrs[at >> 5] = attributes
        self._cursor = (at + size + 31) & ~31
        return at >> 5

    # then: everything is written

    def _write_directories(self) -> None:
        image, xattrs = self.image, self._xattrs
        pack = _DIRENT.pack
        for number, (node, parent, blocks) in enumerate(self._directories, 1):
            start = self._next_block
            children = node.children
            for names in blocks:
                at = self._next_block << BLOCK_BITS
                self._next_block += 1
                name_at = 12 * len(names)
                entries = []
                for name in names:
                    child = children.get(name)
                    if child is None:
                        child = node if name == b"." else parent
                    entries.append(pack(child.nid, name_at, _FILE_TYPE[child.mode & 0o170000], 0))
                    name_at += len(name)
                image[at : at + name_at] = b"".join(entries) + b"".join(names)
            attributes = xattrs.get(node.nid)
            self._write_inode(node, _PLAIN, start, number, attributes)

    def _write_files(self) -> None:
        image, xattrs, pack_file = self.image, self._xattrs, _FILE.pack_into
        first = len(self._directories) + 1
        for number, node in enumerate(self._files, first):
            kind = node.mode & 0o170000
            nid = node.nid
            attributes = xattrs.get(nid) if xattrs else None
            payload = node.payload
            if kind == stat.S_IFREG:
                if attributes is None and isinstance(payload, int) and 0 < node.size <= 1 << CHUNK_BITS_LIMIT:
                    bits = max(0, (node.size - 1).bit_length() - BLOCK_BITS)
                    pack_file(
                        image, nid << 5, _CHUNKED, 0, node.mode, 0, node.size, bits | _INDEXES, number, node.uid,
                        node.gid, node.mtime, node.nsec, node.links, 0, 1, payload >> BLOCK_BITS,
                    )  # fmt: skip
                elif not node.size:
                    self._write_inode(node, _PLAIN, 0, number, attributes)
                else:
                    self._write_chunked(node, number, attributes)
            elif kind == stat.S_IFLNK:
                assert isinstance(payload, bytes)
                if node.size <= _INLINE_LIMIT:
                    at = self._write_inode(node, _INLINE, 0, number, attributes)
                else:
                    self._write_inode(node, _PLAIN, self._next_block, number, attributes)
                    at = self._next_block << BLOCK_BITS
                    self._next_block += (node.size + BLOCK - 1) >> BLOCK_BITS
                image[at : at + node.size] = payload
            else:
                assert isinstance(payload, int)
                self._write_inode(node, _PLAIN, payload, number, attributes)

    def _write_chunked(self, node: Node, number: int, attributes: bytes | None) -> None:
        found = self._chunks.get(node.nid)
        if found is None:
            assert isinstance(node.payload, int)
            found = max(BLOCK_BITS, (node.size - 1).bit_length()), [node.payload >> BLOCK_BITS]
        bits, blocks = found
        at = self._write_inode(node, _CHUNKED, (bits - BLOCK_BITS) | _INDEXES, number, attributes)
        at = at + 7 & ~7
        for block in blocks:
            _CHUNK.pack_into(self.image, at, 0, 0 if block == _HOLE else 1, block)
            at += 8

    def _write_inode(self, node: Node, layout: int, union: int, number: int, attributes: bytes | None) -> int:
        """Write inode and attributes; return where what follows them begins."""
        at = node.nid << 5
        count = 0 if attributes is None else (len(attributes) - 12) // 4 + 1
        _INODE.pack_into(
            self.image, at, layout, count, node.mode, 0, node.size, union, number, node.uid, node.gid, node.mtime,
            node.nsec, node.links,
        )  # fmt: skip
        at += 64
        if attributes is not None:
            self.image[at : at + len(attributes)] = attributes
            at += len(attributes)
        return at


def _encode_xattrs(node: Node) -> bytes:
    parts = [bytes(12)]  # no filter, no shared ones
    for name, value in sorted(node.all_xattrs().items()):
        index = _XATTR_ACLS.get(name, 0)
        rest = b""
        if not index:
            for prefix, number in _XATTR_PREFIXES:
                if name.startswith(prefix) and len(name) > len(prefix):
                    index, rest = number, name[len(prefix) :]
        if not index:
            raise NotExpressible(f"the extended attribute {name!r}")
        if len(value) > 65535:
            raise NotExpressible(f"the extended attribute {name!r} of {len(value)} bytes")
        entry = _XATTR.pack(len(rest), index, len(value)) + rest + value
        parts.append(entry + bytes(-len(entry) % 4))
    encoded = b"".join(parts)
    if (len(encoded) - 12) // 4 + 1 > 65535:
        raise NotExpressible(f"{len(encoded)} bytes of extended attributes")
    return encoded


def _chunks(node: Node) -> tuple[int, list[int]]:
    """Cut a sparse file, or one beyond the largest chunk, into chunks: (bits of a chunk, first block of each)."""
    segments: Segments = ((0, node.size, node.payload),) if isinstance(node.payload, int) else node.payload  # type: ignore[assignment]  # a file's payload is one of the two
    step = 1 << min(CHUNK_BITS_LIMIT, max(BLOCK_BITS, (node.size - 1).bit_length()))
    for offset, length, at in segments:
        step = min(step, offset & -offset or step)
        if offset + length != node.size:
            step = min(step, length & -length)
        if at % BLOCK:
            step = 0
    if step < BLOCK:
        raise NotExpressible("a sparse file whose holes are not aligned to blocks")
    bits = step.bit_length() - 1
    count = (node.size + step - 1) >> bits
    if count > CHUNK_COUNT_LIMIT:
        raise NotExpressible(f"a sparse file of {count} chunks")
    blocks = [_HOLE] * count
    for offset, length, at in segments:
        first = offset >> bits
        for number in range(first, (offset + length + step - 1) >> bits):
            blocks[number] = (at >> BLOCK_BITS) + ((number - first) << (bits - BLOCK_BITS))
    return bits, blocks
