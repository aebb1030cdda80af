"""Headers of the tars that are made here: POSIX ustar, with a pax header before what ustar can't say.

The same entry always gives the same bytes. There are no user names, no times but the modification time, which is in
whole seconds, as every builder of images writes it. POSIX pax(1), "ustar Interchange Format" and "pax Header Block".
"""

import struct
from collections.abc import Mapping
from typing import Final

BLOCK: Final = 512
END: Final = bytes(2 * BLOCK)

FILE: Final = b"0"
LINK: Final = b"1"
SYMLINK: Final = b"2"
CHARACTER: Final = b"3"
BLOCK_DEVICE: Final = b"4"
DIRECTORY: Final = b"5"
FIFO: Final = b"6"
_PAX: Final = b"x"

_HEADER: Final = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_NO_SUM: Final = b" " * 8
_MAGIC: Final = b"ustar\x0000"
_NAME_SIZE: Final = 100
_PREFIX_SIZE: Final = 155
_ID_LIMIT: Final = 1 << 21
_SIZE_LIMIT: Final = 1 << 33
_ZERO_DEVICE: Final = b"0000000\0"
_XATTR: Final = b"SCHILY.xattr."


def padding(size: int) -> bytes:
    """Return the zeros between `size` bytes of data and the next header."""
    return bytes(-size % BLOCK)


def encode_header(
    name: bytes,
    kind: bytes,
    *,
    mode: int,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime: int = 0,
    target: bytes = b"",
    device: tuple[int, int] | None = None,
    xattrs: Mapping[bytes, bytes] | None = None,
) -> bytes:
    """Return an entry's header blocks. `mtime` is in seconds; a directory's name ends with a slash."""
    records: dict[bytes, bytes] = {}
    prefix = b""
    if len(name) > _NAME_SIZE or not name.isascii():
        split = _split(name)
        if split is None or _is_foreign_text(name):
            records[b"path"] = name
        else:
            prefix, name = split
    if len(target) > _NAME_SIZE or _is_foreign_text(target):
        records[b"linkpath"] = target
    if uid >= _ID_LIMIT:
        records[b"uid"] = b"%d" % uid
        uid = 0
    if gid >= _ID_LIMIT:
        records[b"gid"] = b"%d" % gid
        gid = 0
    if size >= _SIZE_LIMIT:
        records[b"size"] = b"%d" % size
        size = 0
    if not 0 <= mtime < _SIZE_LIMIT:
        records[b"mtime"] = b"%d" % mtime
        mtime = 0
    if xattrs:
        for key, value in xattrs.items():
            # Escaped as GNU tar does: a key ends at the first "=".
            records[_XATTR + key.replace(b"%", b"%25").replace(b"=", b"%3D")] = value
    major = minor = _ZERO_DEVICE
    if device is not None:
        major, minor = b"%07o\0" % device[0], b"%07o\0" % device[1]
    block = _block(name, kind, mode, uid, gid, size, mtime, target, major, minor, prefix)
    return _pax(name, records) + block if records else block


def _block(
    name: bytes, kind: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, target: bytes, major: bytes,
    minor: bytes, prefix: bytes,
) -> bytes:  # fmt: skip
    block = _HEADER.pack(
        name, b"%07o\0" % mode, b"%07o\0" % uid, b"%07o\0" % gid, b"%011o\0" % size, b"%011o\0" % mtime, _NO_SUM, kind,
        target, _MAGIC, b"", b"", major, minor, prefix,
    )  # fmt: skip
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _pax(name: bytes, records: Mapping[bytes, bytes]) -> bytes:
    data = b"".join(_record(key, records[key]) for key in sorted(records))
    # The name is for tars that don't know pax headers and extract them as files.
    shown = b"PaxHeaders.0/" + name.rstrip(b"/").rpartition(b"/")[2]
    block = _block(
        shown[:_NAME_SIZE], _PAX, 0o644, 0, 0, len(data), 0, b"", _ZERO_DEVICE, _ZERO_DEVICE, b""
    )  # fmt: skip
    return block + data + padding(len(data))


def _record(key: bytes, value: bytes) -> bytes:
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """Cut a name into ustar's prefix and name; None if it doesn't fit."""
    if len(name) <= _NAME_SIZE:
        return b"", name
    if len(name) > _PREFIX_SIZE + 1 + _NAME_SIZE:
        return None
    at = name.rfind(b"/", 0, _PREFIX_SIZE + 1)
    if at <= 0 or len(name) - at - 1 > _NAME_SIZE or at + 1 == len(name):
        return None
    return name[:at], name[at + 1 :]


def _is_foreign_text(name: bytes) -> bool:
    """Tell whether it is UTF-8 beyond ASCII, which only a pax header may hold; other bytes fit nowhere better."""
    if name.isascii():
        return False
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
