"""inotify on the event loop."""

import asyncio
from pathlib import Path

import pytest

from scow.linux.inotify import IN_CREATE, IN_MOVED_TO, Change, Inotify


async def test_changes_arrive_with_watch_and_name(tmp_path: Path) -> None:
    arrived: asyncio.Queue[Change] = asyncio.Queue()

    def put(changes: list[Change]) -> None:
        for change in changes:
            arrived.put_nowait(change)

    inotify = Inotify(put)
    try:
        watch = inotify.add(tmp_path, IN_CREATE | IN_MOVED_TO)
        (tmp_path / "a").touch()
        (tmp_path / "a").rename(tmp_path / "b name")
        assert await arrived.get() == Change(watch, IN_CREATE, "a")
        assert await arrived.get() == Change(watch, IN_MOVED_TO, "b name")
    finally:
        inotify.close()
    inotify.close()


async def test_what_cannot_be_watched_is_an_error() -> None:
    inotify = Inotify(lambda changes: None)
    try:
        with pytest.raises(FileNotFoundError):
            inotify.add(Path("/nowhere"), IN_CREATE)
    finally:
        inotify.close()
