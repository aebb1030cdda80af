"""Inflating and deflating layers: gzip by ISA-L, zstd by its library; bounded memory, several members or frames.

xz and bzip2, in which archives come now and then, are only inflated, by the standard library.
"""

import os
import struct
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from typing import IO, Final, cast

from isal import isal_zlib

from scow.oci.media_types import Compression
from scow.store.tree import LayerCorrupt

PIECE: Final = 1 << 20  # bytes that come out at once, at most
ZSTD_WINDOW_LIMIT: Final = 1 << 27  # as the zstd tool: 128 MiB
GZIP_LEVEL: Final = 1
BLOCK: Final = 1 << 20  # bytes that are compressed by themselves; part of what makes a layer's blob what it is
DICTIONARY: Final = 1 << 15
ZSTD_LEVEL: Final = 3
LEVELS: Final = {Compression.GZIP: range(10), Compression.ZSTD: range(1, 23)}
XZ_MEMORY_LIMIT: Final = 256 << 20  # bytes; `xz -9` needs 65 MiB

_BZIP2_BLOCK: Final = b"1AY&SY"
_BZIP2_END: Final = b"\x17rE8P\x90"

_DAMAGE: Final[tuple[type[Exception], ...]] = (cast(type[Exception], isal_zlib.error), zlib.error)
_GZIP_HEADER: Final = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # neither time nor name, system unknown
_LAST_BLOCK: Final = b"\x03\0"
_RAW: Final = -15  # zlib's window bits that mean "no wrapper"
_GZIP_WRAPPER: Final = 31  # zlib's window bits that mean "gzip"


def sniff(head: bytes) -> Compression:
    """Tell the compression by the first bytes."""
    if head[:2] == b"\x1f\x8b":
        return Compression.GZIP
    if head[:4] == b"\x28\xb5\x2f\xfd" or (head[1:4] == b"\x2a\x4d\x18" and head[:1] and head[0] & 0xF0 == 0x50):
        return Compression.ZSTD
    if head[:6] == b"\xfd7zXZ\0":
        return Compression.XZ
    if head[:3] == b"BZh" and head[4:10] in (_BZIP2_BLOCK, _BZIP2_END):
        return Compression.BZIP2
    return Compression.NONE


def inflate(chunks: Iterable[bytes], compression: Compression, limit: int) -> Iterator[bytes]:
    """Yield what `chunks` inflate to, in pieces of up to PIECE bytes. Raises LayerCorrupt, also beyond `limit`."""
    total = 0
    pieces: Iterable[bytes] = chunks
    match compression:
        case Compression.GZIP:
            pieces = _gunzip(chunks)
        case Compression.ZSTD:
            pieces = _unzstd(chunks)
        case Compression.XZ | Compression.BZIP2:
            pieces = _by_library(chunks, compression)
    for piece in pieces:
        total += len(piece)
        if total > limit:
            raise LayerCorrupt(f"it inflates to more than {limit} bytes, the limit")
        yield piece


def _gunzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """RFC 1952: any number of members; zeros after the last one are padding, as gzip takes them."""
    member = None
    padding = False
    some = False
    for data in chunks:
        while data:
            if member is None:
                if some:
                    data = data.lstrip(b"\0") if padding or data[0] == 0 else data
                    if not data:
                        padding = True
                        break
                    if padding:
                        raise LayerCorrupt("garbage after the gzip stream")
                member = isal_zlib.decompressobj(_GZIP_WRAPPER)
            try:
                piece = member.decompress(data, PIECE)
            except _DAMAGE as error:
                raise LayerCorrupt(f"damaged gzip: {error}") from None
            if piece:
                yield piece
            if member.eof:
                data = member.unused_data
                member = None
                some = True
            else:
                data = member.unconsumed_tail
                # Output that is held back only because of the limit comes with the next input or by flushing.
                if not data and len(piece) == PIECE:
                    while piece := member.decompress(b"", PIECE):
                        yield piece
    if member is not None or not some:
        raise LayerCorrupt("the gzip stream is truncated")


def _by_library(chunks: Iterable[bytes], compression: Compression) -> Iterator[bytes]:
    """Any number of xz or bzip2 streams; zeros after an xz stream are padding."""
    import bz2  # only where they are needed, as zstandard
    import lzma

    def decoder() -> "lzma.LZMADecompressor | bz2.BZ2Decompressor":
        if compression is Compression.XZ:
            return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_LIMIT)
        return bz2.BZ2Decompressor()

    stream = decoder()
    started = False
    for chunk in chunks:
        data = chunk
        while data or not stream.needs_input:
            if stream.eof:
                data = (stream.unused_data or data).lstrip(b"\0")
                if not data:
                    break
                stream, started = decoder(), False
            try:
                piece = stream.decompress(data, PIECE)
            except (OSError, EOFError, lzma.LZMAError) as error:
                raise LayerCorrupt(f"damaged {compression}: {error}") from None
            started = True
            data = stream.unused_data if stream.eof else b""
            if piece:
                yield piece
            if stream.eof and not data:
                break
    if not stream.eof or not started:
        raise LayerCorrupt(f"the {compression} stream is truncated")


