"""What is compressed here inflates with everybody's tools, and is the same bytes whoever compresses it."""

import gzip
import random
import subprocess
import zlib
from collections.abc import Iterator

import pytest
import zstandard

from scow.oci.media_types import Compression
from scow.store import compression
from scow.store.compression import BLOCK, deflate, inflate

SIZES = (0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 12345)


def data_of(size: int) -> bytes:
    """Bytes that compress somewhat, and differ from block to block."""
    words = random.Random(7)
    return b"".join(b"%06x words " % words.getrandbits(24) for _ in range(size // 13 + 1))[:size]


def chunks(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.mark.parametrize("size", SIZES)
def test_gzip_is_one_member_that_all_inflate(size: int) -> None:
    data = data_of(size)
    packed = b"".join(deflate(chunks(data, 1 << 20), Compression.GZIP))
    assert gzip.decompress(packed) == data
    inflater = zlib.decompressobj(31)
    assert inflater.decompress(packed) == data
    assert inflater.eof
    assert inflater.unused_data == b""
    assert subprocess.run(["gzip", "-dc"], input=packed, capture_output=True, check=True).stdout == data
    assert b"".join(inflate([packed], Compression.GZIP, 1 << 30)) == data
    assert len(packed) < len(data) * 0.7 + 40


def test_zstd_says_its_size_in_no_thread_dependent_way() -> None:
    data = data_of(3 * BLOCK)
    packed = b"".join(deflate(chunks(data, 1 << 20), Compression.ZSTD))
    assert zstandard.ZstdDecompressor().decompressobj().decompress(packed) == data


@pytest.mark.parametrize("kind", [Compression.GZIP, Compression.ZSTD])
@pytest.mark.parametrize("size", SIZES)
def test_the_bytes_depend_neither_on_threads_nor_on_how_the_input_comes(
    kind: Compression, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_of(size)
    packed = set()
    for threads, step in ((1, 1 << 20), (2, 1 << 20), (5, 1 << 20), (2, 77_777)):
        monkeypatch.setattr(compression, "_threads", lambda threads=threads: threads)
        packed.add(b"".join(deflate(chunks(data, step), kind)))
    assert len(packed) == 1


def test_an_error_of_the_source_comes_out_and_nothing_hangs() -> None:
    def broken() -> Iterator[bytes]:
        yield bytes(3 * BLOCK)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(deflate(broken(), Compression.GZIP))


@pytest.mark.parametrize(("compression", "levels"), [(Compression.GZIP, (0, 1, 9)), (Compression.ZSTD, (1, 19))])
def test_levels_give_other_bytes_of_the_same_content(compression: Compression, levels: tuple[int, ...]) -> None:
    data = bytes(range(256)) * 12_000
    made = {level: b"".join(deflate([data], compression, level)) for level in levels}
    assert len(set(made.values())) == len(levels)
    assert all(b"".join(inflate([each], compression, 1 << 30)) == data for each in made.values())
