"""Documents in rows of the state database, as they are read when the engine starts.

One that can't be read, because a disk has damaged it or another Scow wrote what this one doesn't know, must not keep
the engine from all others. Its row stays as it is until something takes its place.
"""

import logging
from typing import TypeVar

import msgspec

T = TypeVar("T")

log = logging.getLogger(__name__)


def find_document(data: bytes, kind: type[T], what: str) -> T | None:
    """Decode a row's document; None, and an error in the log that names `what`, if it can't be read."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, TypeError) as error:  # TypeError: the row has no bytes at all
        log.error("%s: what the state database knows of it can't be read: %s", what, error)
        return None
