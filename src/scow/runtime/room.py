"""Room below the exec root, as a rule a small tmpfs: whether what failed there failed for want of it."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from scow.runtime.failures import RuntimeFailed

_ENOUGH: Final = 64 << 10  # bytes: what one start writes, several times


class NoRoom(RuntimeFailed):
    """The file system of a folder is full. `said` is what a runtime made of that."""

    def __init__(self, folder: Path, said: str = "") -> None:
        super().__init__(f"{said}: {folder}: no space left on device" if said else f"{folder}: no space left on device")
        self.folder = folder


def has_room(folder: Path) -> bool:
    """Whether what a start writes fits into a folder's file system."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize >= _ENOUGH and (status.f_favail > 0 or not status.f_files)


@contextlib.contextmanager
def needing_room(folder: Path) -> Iterator[None]:
    """Raise NoRoom where something fails because a folder is full: a write of ours, or a runtime of another reason."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise NoRoom(folder) from error
    except RuntimeFailed as error:
        if isinstance(error, NoRoom) or has_room(folder):
            raise
        raise NoRoom(folder, str(error)) from error
