"""Volumes on the wire."""

from typing import Any, ClassVar

from scow.wire.message import Message


class VolumeUsage(Message, frozen=True, kw_only=True):
    """How much a volume holds, in bytes, and how many containers use it; -1 means not known."""

    size: int = -1
    ref_count: int = -1


class Volume(Message, frozen=True, kw_only=True):
    """A volume, in a list or inspected."""

    OMIT_EMPTY: ClassVar[frozenset[str]] = frozenset({"created_at", "status", "usage_data"})

    created_at: str = ""
    driver: str = "local"
    labels: dict[str, str] | None = None
    mountpoint: str
    name: str
    options: dict[str, str] | None = None
    scope: str = "local"
    status: dict[str, Any] | None = None
    usage_data: VolumeUsage | None = None


class VolumeList(Message, frozen=True, kw_only=True):
    """The answer to `GET /volumes`."""

    volumes: list[Volume]
    warnings: list[str] | None = None


class VolumeCreateRequest(Message, frozen=True, kw_only=True):
    """The body of `POST /volumes/create`; no name means an anonymous volume."""

    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    cluster_volume_spec: dict[str, Any] | None = None


class PruneVolumesReply(Message, frozen=True, kw_only=True):
    """The volumes that a prune removed, and the bytes that it freed."""

    volumes_deleted: list[str] | None = None
    space_reclaimed: int = 0
