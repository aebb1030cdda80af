"""A room holds so many bytes at once, and its line moves on whoever leaves it."""

import asyncio

import pytest

from scow.registry.room import Room


async def test_no_more_is_taken_than_there_is() -> None:
    room, taken, most = Room(10), 0, 0

    async def use(size: int) -> None:
        nonlocal taken, most
        async with room.take(size):
            taken += size
            most = max(most, taken)
            await asyncio.sleep(0)
            taken -= size

    await asyncio.gather(*(use(size) for size in (4, 4, 4, 1, 9, 10, 3) * 5))
    assert most == 10
    assert (taken, room.left) == (0, 10)


async def test_what_is_larger_than_the_room_has_it_alone() -> None:
    room = Room(10)
    async with room.take(1000):
        assert room.left == 0
        waiting = asyncio.create_task(_take(room, 1))
        await asyncio.sleep(0)
        assert not waiting.done()
    await waiting
    assert room.left == 10


async def test_small_ones_do_not_overtake_a_large_one_for_ever() -> None:
    room, order = Room(10), []

    async def use(size: int) -> None:
        async with room.take(size):
            order.append(size)

    async with room.take(5):
        tasks = [asyncio.create_task(use(size)) for size in (10, 1, 2)]
        await asyncio.sleep(0)
        assert order == []
    await asyncio.gather(*tasks)
    assert order == [10, 1, 2]


@pytest.mark.parametrize("granted", [False, True])
async def test_who_gives_up_leaves_room_to_those_behind(granted: bool) -> None:
    room = Room(10)
    async with room.take(5):
        large = asyncio.create_task(_take(room, 10))
        small = asyncio.create_task(_take(room, 5))
        await asyncio.sleep(0)
        if not granted:
            large.cancel()
            await asyncio.wait([large])
            await small  # before the first one leaves
    if granted:  # its turn has come, and it has not noticed yet
        large.cancel()
        await asyncio.wait([large])
        await small
    assert large.cancelled()
    assert room.left == 10


async def _take(room: Room, size: int) -> None:
    async with room.take(size):
        pass