class _Chunks:
    """What zstandard reads from: `read` gives the next chunk, whatever size was asked for is an upper bound."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""

    def read(self, size: int) -> bytes:
        data = self._rest or next(self._chunks, b"")
        self._rest = data[size:]
        return data[:size]


def _unzstd(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """RFC 8878: any number of frames."""
    import zstandard  # only where it is needed: it would double an idle worker

    watch = _ZstdFrames()
    decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_LIMIT)
    source = cast(IO[bytes], _Chunks(watch.passing(chunks)))  # of a file it only calls read
    with decompressor.stream_reader(source, read_size=1 << 18, read_across_frames=True) as reader:
        while True:
            try:
                piece = reader.read(PIECE)
            except zstandard.ZstdError as error:
                raise LayerCorrupt(f"damaged zstd: {error}") from None
            if not piece:
                break
            yield piece
    watch.finish()


class _ZstdFrames:
    """Follows frames and blocks as they pass, for the library doesn't say that a stream ended inside a frame."""

    def __init__(self) -> None:
        self._buffer = b""
        self._skip = 0
        self._state = "frame"
        self._checksum = 0
        self._any = False

    def passing(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._feed(chunk)
            yield chunk

    def finish(self) -> None:
        if self._buffer or self._skip or self._state != "frame" or not self._any:
            raise LayerCorrupt("the zstd stream is truncated")

    def _feed(self, chunk: bytes) -> None:
        data = self._buffer + chunk
        at = 0
        while True:
            if self._skip:
                step = min(self._skip, len(data) - at)
                at += step
                self._skip -= step
                if self._skip:
                    break
            if self._state == "frame":
                if len(data) - at < 8:
                    break
                if data[at + 1 : at + 4] == b"\x2a\x4d\x18":
                    self._skip = int.from_bytes(data[at + 4 : at + 8], "little")
                    at += 8
                else:
                    flags = data[at + 4]
                    single = flags >> 5 & 1
                    content = (single, 2, 4, 8)[flags >> 6]
                    self._checksum = 4 * (flags >> 2 & 1)
                    self._skip = 5 + (1 - single) + (0, 1, 2, 4)[flags & 3] + content
                    self._state = "block"
                self._any = True
            else:
                if len(data) - at < 3:
                    break
                head = int.from_bytes(data[at : at + 3], "little")
                size = 1 if head >> 1 & 3 == 1 else head >> 3
                self._skip = 3 + size
                if head & 1:
                    self._skip += self._checksum
                    self._state = "frame"
        self._buffer = data[at:]


def deflate(chunks: Iterable[bytes], compression: Compression, level: int | None = None) -> Iterator[bytes]:
    """Yield `chunks` compressed; the same bytes for the same content, whenever and on whatever machine.

    `level` is the format's own, see LEVELS; None: a quick one.
    """
    if compression is Compression.NONE:
        yield from chunks
        return
    if compression is Compression.ZSTD:
        import zstandard  # as above

        # With threads the bytes depend on the library's block size, but not on how many threads there are.
        stream = zstandard.ZstdCompressor(
            level=ZSTD_LEVEL if level is None else level, write_checksum=True, threads=_threads()
        ).compressobj()
        for chunk in chunks:
            yield stream.compress(chunk)
        yield stream.flush()
        return
    yield from _gzip(chunks, level)


def _gzip(chunks: Iterable[bytes], level: int | None) -> Iterator[bytes]:
    """RFC 1952, one member: blocks of a fixed size are compressed beside each other, each with the end of the one
    before as its dictionary, and end on a byte boundary. How many threads there are doesn't show in the bytes."""
    from concurrent.futures import Future, ThreadPoolExecutor  # only where it is needed: it brings logging with it

    checksum = size = 0
    pending: deque[Future[tuple[bytes, int, int]]] = deque()
    threads = _threads()
    yield _GZIP_HEADER
    with ThreadPoolExecutor(threads) as pool:
        before = b""
        for block in _blocks(chunks):
            pending.append(pool.submit(_deflate_block, block, before, level))
            before = block[-DICTIONARY:]
            if len(pending) > 2 * threads:
                data, found, length = pending.popleft().result()
                checksum, size = isal_zlib.crc32_combine(checksum, found, length), size + length
                yield data
        while pending:
            data, found, length = pending.popleft().result()
            checksum, size = isal_zlib.crc32_combine(checksum, found, length), size + length
            yield data
    yield _LAST_BLOCK + struct.pack("<II", checksum, size & 0xFFFFFFFF)


def _deflate_block(block: bytes, before: bytes, level: int | None) -> tuple[bytes, int, int]:
    if level is not None:  # ISA-L has no more than three
        by_zlib = zlib.compressobj(level, zlib.DEFLATED, _RAW, zdict=before)
        data = by_zlib.compress(block) + by_zlib.flush(zlib.Z_SYNC_FLUSH)
        return data, isal_zlib.crc32(block), len(block)
    if before:
        deflater = isal_zlib.compressobj(GZIP_LEVEL, isal_zlib.DEFLATED, _RAW, zdict=before)
    else:
        deflater = isal_zlib.compressobj(GZIP_LEVEL, isal_zlib.DEFLATED, _RAW)
    data = deflater.compress(block) + deflater.flush(isal_zlib.Z_SYNC_FLUSH)
    return data, isal_zlib.crc32(block), len(block)


def _blocks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of BLOCK, however they come."""
    rest = b""
    for chunk in chunks:
        if not rest and len(chunk) == BLOCK:
            yield chunk
            continue
        rest += chunk
        while len(rest) >= BLOCK:
            yield rest[:BLOCK]
            rest = rest[BLOCK:]
    if rest:
        yield rest


def _threads() -> int:
    return max(1, len(os.sched_getaffinity(0)))
