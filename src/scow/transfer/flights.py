"""Flights: work that several callers want at once is done once, and each of them sees how it goes."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")
E = TypeVar("E")


class _Flight(Generic[T, E]):
    def __init__(self) -> None:
        self.watchers: list[Callable[[E], None]] = []
        self.last: E | None = None
        self.task: asyncio.Task[T] | None = None

    def publish(self, event: E) -> None:
        self.last = event
        for watch in tuple(self.watchers):
            watch(event)


class Flights(Generic[T, E]):
    """One running piece of work for each key; it ends early when the last of those who wait for it gives up."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[T, E]] = {}

    async def join(
        self, key: Hashable, work: Callable[[Callable[[E], None]], Coroutine[Any, Any, T]], watch: Callable[[E], None]
    ) -> T:
        """Await the work under way for `key`, or do `work`. `watch` gets the events that the work publishes.

        If another's work fails, ours is tried: it may have better credentials, or another registry.
        """
        flight = self._flights.get(key)
        if flight is not None:
            try:
                return await self._ride(key, flight, watch)
            except asyncio.CancelledError:
                raise
            except Exception:
                return await self.join(key, work, watch)
        flight = self._flights[key] = _Flight()
        flight.task = asyncio.create_task(work(flight.publish))
        return await self._ride(key, flight, watch)

    async def _ride(self, key: Hashable, flight: _Flight[T, E], watch: Callable[[E], None]) -> T:
        task = flight.task
        assert task is not None  # set before the flight can be seen by others: there is no await in between
        if flight.last is not None:
            watch(flight.last)
        flight.watchers.append(watch)
        try:
            return await asyncio.shield(task)
        finally:
            flight.watchers.remove(watch)
            if (task.done() or not flight.watchers) and self._flights.get(key) is flight:
                # Newcomers must not board what is landing or about to be cancelled.
                del self._flights[key]
            if not task.done() and not flight.watchers:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


async def together(*actions: Awaitable[T]) -> list[T]:
    """Await all; when one fails, cancel the others, wait until they have cleaned up, and raise its error."""
    tasks = [asyncio.ensure_future(action) for action in actions]
    try:
        return await asyncio.gather(*tasks)
    finally:
        pending = [task for task in tasks if not task.done()]
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.gather(*pending, return_exceptions=True)
