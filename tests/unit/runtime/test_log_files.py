"""The files of a log: numbered, compressed, and read in whatever form they are."""

from pathlib import Path

import pytest

from scow.runtime import log_files
from scow.runtime.log_files import compress, files_of, shift
from scow.runtime.logs import Reader, Wanted, read_log

EVERYTHING = Wanted(frozenset((1, 2)), None, None, False)


def lines(first: int, count: int) -> str:
    return "".join(f"2024-05-06T07:08:09.{n:09}+00:00 stdout F {n}\n" for n in range(first, first + count))


def text_of(files: list[Path]) -> list[str]:
    found = []
    for path in files:
        fd, _ = log_files.open_file(str(path))
        with open(fd) as file:
            found.append(file.read())
    return found


def test_files_get_numbers_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for text in ("a", "b", "c", "d"):
        path.write_text(text)
        shift(path, 3)
        compress(path)
    path.write_text("e")
    assert text_of(files_of(path)) == ["c", "d", "e"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log", "log.1.gz", "log.2.gz"]


def test_a_compression_that_was_cut_off_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    (tmp_path / "log.1").write_text("whole")
    (tmp_path / "log.1.gz").write_bytes(b"\x1f\x8b half")
    (tmp_path / "log.1.new").write_bytes(b"\x1f\x8b half")
    assert text_of(files_of(path)[:-1]) == ["whole"]
    compress(path)
    assert text_of(files_of(path)[:-1]) == ["whole"]
    assert [file.name for file in tmp_path.iterdir()] == ["log.1.gz"]


def test_a_damaged_file_gives_what_it_still_has(tmp_path: Path) -> None:
    path = tmp_path / "log"
    (tmp_path / "log.1").write_text("x" * 100_000)
    compress(path)
    packed = tmp_path / "log.1.gz"
    packed.write_bytes(packed.read_bytes()[:-20])
    assert set(text_of([packed])[0]) <= {"x"}


@pytest.mark.parametrize(("tail", "first"), [(None, 0), (10, 50), (25, 35), (60, 0), (100, 0)])
async def test_compressed_files_are_read_like_others(tmp_path: Path, tail: int | None, first: int) -> None:
    path = tmp_path / "log"
    for number in range(3):
        path.write_text(lines(20 * number, 20))
        if number < 2:
            shift(path, 5)
            compress(path)
    found = [line async for batch in read_log(files_of(path), tail=tail) for line in batch]
    assert [int(line.data) for line in found] == list(range(first, 60))


def test_a_reader_goes_on_though_its_file_is_numbered_and_compressed_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(lines(0, 5))
    reader = Reader([path], EVERYTHING)
    found = [int(line.data) for line in reader.read() or []]
    for number in range(1, 4):
        shift(path, 9)
        path.write_text(lines(5 * number, 5))
        compress(path)
    while (batch := reader.read()) is not None:
        found += [int(line.data) for line in batch]
    reader.close()
    assert found == list(range(20))


def test_a_position_is_found_again_in_a_file_that_was_compressed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(lines(0, 5))
    reader = Reader([path], EVERYTHING)
    reader.read()
    position = reader.position()
    reader.close()
    assert position is not None
    shift(path, 9)
    compress(path)
    path.write_text(lines(5, 5))
    again = Reader(files_of(path), EVERYTHING)
    assert again.seek_position(position)
    found = []
    while (batch := again.read()) is not None:
        found += [int(line.data) for line in batch]
    again.close()
    assert found == list(range(5, 10))
