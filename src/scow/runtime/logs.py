"""Reading back what containers wrote: conmon's log files, from any point, to the end or as they grow.

A line is `2024-05-06T07:08:09.123456789+00:00 stdout F text`: time, stream, and F for a whole line or P for a piece of
one. All before the text is 45 bytes. conmon replaces a file that has reached its limit by a new one of the same name.
Files are read and taken apart in threads, in blocks; times are read only for a reader who asks for them, and one whom
the ends of lines don't concern gets lines joined, which is what makes a long log fast.
"""

import asyncio
import datetime
import os
from collections.abc import AsyncIterator, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Final

import msgspec

from scow.linux.inotify import IN_CREATE, IN_MODIFY, IN_MOVED_TO, Change, Inotify
from scow.runtime.attach import STDERR, STDOUT
from scow.runtime.log_files import COMPRESSED, find, head_of, open_file

BLOCK: Final = 1 << 20
_TAIL_BLOCK: Final = 64 << 10
_HEADER: Final = 45
_TIME: Final = 35
_TAGS: Final = {  # what stands between time and text -> stream, whether the line goes on
    b" stdout F ": (STDOUT, False),
    b" stdout P ": (STDOUT, True),
    b" stderr F ": (STDERR, False),
    b" stderr P ": (STDERR, True),
}


class LogLine(msgspec.Struct, frozen=True):
    """One line with its newline, or a piece of a long one (`partial`). Joined lines have the time of the first."""

    stream: int
    time: int  # nanoseconds since the epoch
    data: bytes
    partial: bool = False


class Wanted(msgspec.Struct, frozen=True):
    """Which lines a reader is to give, whether with their times, and whether many may be joined in one."""

    streams: frozenset[int]
    since_ns: int | None
    until_ns: int | None
    joined: bool
    timed: bool = True

    @property
    def all_times(self) -> bool:
        """Whether lines of any time are wanted."""
        return self.since_ns is None and self.until_ns is None


