"""What one process of all that serve a registry does at a time: leases by name, and when each was done last."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from scow.registry.sql import Database, Session


@asynccontextmanager
async def kept(jobs: "Jobs", name: str, for_s: float) -> AsyncIterator[None]:
    """Go on holding a lease for as long as the context lasts."""

    async def renew() -> None:
        while True:
            await asyncio.sleep(for_s / 3)
            await jobs.lease(name, for_s)

    task = asyncio.create_task(renew())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Jobs:
    """Leases in the database; a process that dies loses its own when they end."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._holder = str(uuid.uuid4())

    async def lease(self, name: str, for_s: float) -> bool:
        """Take a job, or keep it; False while another process has it."""
        now = time.time()

        async def lease(session: Session) -> bool:
            await session.run(
                "INSERT INTO job (name, holder, leased_until, done_at) VALUES (?, '', 0, 0) ON CONFLICT DO NOTHING",
                name,
            )
            taken = "UPDATE job SET holder = ?, leased_until = ? WHERE name = ? AND (holder = ? OR leased_until < ?)"
            return await session.run(taken, self._holder, now + for_s, name, self._holder, now) > 0

        return await self._db.write(lease, durable=False)

    async def release(self, name: str, *, done: bool = False) -> None:
        """Let others have it; `done` notes that it was done now."""
        now = time.time()

        async def release(session: Session) -> None:
            if done:
                await session.run("UPDATE job SET done_at = ? WHERE name = ? AND holder = ?", now, name, self._holder)
            await session.run("UPDATE job SET leased_until = 0 WHERE name = ? AND holder = ?", name, self._holder)

        await self._db.write(release, durable=False)

    async def since(self, name: str) -> float:
        """When this was asked first (seconds since the epoch), by any process, or after `forget`."""
        if at := await self.done_at(name):
            return at
        now = time.time()

        async def note(session: Session) -> None:
            await session.run(
                "INSERT INTO job (name, holder, leased_until, done_at) VALUES (?, '', 0, ?) ON CONFLICT DO NOTHING",
                *(name, now),
            )

        await self._db.write(note, durable=False)
        return now

    async def forget(self, name: str) -> None:
        """Forget everything about a job."""
        if await self.done_at(name):

            async def forget(session: Session) -> None:
                await session.run("DELETE FROM job WHERE name = ?", name)

            await self._db.write(forget, durable=False)

    async def done_at(self, name: str) -> float:
        """When it was done last (seconds since the epoch), 0 if never."""
        row = await self._db.row("SELECT done_at FROM job WHERE name = ?", name)
        return float(row[0]) if row is not None else 0.0
