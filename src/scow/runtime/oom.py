"""Telling at once that the kernel killed a process of a container for want of memory.

conmon hears of it from the control group and makes a file `oom` in the bundle, the first time in a run.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from scow.linux.inotify import IN_CREATE, IN_IGNORED, IN_ONLYDIR, Change, Inotify

NAME: Final = "oom"


class OomWatch:
    """Watches bundles. `on_oom` is called with a container's ID; a watch goes with its bundle."""

    def __init__(self, on_oom: Callable[[str], None]) -> None:
        self._on_oom = on_oom
        self._inotify: Inotify | None = None
        self._ids: dict[int, str] = {}

    def watch(self, id: str, bundle: Path) -> bool:
        """Watch a run from here on; True if it has happened in it already."""
        if self._inotify is None:
            self._inotify = Inotify(self._on_changes)
        try:
            self._ids[self._inotify.add(bundle, IN_CREATE | IN_ONLYDIR)] = id
        except OSError:  # it has ended; or the kernel gives no more watches: then it is told at the end
            return False
        return (bundle / NAME).exists()

    def close(self) -> None:
        """End all watches. Idempotent."""
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None
        self._ids.clear()

    def _on_changes(self, changes: list[Change]) -> None:
        for change in changes:
            if change.mask & IN_IGNORED:
                self._ids.pop(change.watch, None)
            elif change.name == NAME and change.watch in self._ids:
                self._on_oom(self._ids[change.watch])
