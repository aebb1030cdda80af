"""One flight for the same step."""

import asyncio
from typing import Any

import pytest

from scow.build.flights import Flights, Say


def test_who_comes_later_hears_all_and_gets_the_same() -> None:
    async def run() -> None:
        flights: Flights[object] = Flights()
        begun, go_on = asyncio.Event(), asyncio.Event()
        result = object()

        async def work(say: Say) -> object:
            say("one")
            begun.set()
            await go_on.wait()
            say("two")
            return result

        heard: list[list[Any]] = [[], []]
        first = asyncio.create_task(flights.join("k", work, heard[0].append))
        await begun.wait()
        second = asyncio.create_task(flights.join("k", work, heard[1].append))
        await asyncio.sleep(0)
        go_on.set()
        assert await first is await second is result
        assert heard == [["one", "two"]] * 2

    asyncio.run(run())


@pytest.mark.parametrize("leaver", [0, 1])
def test_a_flight_goes_on_as_long_as_anybody_waits(leaver: int) -> None:
    async def run() -> None:
        flights: Flights[int] = Flights()
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def work(say: Say) -> int:
            begun.set()
            await go_on.wait()
            return 1

        tasks = [asyncio.create_task(flights.join("k", work, lambda said: None)) for _ in range(2)]
        await begun.wait()
        await asyncio.sleep(0)
        tasks[leaver].cancel()
        assert isinstance((await asyncio.gather(tasks[leaver], return_exceptions=True))[0], asyncio.CancelledError)
        go_on.set()
        assert await tasks[1 - leaver] == 1

    asyncio.run(run())


def test_the_last_one_to_leave_ends_it_and_the_next_begins_anew() -> None:
    async def run() -> None:
        flights: Flights[int] = Flights()
        begun = asyncio.Event()
        ended: list[str] = []

        async def work(say: Say) -> int:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("ended")
            return 0

        async def again(say: Say) -> int:
            return 2

        task = asyncio.create_task(flights.join("k", work, lambda said: None))
        await begun.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert ended == ["ended"]
        assert await flights.join("k", again, lambda said: None) == 2

    asyncio.run(run())


def test_a_failure_is_everybodys() -> None:
    async def run() -> None:
        flights: Flights[int] = Flights()

        async def work(say: Say) -> int:
            await asyncio.sleep(0)
            raise ValueError("no")

        found = await asyncio.gather(
            *(flights.join("k", work, lambda said: None) for _ in range(3)), return_exceptions=True
        )
        assert [str(each) for each in found] == ["no"] * 3

    asyncio.run(run())


def test_work_waits_for_a_slow_listener_that_is_alone() -> None:
    async def run() -> None:
        flights: Flights[int] = Flights()
        slow, told = asyncio.Event(), 0

        async def wait_for_slow() -> None:
            await slow.wait()

        async def work(say: Say) -> int:
            nonlocal told
            for _ in range(3):
                say("much")
                told += 1
                await say.pace()
            return told

        def ignore(message: Any) -> None:
            pass

        first = asyncio.create_task(flights.join("k", work, ignore, wait_for_slow))
        await asyncio.sleep(0.05)
        assert told == 1
        second = asyncio.create_task(flights.join("k", work, ignore))  # who isn't slow isn't held up
        async with asyncio.timeout(60):
            assert await first == await second == 3

    asyncio.run(run())
