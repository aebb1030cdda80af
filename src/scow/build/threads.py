"""Work in threads whose result is somebody's to give back."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def made(work: Callable[[], T], undo: Callable[[T], object]) -> T:
    """Have a thread make something. Cancelled, wait for the thread, which can't be stopped, and undo what it made."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        if not task.cancelled() and task.exception() is None:
            undo(task.result())
        raise
