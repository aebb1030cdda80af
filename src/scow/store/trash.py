"""Trash: trees that are gone for everybody else, and whose files are deleted when there is time.

Taking is one rename, so that a directory never is half there; what a killed process left is deleted at the next start.
"""

import asyncio
import logging
import os
import secrets
import shutil
from pathlib import Path

log = logging.getLogger(__name__)


class Trash:
    """The folder `root`, on the same file system as what it takes. Deleting is done by tasks that `aclose` awaits."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._tasks: set[asyncio.Task[None]] = set()

    async def take(self, path: Path) -> None:
        """Make `path` vanish now, and delete what it was later. Nothing to do if there is no such path."""
        taken = await asyncio.to_thread(self.take_now, path)
        if taken is not None:
            self._delete_later(taken)

    def take_now(self, path: Path) -> Path | None:
        """Move `path` into the trash, without deleting it yet; return where it is, None if there was nothing."""
        target = self._root / secrets.token_hex(8)
        try:
            os.rename(path, target)
        except FileNotFoundError:
            return None
        return target

    async def empty(self) -> None:
        """Delete, later, what lies in the trash: for start-up."""
        for name in await asyncio.to_thread(os.listdir, self._root):
            self._delete_later(self._root / name)

    async def aclose(self) -> None:
        """Wait until what was taken is deleted."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    def _delete_later(self, path: Path) -> None:
        task = asyncio.get_running_loop().create_task(asyncio.to_thread(_delete, path))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _delete(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        # Immutable files, say. It is out of everybody's way, and tried again at the next start.
        log.warning("cannot delete %s: %s", path, error)
