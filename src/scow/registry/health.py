"""Whether the registry can do what it is asked for: its names and its folder are within reach."""

import asyncio
import time
from pathlib import Path
from typing import Final

from scow.registry.errors import StorageUnavailable
from scow.registry.sql import Database

FRESH_S: Final = 1.0
"""However many ask, it is found out no more often."""
ASK_S: Final = 2.0


class Health:
    """Answers for the database, and for the folder of blobs if there is one."""

    def __init__(self, database: Database, blobs: Path | None) -> None:
        self._database = database
        self._blobs = blobs
        self._asking = asyncio.Lock()
        self._asked_at = -FRESH_S
        self._why = ""

    async def check(self) -> None:
        """Raise StorageUnavailable if something is out of reach."""
        async with self._asking:
            if time.monotonic() - self._asked_at >= FRESH_S:
                self._why = await self._ask()
                self._asked_at = time.monotonic()
        if self._why:
            raise StorageUnavailable(self._why)

    async def _ask(self) -> str:
        try:
            async with asyncio.timeout(ASK_S):
                await self._database.row("SELECT 1")
                if self._blobs is not None and not await asyncio.to_thread(self._blobs.is_dir):
                    return f"{self._blobs} is not there"
        except TimeoutError:
            return "the database or the folder does not answer"
        except StorageUnavailable as error:
            return error.why
        except Exception as error:  # whatever a database says that is damaged or gone: it is not ready
            return f"{type(error).__name__}: {error}"
        return ""
