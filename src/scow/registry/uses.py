"""When manifests were pulled last, where a policy asks for it: noted in the database, an hour or so apart."""

import asyncio
import logging
import time
from collections import OrderedDict
from typing import Final

from scow.oci.digest import Digest
from scow.registry.policies import Policies
from scow.registry.sql import Database, Session

AGAIN_S: Final = 3600.0
"""A use is noted again after so long: retention counts in days."""
FLUSH_S: Final = 1.0
KNOWN_LIMIT: Final = 50_000

log = logging.getLogger("scow.registry")


class Uses:
    """Whoever made it closes it."""

    def __init__(self, database: Database, policies: Policies) -> None:
        self._db = database
        self._policies = policies
        self._noted: OrderedDict[tuple[str, Digest], float] = OrderedDict()
        self._waiting: dict[tuple[str, Digest], float] = {}
        self._flushing: asyncio.Task[None] | None = None

    @property
    def wanted(self) -> bool:
        """Whether it matters anywhere."""
        return self._policies.pulls_matter

    def note(self, repository: str, digest: Digest) -> None:
        """A manifest was pulled. It is written down a moment later."""
        if not self._policies.counts_pulls(repository):
            return
        key, now = (repository, digest), time.time()
        if self._noted.get(key, 0.0) > now - AGAIN_S:
            return
        self._noted[key] = self._waiting[key] = now
        self._noted.move_to_end(key)
        if len(self._noted) > KNOWN_LIMIT:
            self._noted.popitem(last=False)
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())

    async def _flush(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(FLUSH_S)
                await self.flush()
        except Exception:
            log.exception("pulls could not be noted for retention")
        finally:
            self._flushing = None

    async def flush(self) -> None:
        """Write down what is waiting."""
        taken, self._waiting = self._waiting, {}

        async def write(session: Session) -> None:
            await session.run_many(
                "INSERT INTO manifest_use (repository, digest, used_at) SELECT m.repository, m.digest, ? "
                "FROM repository r JOIN manifest m ON m.repository = r.id WHERE r.name = ? AND m.digest = ? "
                "ON CONFLICT (repository, digest) DO UPDATE SET used_at = excluded.used_at",
                [(used_at, *key) for key, used_at in sorted(taken.items())],
            )

        if taken:
            await self._db.write(write, durable=False)

    async def aclose(self) -> None:
        """Write what is still in memory."""
        if self._flushing is not None:
            self._flushing.cancel()
            await asyncio.gather(self._flushing, return_exceptions=True)
        await self.flush()
