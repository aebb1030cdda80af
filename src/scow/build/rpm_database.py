"""The packages in rpm's database of today: SQLite, in each row a header as rpm writes it into its files, too.

The header: two counts, then an index of (tag, type, offset, count), then the data.
https://rpm-software-management.github.io/rpm/manual/format_header.html. Older databases (Berkeley DB, ndb) aren't read.
"""

import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

DATABASES: Final = (b"usr/lib/sysimage/rpm/rpmdb.sqlite", b"var/lib/rpm/rpmdb.sqlite")
_TEXTS: Final = {1000: "name", 1001: "version", 1002: "release", 1011: "vendor", 1014: "license", 1022: "architecture"}
_EPOCH: Final = 1003
_STRINGS: Final = (6, 8, 9)  # types: a string, several, several in several languages
_INT32: Final = 4


class RpmPackage(msgspec.Struct, frozen=True, kw_only=True):
    """What a header says of its package."""

    name: str
    version: str
    release: str = ""
    epoch: str = ""
    architecture: str = ""
    vendor: str = ""
    license: str = ""


def read_packages(file: Path) -> Iterator[RpmPackage]:
    """The packages of a database; none of one that can't be read. Blocks."""
    connection = None
    try:
        # immutable: the file is on a read-only mount, where no journal can be made.
        connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        for (blob,) in connection.execute("SELECT blob FROM Packages"):
            package = decode_header(blob) if isinstance(blob, bytes) else None
            if package is not None and package.name != "gpg-pubkey":
                yield package
    except sqlite3.Error:
        return
    finally:
        if connection is not None:
            connection.close()


def decode_header(blob: bytes) -> RpmPackage | None:
    """Read a header; None if it makes no sense."""
    fields: dict[str, str] = {}
    try:
        entries, size = struct.unpack_from(">II", blob)
        start = 8 + 16 * entries
        if start + size > len(blob):
            return None
        for number in range(entries):
            tag, kind, offset, _ = struct.unpack_from(">IIII", blob, 8 + 16 * number)
            if offset >= size:
                continue
            if tag in _TEXTS and kind in _STRINGS:
                end = blob.index(b"\0", start + offset)
                fields[_TEXTS[tag]] = blob[start + offset : end].decode("utf-8", "replace")
            elif tag == _EPOCH and kind == _INT32:
                fields["epoch"] = str(struct.unpack_from(">I", blob, start + offset)[0])
        return RpmPackage(**fields)
    except (struct.error, ValueError, TypeError):
        return None
