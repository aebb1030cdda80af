"""Work that several want at once."""

import asyncio
from collections.abc import Callable

import pytest

from scow.transfer.flights import Flights, together


async def test_work_under_way_is_shared_and_all_see_its_progress() -> None:
    flights: Flights[str, int] = Flights()
    started, proceed, runs = asyncio.Event(), asyncio.Event(), 0

    async def work(publish: Callable[[int], None]) -> str:
        nonlocal runs
        runs += 1
        publish(1)
        started.set()
        await proceed.wait()
        publish(2)
        return "done"

    first_saw: list[int] = []
    second_saw: list[int] = []
    first = asyncio.create_task(flights.join("key", work, first_saw.append))
    await started.wait()
    second = asyncio.create_task(flights.join("key", work, second_saw.append))
    await asyncio.sleep(0)
    proceed.set()
    assert await asyncio.gather(first, second) == ["done", "done"]
    assert (runs, first_saw, second_saw) == (1, [1, 2], [1, 2])


async def test_the_work_goes_on_while_anybody_waits_and_ends_with_the_last() -> None:
    flights: Flights[None, int] = Flights()
    started, ended = asyncio.Event(), asyncio.Event()

    async def work(publish: Callable[[int], None]) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    one = asyncio.create_task(flights.join("key", work, lambda _: None))
    two = asyncio.create_task(flights.join("key", work, lambda _: None))
    await started.wait()
    one.cancel()
    await asyncio.gather(one, return_exceptions=True)
    assert not ended.is_set()
    two.cancel()
    await asyncio.gather(two, return_exceptions=True)
    assert ended.is_set()


async def test_who_joined_work_that_failed_tries_it_alone() -> None:
    flights: Flights[str, int] = Flights()
    started, proceed = asyncio.Event(), asyncio.Event()

    async def bad(publish: Callable[[int], None]) -> str:
        started.set()
        await proceed.wait()
        raise ValueError("bad credentials")

    async def good(publish: Callable[[int], None]) -> str:
        return "done"

    first = asyncio.create_task(flights.join("key", bad, lambda _: None))
    await started.wait()
    second = asyncio.create_task(flights.join("key", good, lambda _: None))
    await asyncio.sleep(0)
    proceed.set()
    assert await second == "done"
    with pytest.raises(ValueError, match="bad credentials"):
        await first


async def test_together_cleans_up_the_others_before_it_fails() -> None:
    waiting, cleaned = asyncio.Event(), False

    async def slow() -> None:
        nonlocal cleaned
        waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned = True

    async def bad() -> None:
        await waiting.wait()
        raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        await together(slow(), bad())
    assert cleaned
