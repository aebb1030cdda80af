"""Events: what happened, to whoever listens, with a bounded memory of the past. Engine API, GET /events."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final, Self

from scow.engine.event_log import EventLog
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

    def __init__(self, log: EventLog | None = None) -> None:
        self._log = log
        self._past: deque[Event] = deque(log.load() if log is not None else (), maxlen=MEMORY)
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
        if self._log is not None:
            self._log.add(event)
        for listener in tuple(self._listeners):
            listener.offer(event)
        for observe in self.observers:
            observe(event)

    async def subscribe(
        self, *, since_ns: int | None, until_ns: int | None, filters: Mapping[str, Sequence[str]]
    ) -> "Listener":
        """Listen from now on, after those of the past that came at or after `since_ns`.

        With `until_ns` alone the past is told as well, as by docker.
        """
        unknown = sorted(set(filters) - FILTERS)
        if unknown:
            raise InvalidArgument(f"invalid filter '{unknown[0]}'")
        listener = Listener(self._listeners, until_ns, filters)
        if since_ns is not None or until_ns is not None:
            for event in self._past:
                if event.time_nano >= (since_ns or 0):
                    listener.offer(event)
        return listener

    @property
    def listeners(self) -> int:
        """How many listen now."""
        return len(self._listeners)


class Listener(AsyncIterator[Event]):
    """One subscription; iterate, and `aclose()` it at the end. It ends by itself at `until`."""

    def __init__(self, owner: set["Listener"], until_ns: int | None, filters: Mapping[str, Sequence[str]]) -> None:
        self._owner = owner
        self._until_ns = until_ns
        self._filters = {key: list(values) for key, values in filters.items() if values}
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()
        owner.add(self)

    def offer(self, event: Event) -> None:
        """Queue the event if it is wanted."""
        if self._until_ns is not None and event.time_nano > self._until_ns:
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
        if self._until_ns is None:
            event = await self._queue.get()
        else:
            left_s = max(0.0, (self._until_ns - time.time_ns()) / 1e9)
            try:
                async with asyncio.timeout(left_s if self._queue.empty() else None):
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


def shown_command(command: Sequence[str]) -> str:
    """A command in an action's name: docker's has a space after the program in any case."""
    return f"{command[0]} {' '.join(command[1:])}" if command else ""
