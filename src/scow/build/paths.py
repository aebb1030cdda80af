"""Paths inside an image, as WORKDIR and destinations name them."""

import posixpath


def normalize_workdir(current: str, path: str) -> str:
    """The absolute path that `WORKDIR path` means after `current` (empty is the root), without `.` and `..`."""
    joined = posixpath.normpath(posixpath.join("/", current, path))
    return "/" + joined.lstrip("/")
