"""Named points in the engine's work, at which tests kill it, hold it or make it fail.

A crash between two steps, or a second request between them, is found by a test only if it can stop exactly there. Each
step that changes the world passes a point; unless a hook is set, that costs a comparison.
"""

import asyncio
import errno
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

VARIABLE = "SCOW_TEST_POINTS"
"""Names the file that `arm` reads its orders from, for tests that run the engine as a process of its own."""

_POLL_S = 0.005
_hook: Callable[[str], Awaitable[None]] | None = None


async def at(name: str) -> None:
    """Pass the point `name`."""
    if _hook is not None:
        await _hook(name)


def set_hook(hook: Callable[[str], Awaitable[None]] | None) -> None:
    """Have `hook` awaited at each point with its name; None ends that."""
    global _hook
    _hook = hook


def arm(file: Path) -> None:
    """Obey the orders in `file` at each point, as long as this process lives.

    An order is `POINT kill` (SIGKILL for this process), `POINT fail` (OSError: a full disk) or `POINT hold`: FILE.held
    appears, and the work goes on when the order is withdrawn.
    """
    held = file.with_name(f"{file.name}.held")

    def order(name: str) -> str:
        try:
            point, _, what = file.read_text().strip().partition(" ")
        except FileNotFoundError:
            return ""
        return what if point == name else ""

    async def obey(name: str) -> None:
        what = order(name)
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif what == "fail":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        elif what == "hold":
            held.touch()
            while order(name) == "hold":  # noqa: ASYNC110  # the order comes from another process
                await asyncio.sleep(_POLL_S)
            held.unlink(missing_ok=True)

    set_hook(obey)
