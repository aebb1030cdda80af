"""Reading a layer's tar as it streams by: POSIX ustar and pax, GNU, star and v7 archives into a LayerTree.

Only headers are looked at; of file data just the place is noted. One pass, fed in pieces of any size, bounded memory.
It is written for speed: a regular file with a plain header costs about ten microseconds.
"""

import base64
import re
import stat
import struct
from collections.abc import Callable
from typing import Final
from urllib.parse import unquote_to_bytes
from zlib import adler32

from scow.store.tree import LayerCorrupt, LayerTree, Node, Segments, device_number, shown

BLOCK: Final = 512
EXTENSION_LIMIT: Final = 2 << 20  # bytes of one pax header or long name
SPARSE_MAP_LIMIT: Final = 4 << 20
SIZE_LIMIT: Final = (1 << 62) - 1
ID_LIMIT: Final = (1 << 32) - 2  # 2^32 - 1 means "no change" to chown(2)
TARGET_LIMIT: Final = 4095

_ZERO: Final = bytes(BLOCK)
_HEADER: Final = struct.Struct("100s8s8s8s12s12s8sc100s6s2x64x8s8s155s8x4s")
_DECIMAL: Final = re.compile(rb"-?[0-9]+\Z")
_TIME: Final = re.compile(rb"(-?)([0-9]+)(?:\.([0-9]*))?\Z")
_XATTR: Final = b"SCHILY.xattr."
_LIBARCHIVE_XATTR: Final = b"LIBARCHIVE.xattr."
_OVERLAY: Final = b"trusted.overlay."  # overlayfs' own marks: a layer says such things by whiteouts
_PLAIN_KEYS: Final = frozenset(
    (b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime", b"SCHILY.devmajor", b"SCHILY.devminor")
)
_TYPES: Final = {b"3": stat.S_IFCHR, b"4": stat.S_IFBLK, b"5": stat.S_IFDIR, b"6": stat.S_IFIFO, b"D": stat.S_IFDIR}

Records = dict[bytes, bytes]


class LayerUnsupported(LayerCorrupt):
    """The tar uses something that has no place in a layer, for instance a member that begins on another volume."""


class TarReader:
    """Feed it the tar's bytes in order, then call `finish`; `tree` then is complete. Raises LayerCorrupt from both."""

    def __init__(self) -> None:
        self.tree = LayerTree()
        self.position = 0  # bytes fed
        self._partial = b""  # unread bytes that the next step needs, and some more
        self._next = 0  # where the next step reads
        self._content_end = 0  # of the last member, without padding
        self._want = BLOCK
        self._step: Callable[[bytes], None] | None = None  # what takes the next `_want` bytes; None: a header
        self._ended = False
        self._globals: Records = {}
        self._records: Records | None = None  # of the pax header before this member
        self._sparse_pairs: list[tuple[int, int]] = []  # of pax sparse format 0.0
        self._long_name: bytes | None = None
        self._long_target: bytes | None = None
        self._numbers: dict[bytes, int] = {}

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self.position += len(chunk)
        if self._ended or self._next >= self.position:
            return
        view = self._partial + chunk if self._partial else chunk
        start = self.position - len(view)
        while not self._ended:
            at = self._next - start
            if at + self._want > len(view):
                self._partial = view[at:] if at < len(view) else b""
                return
            if self._step is None:
                self._read_header(view, at)
            else:
                step, self._step, piece = self._step, None, view[at : at + self._want]
                self._next += self._want
                self._want = BLOCK
                step(piece)
        self._partial = b""

    def finish(self) -> LayerTree:
        """Check that the tar was whole and return its tree. An end without the two zero blocks is let pass."""
        if not self._ended:
            missing = self._content_end > self.position or (self._partial and self._partial.strip(b"\0"))
            if missing or self._step is not None or self._records or self._long_name or self._long_target:
                raise LayerCorrupt(f"the tar is truncated at byte {self.position}")
        self.tree.finish()
        return self.tree

    def _read_header(self, view: bytes, at: int) -> None:
        block = view[at : at + BLOCK]
        (name, mode, uid, gid, size_field, mtime, checksum, kind, target, magic, major, minor, prefix,
         trailer) = _HEADER.unpack_from(block)  # fmt: skip
        # adler32's low half is 1 + the sum of the bytes modulo 65521, and much quicker than sum()
        try:
            said = int(checksum.rstrip(b"\0 "), 8)
        except ValueError:
            said = -1
        if adler32(block) & 0xFFFF != (said - 255 + sum(checksum)) % 65521:
            if block == _ZERO:
                self._ended = True
                return
            if not _signed_sum_matches(block, said):
                raise LayerCorrupt(f"no tar header at byte {self._next}")
        number = self._number
        size = number(size_field)
        data = self._next + BLOCK
        if size < 0 or size > SIZE_LIMIT:
            raise LayerCorrupt(f"a size of {size} at byte {self._next}")
        self._next = data
        if kind in b"xXgLKNVMI":
            self._read_extension(kind, size)
            return
        name = name[: name.find(b"\0")] if b"\0" in name else name
        if prefix[:1] != b"\0" and magic == b"ustar\0":
            if trailer == b"tar\0":  # star puts times behind a shorter prefix
                prefix = prefix[:131]
            name = prefix.partition(b"\0")[0] + b"/" + name if prefix[:1] != b"\0" else name
        seconds = number(mtime)
        nanoseconds = 0
        owner, group = number(uid), number(gid)
        xattrs: dict[bytes, bytes] | None = None
        sparse: tuple[str, Records] | None = None
        if b"\0" in target:
            target = target[: target.find(b"\0")]
        if self._records is not None or self._long_name is not None or self._long_target is not None or self._globals:
            records = {**self._globals, **(self._records or {})}
            if self._long_name is not None:
                name = self._long_name
            if self._long_target is not None:
                target = self._long_target
            if records:
                name = records.get(b"path") or name
                target = records.get(b"linkpath") or target
                if b"\0" in name or b"\0" in target:
                    raise LayerCorrupt(f"a NUL in a pax path of {shown(name)}")
                if value := records.get(b"size"):
                    size = _decimal(value)
                    if size < 0 or size > SIZE_LIMIT:
                        raise LayerCorrupt(f"a size of {size}: {shown(name)}")
                if value := records.get(b"uid"):
                    owner = _decimal(value)
                if value := records.get(b"gid"):
                    group = _decimal(value)
                if value := records.get(b"mtime"):
                    seconds, nanoseconds = parse_time(value)
                xattrs = _xattrs(records)
                if any(key.startswith(b"GNU.sparse.") for key in records):
                    name = records.get(b"GNU.sparse.name") or name
                    sparse = ("pax", records)
            self._records = self._long_name = self._long_target = None
        if not (0 <= owner <= ID_LIMIT and 0 <= group <= ID_LIMIT):
            raise LayerCorrupt(f"owner {owner}:{group} of {shown(name)} is out of range")
        permissions = number(mode) & 0o7777

        if kind in b"0\x007" or kind == b"S" or kind not in b"123456D":
            # POSIX: a type that one doesn't know is a regular file
            if name[-1:] == b"/" and kind != b"S":
                self.tree.add(name, Node(stat.S_IFDIR | permissions, owner, group, seconds, nanoseconds, 0, {}, xattrs))
                return
            if not name:
                raise LayerCorrupt(f"a file without a name at byte {data - BLOCK}")
            node = Node(stat.S_IFREG | permissions, owner, group, seconds, nanoseconds, size, data, xattrs)
            if kind == b"S":
                self._read_old_sparse(name, node, block)
            elif sparse is not None:
                self._read_pax_sparse(name, node, sparse[1])
            else:
                self._content_end = data + size
                self._next = data + (size + 511 & ~511)
                self.tree.add(name, node)
            return
        if kind == b"1":
            if not target:
                raise LayerCorrupt(f"the hard link {shown(name)} has no target")
            self.tree.link(name, target)
            return
        if kind == b"2":
            if not target or len(target) > TARGET_LIMIT:
                raise LayerCorrupt(f"the symlink {shown(name)} has a target of {len(target)} bytes")
            node = Node(stat.S_IFLNK | 0o777, owner, group, seconds, nanoseconds, len(target), target, xattrs)
            self.tree.add(name, node)
            return
        type_bits = _TYPES[kind]
        payload: dict[bytes, Node] | int = 0
        if type_bits == stat.S_IFDIR:
            payload = {}
            if kind == b"D":  # GNU's directory with a listing of it as data
                self._content_end = data + size
                self._next = data + (size + 511 & ~511)
        elif type_bits != stat.S_IFIFO:
            payload = device_number(number(major), number(minor))
        self.tree.add(name, Node(type_bits | permissions, owner, group, seconds, nanoseconds, 0, payload, xattrs))

    def _number(self, field: bytes) -> int:
        value = self._numbers.get(field)
        if value is None:
            value = parse_number(field)
            if len(self._numbers) > 4096:
                self._numbers.clear()
            self._numbers[field] = value
        return value

    # headers that speak about the next member

    def _read_extension(self, kind: bytes, size: int) -> None:
        if kind == b"M":
            raise LayerUnsupported("a member is continued from another volume")
        if kind in b"VNI":  # volume label and obsolete kinds: nothing that a file system shows
            self._content_end = self._next + size
            self._next += size + 511 & ~511
            return
        if size > EXTENSION_LIMIT:
            raise LayerCorrupt(f"an extended header of {size} bytes")
        if size == 0:
            return
        self._want = size + 511 & ~511

        def take(block: bytes) -> None:
            data = block[:size]
            if kind == b"L":
                self._long_name = data.partition(b"\0")[0]
            elif kind == b"K":
                self._long_target = data.partition(b"\0")[0]
            elif kind == b"g":
                records = parse_pax(data)
                for key, value in records.items():
                    if key in _PLAIN_KEYS or key.startswith((_XATTR, _LIBARCHIVE_XATTR)):
                        if value:
                            self._globals[key] = value
                        else:
                            self._globals.pop(key, None)
            else:
                self._sparse_pairs = []
                self._records = parse_pax(data, self._sparse_pairs)

        self._step = take

    # sparse members

    def _read_old_sparse(self, name: bytes, node: Node, block: bytes) -> None:
        """GNU tar manual, "Old GNU Format": four pairs in the header, 21 in each block that follows."""
        pairs: list[tuple[int, int]] = []
        real_size = parse_number(block[483:495])

        def take(piece: bytes, first: int, count: int, flag: int) -> None:
            for index in range(count):
                entry = piece[first + 24 * index : first + 24 * index + 24]
                if entry[:1] == b"\0":
                    break
                pairs.append((parse_number(entry[:12]), parse_number(entry[12:])))
            if len(pairs) * 24 > SPARSE_MAP_LIMIT:
                raise LayerCorrupt(f"the sparse map of {shown(name)} is too long")
            if piece[flag]:
                self._step = lambda more: take(more, 0, 21, 504)
            else:
                self._add_sparse(name, node, pairs, real_size, node.size)

        take(block, 386, 4, 482)

    def _read_pax_sparse(self, name: bytes, node: Node, records: Records) -> None:
        """GNU tar manual, "PAX Formats": the map in the pax header (0.0, 0.1) or before the data (1.0)."""
        size_field = records.get(b"GNU.sparse.realsize") or records.get(b"GNU.sparse.size")
        if size_field is None:
            raise LayerCorrupt(f"the sparse file {shown(name)} has no size")
        real_size = _decimal(size_field)
        if records.get(b"GNU.sparse.major", b"0") == b"0":
            pairs = self._sparse_pairs
            if (text := records.get(b"GNU.sparse.map")) is not None:
                numbers = [_decimal(part) for part in text.split(b",")] if text else []
                if len(numbers) % 2:
                    raise LayerCorrupt(f"the sparse map of {shown(name)} is damaged")
                pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
            self._add_sparse(name, node, pairs, real_size, node.size)
            return
        if (records[b"GNU.sparse.major"], records.get(b"GNU.sparse.minor")) != (b"1", b"0"):
            raise LayerUnsupported(f"an unknown sparse format of {shown(name)}")
        collected = bytearray()

        def take(block: bytes) -> None:
            collected.extend(block)
            lines = bytes(collected).split(b"\n")
            count = _decimal(lines[0]) if len(lines) > 1 else SPARSE_MAP_LIMIT
            if count < 0 or len(collected) > SPARSE_MAP_LIMIT:
                raise LayerCorrupt(f"the sparse map of {shown(name)} is damaged")
            if len(lines) - 1 < 2 * count + 1:
                # A few blocks more: reading by single blocks would cost the square of a long map.
                self._step = take
                if len(lines) > 1:
                    self._want = max(BLOCK, (2 * (2 * count + 2 - len(lines)) + 511) & ~511)
                return
            numbers = [_decimal(line) for line in lines[1 : 2 * count + 1]]
            pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
            self._add_sparse(name, node, pairs, real_size, node.size - len(collected))

        self._step = take

    def _add_sparse(self, name: bytes, node: Node, pairs: list[tuple[int, int]], real_size: int, stored: int) -> None:
        at = self._next
        end = 0
        segments: list[tuple[int, int, int]] = []
        for offset, length in pairs:
            if offset < end or length < 0:
                raise LayerCorrupt(f"the sparse map of {shown(name)} is out of order")
            end = offset + length
            if not length:
                continue
            if segments and segments[-1][0] + segments[-1][1] == offset:
                segments[-1] = (segments[-1][0], segments[-1][1] + length, segments[-1][2])
            else:
                segments.append((offset, length, at))
            at += length
        if end > real_size or real_size > SIZE_LIMIT or at - self._next != stored:
            raise LayerCorrupt(f"the sparse map of {shown(name)} does not fit its size")
        payload: Segments | int = tuple(segments)
        if len(segments) == 1 and segments[0][:2] == (0, real_size):
            payload = segments[0][2]
        node.size = real_size
        node.payload = payload
        self._content_end = at
        self._next += stored + 511 & ~511
        self.tree.add(name, node)


def _signed_sum_matches(block: bytes, said: int) -> bool:
    """Old Sun tars summed the bytes as signed."""
    return said == sum(byte - 256 if byte > 127 else byte for byte in block[:148] + b" " * 8 + block[156:])


def parse_number(field: bytes) -> int:
    """Read a number of a header: octal, or base-256 if the first bit is set. Raises LayerCorrupt."""
    text = field.rstrip(b"\0 ")
    if text.isdigit():
        try:
            return int(text, 8)
        except ValueError:
            raise LayerCorrupt(f"not an octal number: {shown(field)}") from None
    if field[0] & 0x80:
        value = int.from_bytes(field, "big")
        bits = 8 * len(field)
        # 0x80 marks a positive number, 0xff a negative one; the mark itself doesn't count
        return value - (1 << bits) if field[0] & 0x40 else value & ((1 << bits - 1) - 1)
    text = field.partition(b"\0")[0].strip()
    if not text:
        return 0
    text = text.partition(b" ")[0]
    try:
        if not text.isdigit():
            raise ValueError
        return int(text, 8)
    except ValueError:
        raise LayerCorrupt(f"not an octal number: {shown(field)}") from None


def _decimal(text: bytes) -> int:
    if len(text) > 20 or not _DECIMAL.match(text):
        raise LayerCorrupt(f"not a number: {shown(text[:40])}")
    return int(text)


def parse_time(text: bytes) -> tuple[int, int]:
    """Read a pax time as (seconds, nanoseconds), rounded down as GNU tar does. Raises LayerCorrupt."""
    match = _TIME.match(text)
    if match is None or len(match[2]) > 18:
        raise LayerCorrupt(f"not a time: {shown(text[:40])}")
    seconds, fraction = int(match[2]), match[3] or b""
    nanoseconds = int((fraction + b"000000000")[:9])
    if match[1]:
        nanoseconds += bool(fraction[9:].strip(b"0"))
        seconds, nanoseconds = (-seconds - 1, 1_000_000_000 - nanoseconds) if nanoseconds else (-seconds, 0)
    return seconds, nanoseconds


def parse_pax(data: bytes, sparse_pairs: list[tuple[int, int]] | None = None) -> Records:
    """Read a pax header's records; the pairs of sparse format 0.0, whose keys repeat, go to `sparse_pairs`."""
    records: Records = {}
    at = 0
    offset = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        if space < 0:
            if not data[at:].strip(b"\0"):
                break
            raise LayerCorrupt("a damaged pax header")
        digits = data[at:space]
        end = at + int(digits) if digits.isdigit() else 0
        if end <= space + 1 or end > len(data) or data[end - 1 : end] != b"\n":
            raise LayerCorrupt("a damaged pax header")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals or not key:
            raise LayerCorrupt("a damaged pax header")
        if sparse_pairs is not None and key == b"GNU.sparse.offset":
            offset = _decimal(value)
        elif sparse_pairs is not None and key == b"GNU.sparse.numbytes":
            sparse_pairs.append((offset, _decimal(value)))
        records[key] = value
        at = end
    return records


def _xattrs(records: Records) -> dict[bytes, bytes] | None:
    found: dict[bytes, bytes] = {}
    for key, value in records.items():
        if key.startswith(_XATTR):
            # GNU tar escapes what a pax key can't hold
            name = key[len(_XATTR) :].replace(b"%3D", b"=").replace(b"%25", b"%")
        elif key.startswith(_LIBARCHIVE_XATTR):
            name = unquote_to_bytes(key[len(_LIBARCHIVE_XATTR) :])
            if _XATTR + name in records:
                continue
            try:
                value = base64.b64decode(value + b"=" * (-len(value) % 4))
            except ValueError:
                raise LayerCorrupt(f"the extended attribute {shown(name)} is not base64") from None
        else:
            continue
        if not 0 < len(name) <= 255 or b"\0" in name or len(value) > 65536:
            raise LayerCorrupt(f"an impossible extended attribute {shown(name[:80])}")
        if not name.startswith(_OVERLAY):
            found[name] = value
    return found or None
