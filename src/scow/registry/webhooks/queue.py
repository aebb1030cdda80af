"""The events that endpoints have not been told yet, in the database, in order for each endpoint."""

from typing import Final

import msgspec

from scow.registry.sql import Database, Session


class Notice(msgspec.Struct, frozen=True):
    """An event on its way to an endpoint."""

    notice_id: int
    event: bytes  # JSON
    made_at: float  # seconds since the epoch


class Notices:
    """Keeps notices until they are delivered."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def version(self) -> int:
        """Moves when any process has changed anything; may not tell at once of what others have added."""
        return self._db.version()

    async def add(self, notices: list[tuple[str, bytes]], now: float) -> None:
        """Queue events, each with its endpoint's name."""

        async def add(session: Session) -> None:
            await session.run_many(
                "INSERT INTO notice (endpoint, event, made_at) VALUES (?, ?, ?)",
                [(endpoint, event, now) for endpoint, event in notices],
            )

        # Not synced: it survives the death of processes, and a push need not wait for a second sync.
        await self._db.write(add, durable=False)

    async def next(self, endpoint: str, limit: int) -> list[Notice]:
        """The oldest notices of an endpoint."""
        query = "SELECT id, event, made_at FROM notice WHERE endpoint = ? ORDER BY id LIMIT ?"
        return [Notice(row[0], bytes(row[1]), row[2]) for row in await self._db.rows(query, endpoint, limit)]

    async def remove(self, endpoint: str, up_to: int) -> None:
        """Forget what was delivered, or given up."""

        async def remove(session: Session) -> None:
            await session.run("DELETE FROM notice WHERE endpoint = ? AND id <= ?", endpoint, up_to)

        await self._db.write(remove, durable=False)

    async def trim(self, endpoint: str, limit: int) -> int:
        """Forget the oldest beyond `limit`; how many they were."""
        query = "SELECT id FROM notice WHERE endpoint = ? ORDER BY id DESC LIMIT 1 OFFSET ?"
        row = await self._db.row(query, endpoint, limit)
        if row is None:
            return 0

        async def trim(session: Session) -> int:
            return await session.run("DELETE FROM notice WHERE endpoint = ? AND id <= ?", endpoint, row[0])

        return await self._db.write(trim, durable=False)

    async def waiting(self) -> dict[str, int]:
        """How many notices wait for each endpoint."""
        rows = await self._db.rows("SELECT endpoint, COUNT(*) FROM notice GROUP BY endpoint")
        return {row[0]: row[1] for row in rows}

    async def forget_others(self, endpoints: list[str]) -> int:
        """Forget the notices of endpoints that are no longer configured."""
        gone = [name for name in await self.waiting() if name not in endpoints]

        async def forget(session: Session) -> int:
            count = 0
            for name in gone:
                count += await session.run("DELETE FROM notice WHERE endpoint = ?", name)
            return count

        return await self._db.write(forget, durable=False) if gone else 0


BUFFER_LIMIT: Final = 10_000
"""Pulls that wait in memory to be queued; more are dropped."""
