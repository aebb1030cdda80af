"""One flight for the same step: builds that come to a step which another one is executing wait for that one.

What the flight says while it goes is heard by all who wait, from its beginning on. It is given up when the last of
them is.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")

Listen = Callable[[Any], None]
Pace = Callable[[], Awaitable[None]]
"""Waits until a listener has taken most of what it heard."""
_KEPT = 256  # messages that a late listener hears; those of output have up to 64 KiB
_AGAIN_S = 0.2


class Say(Protocol):
    """What work tells those who wait for it."""

    def __call__(self, message: Any) -> None:
        """Tell all."""

    async def pace(self) -> None:
        """Wait for a listener that is slow, if it is alone: it holds up nobody else."""


async def at_once() -> None:
    """Nothing is to be waited for."""


class _Flight(Generic[T]):
    def __init__(self) -> None:
        self.listeners: list[tuple[Listen, Pace]] = []
        self.said: list[Any] = []
        self.task: asyncio.Task[T] | None = None

    def __call__(self, message: Any) -> None:
        if len(self.said) < _KEPT:
            self.said.append(message)
        for listen, _ in self.listeners:
            listen(message)

    async def pace(self) -> None:
        while len(self.listeners) == 1:
            try:
                async with asyncio.timeout(_AGAIN_S):
                    return await self.listeners[0][1]()
            except TimeoutError:
                continue


class Flights(Generic[T]):
    """The steps under way, by key. Belongs to one event loop."""

    def __init__(self) -> None:
        self._flights: dict[str, _Flight[T]] = {}

    async def join(self, key: str, work: Callable[[Say], Awaitable[T]], listen: Listen, pace: Pace = at_once) -> T:
        """Do the work of a key, or wait for who does it already; `listen` hears all that the work says.

        A failure is everybody's; a cancellation only ends the work if nobody else waits.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()
            flight.task = asyncio.ensure_future(self._run(key, flight, work))
        else:
            for message in flight.said:
                listen(message)
        listener = listen, pace
        flight.listeners.append(listener)
        assert flight.task is not None
        try:
            return await asyncio.shield(flight.task)
        except asyncio.CancelledError:
            flight.listeners.remove(listener)
            if not flight.listeners:
                if self._flights.get(key) is flight:
                    del self._flights[key]  # who comes now begins anew
                flight.task.cancel()
                await asyncio.wait([flight.task])
                if not flight.task.cancelled():
                    flight.task.exception()  # looked at: nobody else will
            raise

    async def _run(self, key: str, flight: _Flight[T], work: Callable[[Say], Awaitable[T]]) -> T:
        try:
            return await work(flight)
        finally:
            if self._flights.get(key) is flight:
                del self._flights[key]
