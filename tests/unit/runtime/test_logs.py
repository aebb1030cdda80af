"""conmon's log files, read from any point and as they grow."""

import asyncio
import datetime
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scow.runtime import logs
from scow.runtime.logs import LogLine, parse_time, read_log

START = 1_700_000_000


def stamp(second: int) -> bytes:
    time = datetime.datetime.fromtimestamp(START + second, datetime.UTC)
    return time.strftime("%Y-%m-%dT%H:%M:%S.000000005+00:00").encode()


def at(second: int) -> int:
    return (START + second) * 10**9 + 5


def entry(second: int, text: bytes, stream: str = "stdout", flag: str = "F") -> bytes:
    return stamp(second) + f" {stream} {flag} ".encode() + text + b"\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


async def data_of(path: Path | list[Path], **conditions: object) -> list[bytes]:
    return [line.data async for batch in read_log(path, **conditions) for line in batch]  # type: ignore[arg-type]  # any


def test_times_have_zones() -> None:
    assert parse_time(stamp(0)) == at(0)
    assert parse_time(b"2023-11-15T00:13:20.000000005+02:00") == at(0)
    assert parse_time(b"2023-11-15T00:13:20+02:00") == 0
    assert parse_time(b"") == 0


async def test_lines_have_stream_time_and_newline(path: Path) -> None:
    write(path, entry(1, b"one") + entry(2, b"two", "stderr") + entry(3, b"", flag="F"))
    found = [line async for batch in read_log(path) for line in batch]
    assert found == [LogLine(1, at(1), b"one\n"), LogLine(2, at(2), b"two\n"), LogLine(1, at(3), b"\n")]


@pytest.mark.parametrize("joined", [False, True])
async def test_pieces_of_a_line_come_without_newline(path: Path, joined: bool) -> None:
    write(path, entry(1, b"long ", flag="P") + entry(1, b"line", flag="F") + entry(2, b"cut", flag="P"))
    assert b"".join(await data_of(path, joined=joined)) == b"long line\ncut"


async def test_without_times_a_line_comes_with_its_pieces(path: Path) -> None:
    write(path, entry(1, b"long ", flag="P") + entry(1, b"line") + entry(2, b"cut", flag="P"))
    append(path, entry(2, b"x", "stderr") + entry(2, b"rest") + entry(2, b"end", flag="P"))
    found = [(line.stream, line.data) async for batch in read_log(path, timed=False) for line in batch]
    assert found == [(1, b"long line\n"), (1, b"cut"), (2, b"x\n"), (1, b"rest\n"), (1, b"end")]
    assert await data_of(path, timed=False, stdout=False) == [b"x\n"]


async def test_joined_lines_keep_the_order_of_streams(path: Path) -> None:
    write(path, entry(1, b"a") + entry(1, b"b") + entry(1, b"x", "stderr") + entry(1, b"c"))
    found = [(line.stream, line.data) async for batch in read_log(path, joined=True) for line in batch]
    assert found == [(1, b"a\nb\n"), (2, b"x\n"), (1, b"c\n")]
    assert await data_of(path, joined=True, stdout=False) == [b"x\n"]
    assert await data_of(path, stderr=False) == [b"a\n", b"b\n", b"c\n"]


@pytest.mark.parametrize(
    ("tail", "expected"),
    [(None, [0, 1, 2, 3, 4]), (0, []), (1, [4]), (3, [2, 3, 4]), (5, [0, 1, 2, 3, 4]), (50, [0, 1, 2, 3, 4])],
)
async def test_tail(path: Path, tail: int | None, expected: list[int]) -> None:
    write(path, b"".join(entry(n, str(n).encode()) for n in range(5)))
    assert await data_of(path, tail=tail) == [f"{n}\n".encode() for n in expected]


