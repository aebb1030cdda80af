"""Subnets are chosen by one engine of the machine at a time.

Which are free is seen by the machine's routes, and there is a moment between the choice and the bridge that shows it:
in it, another engine would choose the same.
"""

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

LOCK: Final = Path("/run/scow-subnets.lock")
"""The machine's, not an engine's; locked by flock(2), which ends with its holder."""
PATIENCE_S: Final = 5.0
"""How long an engine that stands still is waited for."""
_POLL_S: Final = 0.005

_log = logging.getLogger(__name__)


@asynccontextmanager
async def choosing(lock: Path = LOCK) -> AsyncIterator[None]:
    """Keep other engines from choosing subnets until what was chosen here can be seen.

    Goes on without that where the lock can't be had: a collision is unlikely, and no network at all is worse.
    """
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        _log.warning("other engines of this machine may choose the same subnet: %s", error)
        yield
        return
    try:
        end = time.monotonic() + PATIENCE_S
        while not _locked(fd):
            if time.monotonic() > end:
                _log.warning("another engine has held %s for %g s: not waiting for it", lock, PATIENCE_S)
                break
            await asyncio.sleep(_POLL_S)
        yield
    finally:
        os.close(fd)


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
