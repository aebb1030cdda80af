"""Events: what happened, to whoever listens, with a bounded memory of the past. Engine API, GET /events."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final, Self

from scow.errors import InvalidArgument
from scow.wire.event import Actor, Event

MEMORY: Final = 1024
"""How many events are kept for `since`; docker keeps 256."""

BACKLOG: Final = 16384
"""A listener that is this many events behind is dropped instead of filling the memory."""

FILTERS: Final = frozenset(
    [
        "config",
        "container",
        "daemon",
        "event",
        "image",
        "label",
        "network",
        "node",
        "plugin",
        "scope",
        "secret",
        "service",
        "type",
        "volume",
    ]
)


class Events:
    """The bus. `emit` never waits; each listener has a queue of its own."""

    def __init__(self) -> None:
        self._past: deque[Event] = deque(maxlen=MEMORY)
        self._listeners: set[Listener] = set()
        self.observers: list[Callable[[Event], None]] = []  # of the engine's own: called at once, they must not wait

    def emit(self, kind: str, action: str, id: str, attributes: Mapping[str, str] | None = None) -> None:
        """Tell that `action` happened to the thing `id` of type `kind` (container, image, network, volume, daemon)."""
        now = time.time_ns()
        attributes = dict(attributes or {})
        legacy: dict[str, str] = {}
        if kind in ("container", "image"):
            legacy = {"status": action, "id": id}
            if kind == "container" and "image" in attributes:
                legacy["from_"] = attributes["image"]
        event = Event(
            type=kind,
            action=action,
            actor=Actor(id=id, attributes=attributes),
            scope="local",
            time=now // 1_000_000_000,
            time_nano=now,
            **legacy,
        )
        self._past.append(event)
        for listener in tuple(self._listeners):
            listener.offer(event)
        for observe in self.observers:
            observe(event)

    async def subscribe(
        self, *, since: float | None, until: float | None, filters: Mapping[str, Sequence[str]]
    ) -> "Listener":
        """Listen from now on, after those of the past that came at or after `since` (seconds since the epoch)."""
        unknown = sorted(set(filters) - FILTERS)
        if unknown:
            raise InvalidArgument(f"invalid filter '{unknown[0]}'")
        listener = Listener(self._listeners, until, filters)
        if since is not None:
            for event in self._past:
                if event.time_nano >= since * 1e9:
                    listener.offer(event)
        return listener

    @property
    def listeners(self) -> int:
        """How many listen now."""
        return len(self._listeners)


class Listener(AsyncIterator[Event]):
    """One subscription; iterate, and `aclose()` it at the end. It ends by itself at `until`."""

    def __init__(self, owner: set["Listener"], until: float | None, filters: Mapping[str, Sequence[str]]) -> None:
        self._owner = owner
        self._until = until
        self._filters = {key: list(values) for key, values in filters.items() if values}
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()
        owner.add(self)

    def offer(self, event: Event) -> None:
        """Queue the event if it is wanted."""
        if self._until is not None and event.time_nano > self._until * 1e9:
            return
        if matches(event, self._filters):
            if self._queue.qsize() >= BACKLOG:
                self._owner.discard(self)
                self._queue.put_nowait(None)
                return
            self._queue.put_nowait(event)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._until is None:
            event = await self._queue.get()
        else:
            try:
                async with asyncio.timeout(max(0.0, self._until - time.time()) if self._queue.empty() else None):
                    event = await self._queue.get()
            except TimeoutError:
                event = None
        if event is None:
            await self.aclose()
            raise StopAsyncIteration
        return event

    async def aclose(self) -> None:
        """Stop listening."""
        self._owner.discard(self)


def matches(event: Event, filters: Mapping[str, Sequence[str]]) -> bool:
    """Tell whether an event passes the filters: values of one key are alternatives, keys all must hold."""
    attributes = event.actor.attributes

    def one(key: str, value: str) -> bool:
        if key == "event":
            # Health actions carry their outcome in the name: `health_status: healthy`.
            return event.action == value or event.action.startswith(f"{value}:")
        if key == "type":
            return event.type == value
        if key == "scope":
            return event.scope == value
        if key == "label":
            name, equals, wanted = value.partition("=")
            return name in attributes and (not equals or attributes[name] == wanted)
        if key == "image":
            names = [attributes.get("image", "")] if event.type == "container" else [event.actor.id]
            names += [attributes.get("name", "")] if event.type == "image" else []
            return any(value in (name, name.partition("@")[0], _without_tag(name)) for name in names)
        if key == "daemon" and event.type == "daemon":
            return value in (event.actor.id, attributes.get("name"))
        if event.type != key:
            return False
        return (
            event.actor.id.startswith(value) if len(value) >= 12 else value in (event.actor.id, attributes.get("name"))
        )

    def named(key: str, value: str) -> bool:
        return one(key, value) or (event.type == key and attributes.get("name") == value)

    return all(
        all(named(key, value) for value in values) if key == "label" else any(named(key, value) for value in values)
        for key, values in filters.items()
    )


def _without_tag(name: str) -> str:
    head, slash, tail = name.rpartition("/")
    return head + slash + tail.partition(":")[0]
