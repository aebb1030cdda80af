"""Files of containers on the wire: what is at a path, and what differs from the image."""

import msgspec

from scow.wire.message import Message


class PathStat(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is at a path; `mode` is of Go's os.FileMode. Header X-Docker-Container-Path-Stat, base64 of this JSON."""

    name: str
    size: int
    mode: int
    mtime: str
    link_target: str = ""


class FilesystemChange(Message, frozen=True, kw_only=True):
    """One path that differs from the image: 0 modified, 1 added, 2 deleted."""

    path: str
    kind: int
