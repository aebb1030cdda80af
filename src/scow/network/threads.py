"""Threads for calls that wait for the kernel: netlink, nftables, mounts."""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Threads:
    """A small pool. A call that is cancelled waits for its thread first, so that undoing never races with doing."""

    def __init__(self, count: int = 4) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="network")

    async def __call__(self, job: Callable[[], T]) -> T:
        future = asyncio.get_running_loop().run_in_executor(self._pool, job)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            while not future.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([future])
            if not future.cancelled():
                future.exception()  # seen: cancelled callers have no use for it
            raise

    def close(self) -> None:
        """Wait for what runs, and end the threads."""
        self._pool.shutdown()
