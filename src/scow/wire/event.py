"""Events on the wire."""

from msgspec import field

from scow.wire.message import SparseMessage


class Actor(SparseMessage, frozen=True, kw_only=True):
    """What an event is about: its ID, and attributes such as name, image and labels."""

    id: str = field(name="ID")
    attributes: dict[str, str]


class Event(SparseMessage, frozen=True, kw_only=True):
    """Something that happened. The first three repeat the rest for old clients, on container and image events."""

    status: str = field(name="status", default="")
    id: str = field(name="id", default="")
    from_: str = field(name="from", default="")
    type: str
    action: str
    actor: Actor
    scope: str = field(name="scope")
    time: int = field(name="time")  # seconds since the epoch
    time_nano: int = field(name="timeNano")
