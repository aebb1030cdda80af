"""A log's files: the one that conmon writes, and older ones with numbers, compressed or not.

They are `LOG`, `LOG.1` (the one before), `LOG.2.gz` and so on. Only their owner may `shift` and `compress` them, one
after the other; readers come at any time. All of it blocks.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, cast

log = logging.getLogger(__name__)

COMPRESSED: Final = ".gz"
PIECE: Final = 1 << 20
_LEVEL: Final = 2  # of ISA-L's 0 to 3
_GZIP: Final = 31  # zlib's window bits that mean "gzip"


def numbered(path: Path, number: int) -> Path:
    """The name of an older file of a log, before it is compressed."""
    return path.with_name(f"{path.name}.{number}")


def find(path: Path, number: int) -> Path | None:
    """An older file as it is now. While it is being compressed it is there in both forms, and this is the plain one."""
    plain = numbered(path, number)
    return next((file for file in (plain, _packed(plain)) if file.exists()), None)


def files_of(path: Path) -> list[Path]:
    """All files of a log, oldest first; the current one is always among them."""
    found = [path]
    while (older := find(path, len(found))) is not None:
        found.append(older)
    return found[::-1]


def shift(path: Path, files: int) -> None:
    """Number a full log and those before it anew; the oldest goes. Raises OSError."""
    if files < 2:
        return  # conmon replaces it
    oldest = numbered(path, files - 1)
    for file in (oldest, _packed(oldest)):
        file.unlink(missing_ok=True)
    for number in range(files - 2, 0, -1):
        older, new = numbered(path, number), numbered(path, number + 1)
        for before, after in ((older, new), (_packed(older), _packed(new))):
            with contextlib.suppress(FileNotFoundError):
                os.rename(before, after)
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, numbered(path, 1))


def compress(path: Path) -> None:
    """Compress those older files that aren't yet. Killed at any moment it leaves each whole in one form at least."""
    number = 1
    while (older := find(path, number)) is not None:
        if older.suffix != COMPRESSED:
            _compress(older)
        number += 1


def open_file(path: str) -> tuple[int, bool]:
    """Open a log's file, compressed meanwhile or not; True if the descriptor is of a copy. Raises OSError.

    A copy is made because readers go to and fro; nobody else sees it, and it goes with the descriptor.
    """
    if not path.endswith(COMPRESSED):
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC), False
        except FileNotFoundError:
            path += COMPRESSED
    with open(path, "rb") as file:
        copy = os.open(os.path.dirname(path), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            for piece in _pieces(file.fileno(), path):
                _write(copy, piece)
            os.lseek(copy, 0, os.SEEK_SET)
        except BaseException:
            os.close(copy)
            raise
    return copy, True


def head_of(path: Path, size: int) -> bytes:
    """The first bytes of a log's file, whatever its form. Raises OSError."""
    with path.open("rb") as file:
        if path.suffix != COMPRESSED:
            return file.read(size)
        return next(iter(_pieces(file.fileno(), str(path))), b"")[:size]


def _packed(path: Path) -> Path:
    return path.with_name(path.name + COMPRESSED)


def _compress(path: Path) -> None:
    from isal import isal_zlib  # where logs aren't compressed it would be in memory for nothing

    packed, new = _packed(path), path.with_name(f"{path.name}.new")
    stream = isal_zlib.compressobj(_LEVEL, wbits=_GZIP)
    with path.open("rb") as source:
        target = os.open(new, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with open(target, "wb", buffering=0) as file:
            os.fchmod(target, os.fstat(source.fileno()).st_mode & 0o777)
            while piece := source.read(PIECE):
                _write(target, stream.compress(piece))
            _write(target, stream.flush())
            os.fdatasync(file.fileno())
    os.replace(new, packed)
    path.unlink(missing_ok=True)


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _pieces(fd: int, name: str) -> Iterator[bytes]:
    """Inflate a file; what a damaged one still gives."""
    from isal import isal_zlib  # as above

    damage = cast(type[Exception], isal_zlib.error)
    stream = isal_zlib.decompressobj(wbits=_GZIP)
    try:
        while not stream.eof:
            data = stream.unconsumed_tail or os.read(fd, PIECE)
            if not data:
                log.warning("%s ends in the middle", name)
                return
            yield stream.decompress(data, PIECE)
    except damage as error:
        log.warning("%s is damaged: %s", name, error)
