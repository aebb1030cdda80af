"""A build's context on its way to the engine: a folder as a tar, less what its ignore file keeps out."""

from __future__ import annotations

import io
import os
import stat
import tarfile

from scow.build.ignore import BadPattern, Ignore, read_patterns, with_build_files
from scow.cli.archives import BLOCK, PIECE, pack_file, pack_header
from scow.cli.errors import CliError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

DOCKERFILE = "Dockerfile"
MAGICS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")


class Packed:
    """What is sent: the pieces of a tar, and the name of the Dockerfile in it (empty: as the flag says)."""

    def __init__(self, pieces: Iterator[bytes], dockerfile: str) -> None:
        self.pieces = pieces
        self.dockerfile = dockerfile


def pack_dockerfile(text: bytes) -> Packed:
    """A context that is a Dockerfile alone."""
    return Packed(iter([_member(DOCKERFILE, text), bytes(2 * BLOCK)]), DOCKERFILE)


def read_stream(source: BinaryIO) -> Packed:
    """What comes through standard input: a tar in any compression as it is, else a Dockerfile."""
    head = source.read(BLOCK)
    if head.startswith(MAGICS) or head[257:262] == b"ustar":
        return Packed(_rest(head, source), "")
    return pack_dockerfile(head + source.read())


def _rest(head: bytes, source: BinaryIO) -> Iterator[bytes]:
    yield head
    while data := source.read(PIECE):
        yield data


def pack_folder(folder: str, dockerfile: str, text: bytes | None) -> Packed:
    """A folder; `text` is a Dockerfile that came through standard input. Raises CliError."""
    if not os.path.isdir(folder):
        raise CliError(f'unable to prepare context: path "{folder}" not found')
    top = os.path.realpath(folder)
    name = dockerfile or DOCKERFILE
    if text is None:
        path = dockerfile or os.path.join(folder, DOCKERFILE)
        if not dockerfile and not os.path.exists(path) and os.path.exists(os.path.join(folder, "dockerfile")):
            path = os.path.join(folder, "dockerfile")
        real = os.path.realpath(path)
        if not os.path.isfile(real):
            raise CliError(
                "unable to prepare context: unable to evaluate symlinks in Dockerfile path: "
                f"lstat {os.path.abspath(path)}: no such file or directory"
            )
        inside = os.path.relpath(os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path)), top)
        if inside.startswith("../"):
            with open(real, "rb") as file:
                text = file.read()
        name = inside
    ignore = _ignore(top, dockerfile)
    extra = b""
    if text is not None:
        name = f".dockerfile.{os.urandom(10).hex()}"
        extra = _member(name, text)
    try:
        kept = Ignore(with_build_files(ignore, name, ".dockerignore"))
    except BadPattern as error:
        raise CliError(f"error checking context: {error}") from None
    return Packed(_folder(top, kept, extra), name)


def pack_tree(folder: str, *, obey_ignore_file: bool) -> Iterator[bytes]:
    """A folder that is no build context of its own: what goes along with one. Raises CliError."""
    if not os.path.isdir(folder):
        raise CliError(f"{folder!r} is no folder")
    top = os.path.realpath(folder)
    try:
        ignore = Ignore(_ignore(top, "") if obey_ignore_file else [])
    except BadPattern as error:
        raise CliError(f"error checking context: {error}") from None
    return _folder(top, ignore, b"")


def _ignore(top: str, dockerfile: str) -> list[str]:
    """The patterns of the Dockerfile's own ignore file, else of the folder's."""
    own = [f"{dockerfile}.dockerignore"] if dockerfile and dockerfile != "-" else []
    for path in [*own, os.path.join(top, ".dockerignore")]:
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                return read_patterns(file.read())
        except FileNotFoundError:
            continue
    return []


def _folder(top: str, ignore: Ignore, extra: bytes) -> Iterator[bytes]:
    links: dict[tuple[int, int], str] = {}
    held: list[bytes] = []
    pending = [(os.path.join(top, name), name) for name in sorted(os.listdir(top), reverse=True)]
    while pending:
        path, inside = pending.pop()
        try:
            info = os.lstat(path)
        except FileNotFoundError:
            continue
        if stat.S_ISDIR(info.st_mode):
            if ignore.prunes(inside):
                continue
            pending += [
                (os.path.join(path, name), f"{inside}/{name}") for name in sorted(os.listdir(path), reverse=True)
            ]
        if ignore.excludes(inside) or stat.S_ISSOCK(info.st_mode):
            continue
        entry = tarfile.TarInfo(inside)
        entry.mode, entry.mtime = stat.S_IMODE(info.st_mode), int(info.st_mtime)  # owners stay at home: 0
        if stat.S_ISDIR(info.st_mode):
            entry.type = tarfile.DIRTYPE
        elif stat.S_ISLNK(info.st_mode):
            entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(path)
        elif not stat.S_ISREG(info.st_mode):
            entry.type = tarfile.FIFOTYPE if stat.S_ISFIFO(info.st_mode) else tarfile.CHRTYPE
            if not stat.S_ISFIFO(info.st_mode):
                continue
        elif info.st_nlink > 1 and (info.st_dev, info.st_ino) in links:
            entry.type, entry.linkname = tarfile.LNKTYPE, links[info.st_dev, info.st_ino]
        else:
            links[info.st_dev, info.st_ino] = inside
            for piece in pack_file(path, entry):
                held.append(piece)
                if len(held) > 256 or len(piece) > BLOCK * 64:  # small files together: each chunk is a system call
                    yield b"".join(held)
                    held.clear()
            continue
        held.append(pack_header(entry))
    yield b"".join([*held, extra, bytes(2 * BLOCK)])


def _member(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o600
    buffer.write(entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
    buffer.write(data)
    buffer.write(bytes(-len(data) % BLOCK))
    return buffer.getvalue()
