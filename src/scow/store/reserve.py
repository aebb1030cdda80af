"""Room that is kept for an engine which starts on a full disk: with none at all SQLite can't even forget something.

The file is given up when a start finds no room beside it, so that what fills the disk can be removed by the engine's
own means, and made again when there is plenty.
"""

import contextlib
import logging
import os
from pathlib import Path
from typing import Final

SIZE: Final = 2 << 20  # bytes: for some hundreds of commits
PLENTY: Final = 4 * SIZE

log = logging.getLogger(__name__)


def spend(file: Path) -> None:
    """Give the room up if there is hardly any beside it. Blocks."""
    with contextlib.suppress(FileNotFoundError):
        if _free(file) < SIZE:
            file.unlink()
            log.warning("%s is full: %d bytes that were kept for this are given up", file.parent, SIZE)


def keep(file: Path) -> None:
    """Take the room, if it is not taken and there is plenty. Blocks."""
    if file.exists() or _free(file) < PLENTY:
        return
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, SIZE)
    except OSError:  # others took what there was just now; the next time will do
        file.unlink()
    finally:
        os.close(fd)


def _free(file: Path) -> int:
    """Bytes that root can still write beside the file."""
    there = os.statvfs(file.parent)
    return there.f_bfree * there.f_frsize