async def read_log(
    paths: Path | Sequence[Path],
    *,
    stdout: bool = True,
    stderr: bool = True,
    tail: int | None = None,
    since_ns: int | None = None,
    until_ns: int | None = None,
    follow: asyncio.Event | None = None,
    joined: bool = False,
    timed: bool = True,
) -> AsyncIterator[list[LogLine]]:
    """Yield batches of lines, oldest first. `paths` is one file or those of one log, oldest first; some may not exist.

    `tail` takes the last lines of all streams, before the other conditions; `since_ns` and `until_ns` are inclusive.
    With `follow` the last file is read as it grows, until the event is set and the file is at its end. `joined` lets
    one item hold many lines. Without `timed` times may be 0, and most pieces of a line come in one item. Close the
    generator if you leave it early.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    streams = frozenset(number for number, wanted in ((STDOUT, stdout), (STDERR, stderr)) if wanted)
    wanted = Wanted(streams, since_ns, until_ns, joined, timed)
    reader = Reader(files, wanted)
    watcher = Watcher(files[-1]) if follow is not None else None
    try:
        await asyncio.to_thread(reader.seek, tail)
        while True:
            ending = follow is None or follow.is_set()  # looked at before the file: what is written later is awaited
            while not reader.done:
                batch = await asyncio.to_thread(reader.read)
                if batch is None:
                    break
                if batch:
                    yield batch
            if ending or reader.done or watcher is None or follow is None:
                return
            if not await watcher.wait(follow, until_ns):
                return
    finally:
        if watcher is not None:
            watcher.close()
        reader.close()


class Position(msgspec.Struct, frozen=True):
    """A point in a log: the file by inode and by how it begins (an inode's number is used again), and bytes in it.

    Of a file that has been compressed only the beginning tells: no two begin alike, since that is a time.
    """

    inode: int
    head: bytes
    offset: int


class Reader:
    """Goes through the files of a log; all its methods block."""

    def __init__(self, files: list[Path], wanted: Wanted) -> None:
        self._files = files
        self._wanted = wanted
        self._index = 0
        self._fd = -1
        self._is_copy = False  # of a compressed file
        self._rest = b""
        self.done = False  # a line after `until_ns` was met

    def seek(self, tail: int | None) -> None:
        """Go to where reading begins."""
        if tail is None:
            if self._wanted.since_ns is not None:
                self._seek_time(self._wanted.since_ns)
            return
        missing = tail
        for index in range(len(self._files) - 1, -1, -1):
            self.close()
            self._index = index
            if not self._open():
                continue
            offset, missing = _tail_offset(self._fd, missing)
            os.lseek(self._fd, offset, os.SEEK_SET)
            if missing == 0:
                return

    def _seek_time(self, since_ns: int) -> None:
        for index in range(len(self._files) - 1, -1, -1):
            self.close()
            self._index = index
            if not self._open():
                continue
            offset = _time_offset(self._fd, since_ns)
            os.lseek(self._fd, offset, os.SEEK_SET)
            if offset > 0:
                return

    def seek_position(self, position: Position) -> bool:
        """Go on where `position` was taken; False, and to the beginning of all, if that file is not among ours."""
        for index in range(len(self._files)):
            self.close()
            self._index = index
            if self._open():
                here = self.position()
                same = here is not None and here.head == position.head
                if same and here is not None and (self._is_copy or here.inode == position.inode):
                    os.lseek(self._fd, position.offset, os.SEEK_SET)
                    return True
        self.close()
        self._index = 0
        return False

    def position(self) -> Position | None:
        """Where reading goes on: after the last whole line. None before there is a file with a line."""
        if self._fd < 0:
            return None
        head = os.pread(self._fd, _HEADER, 0)
        if len(head) < _HEADER:
            return None
        return Position(os.fstat(self._fd).st_ino, head, os.lseek(self._fd, 0, os.SEEK_CUR) - len(self._rest))

    def read(self) -> list[LogLine] | None:
        """The lines of the next block (maybe none that is wanted); None at the end for now."""
        while True:
            if self._fd < 0 and not self._open():
                if self._index >= len(self._files) - 1:
                    return None
                self._index += 1
                continue
            data = os.read(self._fd, BLOCK)
            if not data:
                if not self._next_file():
                    return None
                continue
            data = self._rest + data
            cut = data.rfind(b"\n") + 1
            self._rest = data[cut:]
            lines, self.done = parse(data[:cut], self._wanted)
            return lines

    def _next_file(self) -> bool:
        """Step on at a file's end: to the next of the list, or to the one that has replaced the last.

        A log's older files are called PATH.1, PATH.2... and take other numbers while we read: the file that follows
        ours is told by where ours is by now.
        """
        if len(self._files) > 1 or find(self._files[-1], 1) is not None:
            following = self._following()
            if following is not None:
                if os.fstat(self._fd).st_size > os.lseek(self._fd, 0, os.SEEK_CUR):
                    return True
                self.close()
                (self._fd, self._is_copy), self._index = following, len(self._files) - 1
                return True
            if self._number_after() is not None:
                return False  # conmon is about to make the next file
        if self._index < len(self._files) - 1:
            self.close()
            self._index += 1
            return True
        try:
            current = os.stat(self._files[-1])
        except FileNotFoundError:
            return False
        ours = os.fstat(self._fd)
        if (current.st_dev, current.st_ino) == (ours.st_dev, ours.st_ino):
            return False
        # Replaced. What was added between our last read and that is read first.
        if ours.st_size > os.lseek(self._fd, 0, os.SEEK_CUR):
            return True
        self.close()
        return True

    def _following(self) -> tuple[int, bool] | None:
        """Open the file after ours, if ours has a number by now; None if it is the current one, or unknown."""
        current = os.fspath(self._files[-1])
        while (number := self._number_after()) is not None:
            try:
                fd, is_copy = open_file(f"{current}.{number}" if number else current)
            except FileNotFoundError:
                return None
            if self._number_after() == number:
                return fd, is_copy
            os.close(fd)  # numbers changed in between
        return None

    def _number_after(self) -> int | None:
        number = 1
        while (path := find(self._files[-1], number)) is not None:
            if self._is_ours(path):
                return number - 1
            number += 1
        return None

    def _is_ours(self, path: Path) -> bool:
        try:
            if path.suffix == COMPRESSED:
                head = os.pread(self._fd, _HEADER, 0)
                return len(head) == _HEADER and head == head_of(path, _HEADER)
            found = os.stat(path)
        except FileNotFoundError:
            return False
        ours = os.fstat(self._fd)
        return (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino)

    def _open(self) -> bool:
        try:
            self._fd, self._is_copy = open_file(os.fspath(self._files[self._index]))
        except FileNotFoundError:
            return False
        return True

    def close(self) -> None:
        """Let go of the file."""
        self._rest = b""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Watcher:
    """Notices that a log grows or is replaced."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._changed = asyncio.Event()
        self._inotify = Inotify(self._on_changes)
        # The folder's watch tells of changes to the file whichever inode has the name.
        self._inotify.add(path.parent, IN_MODIFY | IN_MOVED_TO | IN_CREATE)
        self._changed.set()  # what happened before the watch was there

    def _on_changes(self, changes: list[Change]) -> None:
        if any(change.name in (self._name, "") for change in changes):
            self._changed.set()

    async def wait(self, follow: asyncio.Event, until_ns: int | None) -> bool:
        """Wait for a change or `follow`; False when `until_ns` has passed."""
        timeout_s = None if until_ns is None else (until_ns - _now_ns()) / 1e9
        waits = {asyncio.ensure_future(self._changed.wait()), asyncio.ensure_future(follow.wait())}
        try:
            done, _ = await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._changed.clear()
        return bool(done)

    def close(self) -> None:
        """End the watch."""
        self._inotify.close()


def _now_ns() -> int:
    return int(datetime.datetime.now(datetime.UTC).timestamp() * 1e9)


def parse(block: bytes, wanted: Wanted) -> tuple[list[LogLine], bool]:
    """Take whole lines apart; True with them if one was after `until_ns`, and the rest is of no interest."""
    lines = block.split(b"\n")
    lines.pop()
    if wanted.joined and wanted.all_times:
        return _join(lines, wanted.streams), False
    if not wanted.timed and wanted.all_times:
        return _whole(lines, wanted.streams), False
    found: list[LogLine] = []
    for line in lines:
        tag = _TAGS.get(line[_TIME:_HEADER])
        if tag is None or tag[0] not in wanted.streams:
            continue
        time = parse_time(line[:_TIME])
        if wanted.until_ns is not None and time > wanted.until_ns:
            return found, True
        if wanted.since_ns is not None and time < wanted.since_ns:
            continue
        stream, partial = tag
        found.append(LogLine(stream, time, line[_HEADER:] if partial else line[_HEADER:] + b"\n", partial))
    return found, False


def _join(lines: list[bytes], streams: frozenset[int]) -> list[LogLine]:
    tags = {line[_TIME:_HEADER] for line in lines}
    groups: list[tuple[bytes, list[bytes]]]
    if len(tags) == 1:
        groups = [(tags.pop(), lines)]
    else:
        groups = [(tag, list(group)) for tag, group in groupby(lines, key=_tag_of)]
    found = []
    for tag, group in groups:
        known = _TAGS.get(tag)  # what isn't: a line that a crash has cut short
        if known is None or known[0] not in streams:
            continue
        stream, partial = known
        end = b"" if partial else b"\n"
        data = end.join([line[_HEADER:] for line in group]) + end
        found.append(LogLine(stream, parse_time(group[0][:_TIME]), data, partial))
    return found


def _whole(lines: list[bytes], streams: frozenset[int]) -> list[LogLine]:
    """Lines without their times, each with its pieces as far as no line of the other stream is between them."""
    found: list[LogLine] = []
    begun: list[bytes] = []
    of = STDOUT
    for line in lines:
        stream, partial = _TAGS.get(line[_TIME:_HEADER], (0, False))
        if stream not in streams:
            continue
        if begun and stream != of:
            found.append(LogLine(of, 0, b"".join(begun), True))
            begun = []
        if partial:
            of = stream
            begun.append(line[_HEADER:])
        elif begun:
            found.append(LogLine(stream, 0, b"".join([*begun, line[_HEADER:], b"\n"])))
            begun = []
        else:
            found.append(LogLine(stream, 0, line[_HEADER:] + b"\n"))
    if begun:
        found.append(LogLine(of, 0, b"".join(begun), True))
    return found


def _tag_of(line: bytes) -> bytes:
    return line[_TIME:_HEADER]


def parse_time(text: bytes) -> int:
    """Nanoseconds since the epoch of `2024-05-06T07:08:09.123456789+00:00`; 0 if it isn't one."""
    fraction = text[20:29]
    if len(text) != _TIME or not fraction.isdigit():
        return 0
    return _seconds(text[:19] + text[29:]) * 1_000_000_000 + int(fraction)


@lru_cache(maxsize=1024)
def _seconds(text: bytes) -> int:
    try:
        return int(datetime.datetime.fromisoformat(text.decode("ascii", "replace")).timestamp())
    except ValueError:
        return 0


def _tail_offset(fd: int, count: int) -> tuple[int, int]:
    """Where the last `count` lines begin, and how many of them are not in this file. Pieces count with their line."""
    end = os.fstat(fd).st_size
    if count <= 0:
        return end, 0
    seen = 0
    position = end
    carried = b""  # the head of the block after this one, up to its first newline
    while position > 0:
        start = max(0, position - _TAIL_BLOCK)
        block = os.pread(fd, position - start, start) + carried
        first = 0 if start == 0 else block.find(b"\n") + 1
        if start > 0 and first == 0:  # a line longer than a block
            carried, position = block, start
            continue
        at = len(block)
        while at > first:
            line_start = block.rfind(b"\n", first, at - 1) + 1 or first
            # A line that ends (F) counts; pieces (P) belong to what follows, or stand unfinished at the end.
            is_whole = block[line_start + _TIME : line_start + _HEADER].endswith(b" F ")
            if is_whole or (seen == 0 and start + at == end):
                seen += 1
                if seen > count:
                    return start + at, 0
            at = line_start
        carried, position = block[:first], start
    return 0, count - seen


def _time_offset(fd: int, since_ns: int) -> int:
    """A line's beginning at or before the first line that is not older than `since_ns`: times only grow."""
    low, high = 0, os.fstat(fd).st_size
    while high - low > _TAIL_BLOCK:
        middle = (low + high) // 2
        block = os.pread(fd, _TAIL_BLOCK, middle)
        begin = block.find(b"\n") + 1
        time = parse_time(block[begin : begin + _TIME]) if begin else 0
        if not time:  # no whole line here: be content with what is known
            break
        if time < since_ns:
            low = middle + begin
        else:
            high = middle
    return low
