"""Several streams in one: frames of eight bytes of head (stream number, three zeros, length) and data."""

from collections.abc import Sequence
from struct import Struct
from typing import Final

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2
SYSTEM_ERROR: Final = 3

_HEAD: Final = Struct(">BxxxI")


def frame(chunks: Sequence[tuple[int, bytes]]) -> bytes:
    """Frame chunks of (stream number, data) for a container without a terminal."""
    if len(chunks) == 1:
        stream, data = chunks[0]
        return _HEAD.pack(stream, len(data)) + data
    parts: list[bytes] = []
    for stream, data in chunks:
        parts.append(_HEAD.pack(stream, len(data)))
        parts.append(data)
    return b"".join(parts)


def raw(chunks: Sequence[tuple[int, bytes]]) -> bytes:
    """Join chunks for a container whose terminal has made one stream of them already."""
    return chunks[0][1] if len(chunks) == 1 else b"".join(data for _, data in chunks)
