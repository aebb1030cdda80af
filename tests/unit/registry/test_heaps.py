"""What a process has used and no longer needs goes back to the system, once there is a pause."""

import asyncio

import pytest

from scow.registry import heaps
from scow.registry.heaps import Tidying


@pytest.fixture
def trims(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    done: list[str] = []
    monkeypatch.setattr(heaps, "trim", lambda: done.append("trimmed"))
    return done


async def test_heaps_are_trimmed_once_for_all_that_was_done(trims: list[str]) -> None:
    tidying = Tidying(after_s=0.01)
    for _ in range(100):
        tidying.note()
    assert trims == []
    async with asyncio.timeout(10):
        while not trims:  # noqa: ASYNC110  # nothing else tells
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    assert trims == ["trimmed"]
    tidying.note()
    async with asyncio.timeout(10):
        while len(trims) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await tidying.aclose()


async def test_nothing_is_trimmed_after_the_end(trims: list[str]) -> None:
    tidying = Tidying(after_s=0.01)
    tidying.note()
    await tidying.aclose()
    await asyncio.sleep(0.05)
    assert trims == []


def test_trimming_works_here() -> None:
    heaps.trim()
