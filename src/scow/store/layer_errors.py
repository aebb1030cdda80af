"""What can go wrong with a layer, as the store's callers see it."""

import errno

from scow.errors import Internal, InvalidArgument, NotFound, Unavailable
from scow.store.tarstream import LayerUnsupported
from scow.store.tree import LayerCorrupt

__all__ = [
    "DigestMismatch",
    "DiskFull",
    "InvalidArchive",
    "LayerCorrupt",
    "LayerFailed",
    "LayerUnsupported",
    "NoSuchLayer",
    "raise_answer",
]


class NoSuchLayer(NotFound):
    """The store has no layer of this diff ID."""

    def __init__(self, diff_id: str) -> None:
        super().__init__(f"no such layer: {diff_id}")
        self.diff_id = diff_id


class DigestMismatch(InvalidArgument):
    """The bytes are not those that the digest, size or diff ID promised."""

    def __init__(self, subject: str, what: str, expected: str, found: str) -> None:
        super().__init__(f"layer {subject}: {what} mismatch: expected {expected}, got {found}")
        self.subject = subject
        self.what = what
        self.expected = expected
        self.found = found


class LayerFailed(Internal):
    """The layer could not be written, read or mounted: disk full, I/O error, a kernel that refuses."""

    def __init__(self, subject: str, reason: str) -> None:
        super().__init__(f"layer {subject}: {reason}")
        self.subject = subject
        self.reason = reason


class InvalidArchive(InvalidArgument):
    """What came is no archive of images, is damaged, or asks for what no such archive may."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"invalid archive: {reason}")
        self.reason = reason


class DiskFull(Unavailable):
    """There is no room for the layer."""

    def __init__(self, subject: str) -> None:
        super().__init__(f"layer {subject}: no space left on device")
        self.subject = subject


def raise_answer(answer: dict[str, object], subject: str) -> None:
    """Turn a worker's answer that says what went wrong into the error of that name."""
    kind, reason = answer.get("error"), str(answer.get("reason"))
    if kind is None:
        return
    if kind == "mismatch":
        raise DigestMismatch(subject, str(answer["what"]), str(answer["expected"]), str(answer["found"]))
    if kind == "corrupt":
        raise LayerCorrupt(reason)
    if kind == "archive":
        raise InvalidArchive(reason)
    if kind == "unsupported":
        raise LayerUnsupported(reason)
    if answer.get("errno") in (errno.ENOSPC, errno.EDQUOT):
        raise DiskFull(subject)
    raise LayerFailed(subject, reason)
