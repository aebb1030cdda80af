"""Build contexts as they come in."""

import asyncio
import bz2
import gzip
import io
import lzma
import os
import tarfile
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import pytest
import zstandard

from scow.build.context import SMALL, Context, receive
from scow.build.trees import ContextRefused


def packed(*entries: tuple[str, bytes], links: Iterable[tuple[str, str]] = ()) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for name, target in links:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return buffer.getvalue()


async def _pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def received(data: bytes, folder: Path, name: str, size: int = 1 << 16) -> bytes | None:
    async def run() -> bytes | None:
        context = await receive(_pieces(data, size), folder)
        try:
            return context.read(name)
        finally:
            await context.aclose()

    return asyncio.run(run())


@pytest.mark.parametrize(
    "compress", [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.compress], ids=lambda each: each.__name__
)
def test_every_compression_is_taken(compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    data = packed(("Dockerfile", b"FROM x\n"), ("large", bytes(2 * SMALL)))
    assert received(compress(data), tmp_path / "c", "Dockerfile") == b"FROM x\n"
    assert not (tmp_path / "c").exists()


def test_a_large_context_comes_through_a_pipe(tmp_path: Path) -> None:
    data = packed(("large", bytes(range(256)) * (SMALL // 64)), ("last", b"end"))
    assert received(data, tmp_path / "c", "last") == b"end"


def test_files_are_read_through_symlinks_inside_only(tmp_path: Path) -> None:
    data = packed(("real", b"x"), links=[("in", "./real"), ("out", "/etc/passwd"), ("up", "../../real")])
    assert received(data, tmp_path / "1", "in") == b"x"
    assert received(data, tmp_path / "2", "up") == b"x"  # the root's parent is the root
    assert received(data, tmp_path / "3", "out") is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (packed(("../../etc/cron.d/x", b"")), "leads out"),
        (packed(("a/.wh.b", b"")), "names that begin with .wh."),
        (b"no tar at all" * 100, "no tar header"),
        (packed(("x", bytes(4096)))[:1024], "truncated"),
        (gzip.compress(packed(("x", b"1")))[:-12], "invalid build context"),
        (packed(("x", b"1"))[:512].replace(b"ustar", b"rats!") + bytes(512), "no tar header"),
        (packed(("y" * 300 + "/" + "z" * 5000, b"")), "a path of"),
    ],
    ids=["out", "whiteout", "noise", "cut", "cut gzip", "checksum", "long"],
)
def test_what_is_no_context_is_refused_and_leaves_nothing(data: bytes, why: str, tmp_path: Path) -> None:
    with pytest.raises(ContextRefused, match=why):
        received(data, tmp_path / "c", "x")
    assert not (tmp_path / "c").exists()


def test_a_large_refusal_is_told_as_well(tmp_path: Path) -> None:
    data = packed(("large", bytes(3 * SMALL)), ("../x", b""), ("more", bytes(SMALL)))
    with pytest.raises(ContextRefused, match="leads out"):
        received(data, tmp_path / "c", "x")
    assert not (tmp_path / "c").exists()


def test_a_client_that_goes_away_leaves_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        async def broken() -> AsyncIterator[bytes]:
            yield packed(("large", bytes(3 * SMALL)))[: 2 * SMALL]
            raise ConnectionResetError

        with pytest.raises(ConnectionResetError):
            await receive(broken(), tmp_path / "c")

    asyncio.run(run())
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("size", [100, 3 * SMALL])
def test_whenever_a_client_goes_away_nothing_is_left(size: int, tmp_path: Path) -> None:
    data = packed(("Dockerfile", b"x" * size))

    async def run() -> None:
        await _given_up(asyncio.create_task(receive(_pieces(data, 1 << 16), tmp_path / "warm")), 0)
        before = os.listdir("/proc/self/fd")
        for delay_ms in range(12):
            folder = tmp_path / str(delay_ms)
            await _given_up(asyncio.create_task(receive(_pieces(data, 1 << 16), folder)), delay_ms)
            assert not folder.exists()
        assert len(os.listdir("/proc/self/fd")) <= len(before)

    asyncio.run(run())


async def _given_up(receiving: asyncio.Task[Context], delay_ms: int) -> None:
    await asyncio.sleep(delay_ms / 1000)
    receiving.cancel()
    try:
        context = await receiving
    except asyncio.CancelledError:
        return
    await context.aclose()  # it was there before
