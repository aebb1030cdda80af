"""Engines of one machine choose their subnets one after the other."""

import asyncio
import logging
from pathlib import Path

import pytest

from scow.network import claims
from scow.network.claims import choosing


async def test_one_waits_until_the_other_has_chosen(tmp_path: Path) -> None:
    told: list[str] = []

    async def second() -> None:
        async with choosing(tmp_path / "lock"):
            told.append("second")

    async with choosing(tmp_path / "lock"):
        waiting = asyncio.create_task(second())
        await asyncio.wait([waiting], timeout=0.05)  # a look at what must not happen, however long
        told.append("first")
    await waiting
    assert told == ["first", "second"]


async def test_one_that_stands_still_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(claims, "PATIENCE_S", 0.02)
    async with choosing(tmp_path / "lock"), choosing(tmp_path / "lock"):
        assert "another engine has held" in caplog.text


async def test_where_there_is_no_lock_subnets_are_chosen_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        async with choosing(tmp_path / "nowhere" / "lock"):
            assert "may choose the same subnet" in caplog.text


async def test_whoever_is_cancelled_lets_go(tmp_path: Path) -> None:
    async def forever() -> None:
        async with choosing(tmp_path / "lock"):
            await asyncio.Event().wait()

    task = asyncio.create_task(forever())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with asyncio.timeout(60), choosing(tmp_path / "lock"):
        pass