@given(
    lengths=st.lists(st.integers(0, 300), max_size=60),
    tail=st.integers(0, 70),
    block=st.integers(60, 400),
    split=st.integers(0, 60),
)
def test_tail_of_several_files_is_the_end_of_all_lines(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], tail: int, block: int, split: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    lines = [entry(n, bytes([97 + n % 26]) * length) for n, length in enumerate(lengths)]
    files = [folder / "1", folder / "missing", folder / "2"]
    files[0].write_bytes(b"".join(lines[:split]))
    files[2].write_bytes(b"".join(lines[split:]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "_TAIL_BLOCK", block)
        patch.setattr(logs, "BLOCK", block)
        found = asyncio.run(data_of(files, tail=tail))
    wanted = [line[45:] for line in lines]
    assert found == wanted[max(0, len(wanted) - tail) :]


async def test_pieces_count_with_their_line(path: Path) -> None:
    write(
        path,
        entry(0, b"zero")
        + entry(1, b"o", flag="P")
        + entry(1, b"ne")
        + entry(2, b"t", flag="P")
        + entry(2, b"wo", flag="P"),
    )
    assert b"".join(await data_of(path, tail=2)) == b"one\ntwo"


@pytest.mark.parametrize("block", [100, 1 << 16])
async def test_since_and_until_are_inclusive(path: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_TAIL_BLOCK", block)
    write(path, b"".join(entry(n, str(n).encode()) for n in range(100)))
    assert await data_of(path, since_ns=at(97)) == [b"97\n", b"98\n", b"99\n"]
    assert await data_of(path, until_ns=at(1)) == [b"0\n", b"1\n"]
    assert await data_of(path, since_ns=at(40), until_ns=at(41), joined=True) == [b"40\n", b"41\n"]
    assert await data_of(path, since_ns=at(100)) == []
    assert len(await data_of(path, since_ns=at(-5))) == 100
    assert await data_of(path, since_ns=at(90), tail=3) == [b"97\n", b"98\n", b"99\n"]


async def test_a_line_cut_by_a_crash_is_passed_over(path: Path) -> None:
    write(path, entry(1, b"a") + b"2023-11-1" + b"\n" + entry(2, b"b") + stamp(3) + b" stdout F no end")
    assert await data_of(path) == [b"a\n", b"b\n"]
    assert b"".join(await data_of(path, joined=True)) == b"a\nb\n"


async def test_no_log_has_no_lines(path: Path) -> None:
    assert await data_of(path) == []
    assert await data_of(path, tail=3) == []


async def test_following_gives_what_is_added_until_the_end(path: Path) -> None:
    write(path, entry(1, b"one"))
    ended = asyncio.Event()
    lines = read_log(path, follow=ended)
    assert [line.data for line in await anext(lines)] == [b"one\n"]
    waiting = asyncio.ensure_future(anext(lines))
    append(path, entry(2, b"two"))
    assert [line.data for line in await waiting] == [b"two\n"]
    append(path, entry(3, b"three"))
    ended.set()
    assert [line.data async for batch in lines for line in batch] == [b"three\n"]


async def test_following_waits_for_a_log_that_is_not_there_yet(path: Path) -> None:
    ended = asyncio.Event()
    lines = read_log(path, follow=ended)
    waiting = asyncio.ensure_future(anext(lines))
    await asyncio.sleep(0)
    write(path, entry(1, b"one"))
    assert [line.data for line in await waiting] == [b"one\n"]
    ended.set()
    assert [batch async for batch in lines] == []


async def test_following_goes_on_in_the_file_that_replaces_it(path: Path) -> None:
    ended = asyncio.Event()
    found = []

    async def follow() -> None:
        async for batch in read_log(path, follow=ended):
            for line in batch:
                found.append(line.data)
                arrived.set()

    arrived = asyncio.Event()
    write(path, entry(1, b"one"))
    task = asyncio.ensure_future(follow())
    await arrived.wait()
    arrived.clear()
    append(path, entry(2, b"two"))
    new = path.with_suffix(".new")
    write(new, entry(3, b"three"))
    new.rename(path)
    while len(found) < 3:
        await arrived.wait()
        arrived.clear()
    ended.set()
    await task
    assert found == [b"one\n", b"two\n", b"three\n"]


async def test_following_ends_when_its_time_is_over(path: Path) -> None:
    write(path, entry(1, b"one"))
    until = int((datetime.datetime.now(datetime.UTC).timestamp() + 0.1) * 1e9)
    async with asyncio.timeout(60):
        assert await data_of(path, follow=asyncio.Event(), until_ns=until) == [b"one\n"]


async def test_a_follower_who_leaves_lets_go_of_everything(path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    write(path, entry(1, b"one"))
    lines = read_log(path, follow=asyncio.Event())
    await anext(lines)
    waiting = asyncio.ensure_future(anext(lines))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await lines.aclose()  # type: ignore[attr-defined]  # it is a generator
    # An inotify is slow to close, so a thread of the loop does it: wait for it.
    await asyncio.get_running_loop().shutdown_default_executor()
    assert set(os.listdir("/proc/self/fd")) <= before
