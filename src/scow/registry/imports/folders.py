"""Reading a folder that others have written: regular files that lie in it, and nothing that it only points at.

A link to a file of ours, say of passwords, would make it a blob that everybody may pull; a pipe would be waited for.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from scow.errors import InvalidArgument

LINK_LIMIT: Final = 1024
"""Bytes of a file that has a digest in it."""


class NotInside(InvalidArgument):
    """A path leads to something else than a file of the folder."""

    def __init__(self, path: Path, root: Path) -> None:
        super().__init__(f"{path} is no file of {root}")


@contextmanager
def opened(path: Path, root: Path) -> Iterator[Path]:
    """A path that names the open file until the end, whatever becomes of the folder. Blocks.

    `root` is the folder by its real path (`Path.resolve`). Raises NotInside and OSError.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        name = Path(f"/proc/self/fd/{fd}")
        inside = Path(os.readlink(name)).is_relative_to(root)
        if not inside or not stat.S_ISREG(os.fstat(fd).st_mode):
            raise NotInside(path, root)
        yield name
    finally:
        os.close(fd)


def read_file(path: Path, root: Path, limit: int) -> bytes:
    """The first `limit` bytes of a file. Blocks. Raises NotInside and OSError."""
    with opened(path, root) as name, name.open("rb") as file:
        return file.read(limit)


def names_in(folder: Path) -> list[str]:
    """Names in a folder, sorted; none if it is not there. Blocks. Raises OSError."""
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
