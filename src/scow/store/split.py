"""Taking an image archive apart, in a worker: one pass over a tar, compressed or not, as it arrives.

Every file of the tar becomes a numbered file in the job's directory, hashed as it is written; its name is only noted,
so that nothing hostile in a name or link can be reached through it. Files that are named by the digest of something
that the store has are passed over. What the names and links mean is for the reader of the list (intake.py) to say.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Final

from scow.oci.media_types import Compression
from scow.store.compression import inflate, sniff
from scow.store.ingest import READ_SIZE, Job, OutputFile, Stage
from scow.store.tarstream import BLOCK, EXTENSION_LIMIT, SIZE_LIMIT, parse_number, parse_pax
from scow.store.tree import LayerCorrupt, shown

MEMBER_LIMIT: Final = 100_000
LIST: Final = "members.json"
STAGED_FROM: Final = 1 << 20  # bytes of a file from which it is worth a thread of its own

_ZERO: Final = bytes(BLOCK)
_BLOBS: Final = b"blobs/sha256/"


class ArchiveCorrupt(Exception):
    """The archive is no archive, damaged, or asks for something that has no place in one."""


class _Bytes:
    """The archive's bytes, inflated: taken in the amounts that are asked for."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")
        self.position = 0

    def some(self, limit: int) -> memoryview:
        """Up to `limit` bytes, none at the end."""
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
        piece, self._rest = self._rest[:limit], self._rest[limit:]
        self.position += len(piece)
        return piece

    def exactly(self, size: int) -> bytes:
        """As many bytes, less only at the end."""
        parts = []
        while size:
            piece = self.some(size)
            if not piece:
                break
            parts.append(piece)
            size -= len(piece)
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    def drain(self) -> None:
        """Read to the end: what compressed it checks its sums there, and the sender is not cut off."""
        self._rest = memoryview(b"")
        for _ in self._pieces:
            pass


