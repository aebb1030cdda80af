"""Progress that a slow client has not taken yet."""

import asyncio
from collections.abc import Callable

from scow.engine.streams import BACKLOG, ProgressStream
from scow.wire.progress import ProgressMessage


async def test_work_that_tells_a_lot_waits_for_its_listener() -> None:
    told = 0

    async def work(emit: Callable[[ProgressMessage], None]) -> None:
        nonlocal told
        for _ in range(50):
            emit(ProgressMessage(stream="x" * (BACKLOG // 10)))
            told += 1
            await stream.room()

    stream = ProgressStream(work)
    await asyncio.sleep(0.05)
    assert told <= 11
    assert len([message async for message in stream]) == told == 50


async def test_work_that_waits_for_its_listener_ends_with_it() -> None:
    async def work(emit: Callable[[ProgressMessage], None]) -> None:
        emit(ProgressMessage(stream="x" * 2 * BACKLOG))
        await stream.room()

    stream = ProgressStream(work)
    await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await stream.aclose()
