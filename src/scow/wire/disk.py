"""What lies under the data root, on the wire. Scow's own: GET /scow/system/df."""

from msgspec import field

from scow.wire.message import Message


class PartUsage(Message, frozen=True, kw_only=True):
    """One part of the data root: the bytes that its files and directories take on disk."""

    name: str
    files: int
    size: int
    about: str


class ImageUse(Message, frozen=True, kw_only=True):
    """When an image was used last."""

    id: str
    last_used: str


class DataRootUsage(Message, frozen=True, kw_only=True):
    """Everything under the data root; the sizes of the parts add up to `total`."""

    root: str
    total: int
    parts: list[PartUsage]
    images: list[ImageUse] = field(default_factory=list)