class Split:
    """One archive on its way in. The job: `directory`; `known`: a file of hexadecimal digests, one in a line, that need
    not be written; `limit`: of bytes inflated."""

    def __init__(self, job: Job, source: int) -> None:
        self._directory: str = job["directory"]
        self._limit: int = job["limit"]
        self._source = source
        with open(job["known"], "rb") as file:
            self._known = frozenset(file.read().split())
        self._members: list[Job] = []

    def run(self, finished: Callable[[], None]) -> Job:
        """Read everything and leave the list of members beside the files. Raises ArchiveCorrupt, OSError."""
        try:
            self._run(finished)
        except LayerCorrupt as error:
            raise ArchiveCorrupt(error.reason) from error
        import json  # a worker that only takes layers needs none

        with open(f"{self._directory}/{LIST}", "w", encoding="ascii") as file:
            json.dump(self._members, file)
        return {}

    def _run(self, finished: Callable[[], None]) -> None:
        head = b""
        while len(head) < BLOCK and (piece := os.read(self._source, READ_SIZE)):
            head += piece
        if not head:
            finished()
            raise ArchiveCorrupt("it is empty")

        def arriving() -> Iterator[bytes]:
            yield head
            while data := os.read(self._source, READ_SIZE):
                yield data
            finished()

        compression = sniff(head)
        if compression is Compression.NONE:
            self._read(_Bytes(inflate(arriving(), compression, self._limit)))
            return
        # Inflating beside hashing and writing, which let go of the GIL as it does.
        stage: Stage[bytes] = Stage(lambda pieces: self._read(_Bytes(pieces)))
        failure: BaseException | None = None
        try:
            for piece in inflate(arriving(), compression, self._limit):
                stage.put(piece)
                if stage.error is not None:
                    break
        except BaseException as error:
            failure = error  # the other side may only have missed what didn't come
        try:
            stage.join()
        except Exception as error:
            failure = failure or error
        if failure is not None:
            raise failure

    def _read(self, data: _Bytes) -> None:
        records: dict[bytes, bytes] = {}
        name = target = b""
        while True:
            header = data.exactly(BLOCK)
            if not header or header == _ZERO:
                break
            kind, size = self._header(header, data.position)
            if kind in b"xgLK":
                if size > EXTENSION_LIMIT:
                    raise ArchiveCorrupt(f"an extended header of {size} bytes")
                text = data.exactly(size)
                if len(text) < size:
                    raise ArchiveCorrupt("it is truncated")
                self._skip(data, -size % BLOCK)
                if kind == b"L":
                    name = text.partition(b"\0")[0]
                elif kind == b"K":
                    target = text.partition(b"\0")[0]
                elif kind == b"x":
                    records = parse_pax(text)
                continue
            if b"size" in records:
                size = _decimal(records[b"size"])
            name = records.get(b"path") or name or _name(header)
            target = records.get(b"linkpath") or target or header[157:257].partition(b"\0")[0]
            self._member(data, kind, name, target, size)
            records, name, target = {}, b"", b""
        data.drain()

    def _header(self, header: bytes, position: int) -> tuple[bytes, int]:
        said = -1
        if len(header) == BLOCK:
            with contextlib.suppress(LayerCorrupt):
                said = parse_number(header[148:156])
        if sum(header[:148]) + 8 * 32 + sum(header[156:]) != said:
            if position <= BLOCK:
                raise ArchiveCorrupt("it is not a tar, nor one compressed by gzip, zstd, xz or bzip2")
            raise ArchiveCorrupt("it is truncated" if len(header) < BLOCK else f"no tar header before byte {position}")
        size = parse_number(header[124:136])
        if not 0 <= size <= SIZE_LIMIT:
            raise ArchiveCorrupt(f"a size of {size} before byte {position}")
        return header[156:157], size

    def _member(self, data: _Bytes, kind: bytes, name: bytes, target: bytes, size: int) -> None:
        if len(self._members) >= MEMBER_LIMIT:
            raise ArchiveCorrupt(f"it has more than {MEMBER_LIMIT} files")
        try:
            member: Job = {"name": name.decode(), "target": target.decode() if kind in b"12" else ""}
        except UnicodeDecodeError:
            raise ArchiveCorrupt(f"a name that isn't UTF-8: {shown(name)}") from None
        if kind in b"0\x007" and not name.endswith(b"/"):
            member |= self._file(data, name, size)
        elif kind in b"12":
            member["kind"] = "hard link" if kind == b"1" else "symlink"
        elif kind == b"5" or kind in b"0\x007":
            return
        else:
            raise ArchiveCorrupt(f"{shown(name)} is neither file, directory nor link")
        self._members.append(member)

    def _file(self, data: _Bytes, name: bytes, size: int) -> Job:
        digits = name.removeprefix(b"./").removeprefix(_BLOBS)
        if digits in self._known and name.removeprefix(b"./").startswith(_BLOBS):
            self._skip(data, size + -size % BLOCK)
            return {"kind": "known", "size": size, "digest": f"sha256:{digits.decode()}"}
        number = len(self._members)
        out = OutputFile(f"{self._directory}/{number}", "sha256")
        try:
            if size < STAGED_FROM:
                _copy(data, size, out.write)
            else:
                stage: Stage[bytes] = Stage(lambda pieces: _write_all(pieces, out))
                try:
                    _copy(data, size, stage.put)
                finally:
                    stage.join()
            self._skip(data, -size % BLOCK)
            return {"kind": "file", "size": size, "digest": out.digest, "number": number}
        finally:
            out.close()

    def _skip(self, data: _Bytes, size: int) -> None:
        while size:
            piece = data.some(size)
            if not piece:
                raise ArchiveCorrupt("it is truncated")
            size -= len(piece)


def _copy(data: _Bytes, size: int, take: Callable[[bytes], None]) -> None:
    while size:
        piece = data.some(size)
        if not piece:
            raise ArchiveCorrupt("it is truncated")
        take(piece)  # type: ignore[arg-type]  # whatever takes bytes here takes a view of them
        size -= len(piece)


def _write_all(pieces: Iterator[bytes], out: OutputFile) -> None:
    for piece in pieces:
        out.write(piece)


def _name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0]
    return prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name


def _decimal(text: bytes) -> int:
    if not text.isdigit() or int(text) > SIZE_LIMIT:
        raise ArchiveCorrupt(f"not a size: {shown(text[:40])}")
    return int(text)
