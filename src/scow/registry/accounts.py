"""Who can log in, what tokens are signed with, and which refresh tokens are out.

`Accounts` is what access control needs of whoever keeps them; the records are what crosses that line.
"""

import time
from typing import Protocol

import msgspec

from scow.registry.sql import Database, Session


class Account(msgspec.Struct, frozen=True):
    """Somebody who can log in."""

    secret: str  # bcrypt hash of the password, or `sha256:<hex>` of a robot's random secret
    expires_at: float | None = None  # seconds since the epoch


class SigningKey(msgspec.Struct, frozen=True):
    """A key for tokens."""

    key_id: str
    data: str  # JWK with the private part
    made_at: float  # seconds since the epoch


class RefreshToken(msgspec.Struct, frozen=True):
    """A refresh token that is out; the token itself is not kept."""

    user: str
    client: str
    expires_at: float  # seconds since the epoch


class Accounts(Protocol):
    """Where accounts are kept."""

    def version(self) -> int:
        """Changes whenever any process has changed anything. Cheap."""

    async def put(self, name: str, account: Account) -> None:
        """Add an account or change it; its refresh tokens are void."""

    async def remove(self, name: str) -> bool:
        """Remove an account and its refresh tokens; False if there was none."""

    async def all(self) -> dict[str, Account]:
        """Every account by name."""

    async def signing_keys(self) -> list[SigningKey]:
        """All keys, the newest first."""

    async def put_signing_key(self, key: SigningKey, drop_before: float) -> None:
        """Add a key and forget those made before `drop_before` (seconds since the epoch)."""

    async def put_refresh_token(self, token_hash: bytes, token: RefreshToken) -> None:
        """Remember a refresh token, and forget expired ones."""

    async def refresh_token(self, token_hash: bytes) -> RefreshToken | None:
        """Find a refresh token that has not expired."""


class SqlAccounts:
    """Accounts in the registry's database."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def version(self) -> int:
        return self._db.version()

    async def put(self, name: str, account: Account) -> None:
        async def put(session: Session) -> None:
            await session.run(
                'INSERT INTO "user" (name, password, expires_at) VALUES (?, ?, ?) ON CONFLICT (name) '
                "DO UPDATE SET password = excluded.password, expires_at = excluded.expires_at",
                *(name, account.secret, account.expires_at),
            )
            await session.run('DELETE FROM refresh_token WHERE "user" = ?', name)

        await self._db.write(put, frees=True)

    async def remove(self, name: str) -> bool:
        async def remove(session: Session) -> bool:
            await session.run('DELETE FROM refresh_token WHERE "user" = ?', name)
            return await session.run('DELETE FROM "user" WHERE name = ?', name) > 0

        return await self._db.write(remove, frees=True)

    async def all(self) -> dict[str, Account]:
        rows = await self._db.rows('SELECT name, password, expires_at FROM "user"')
        return {row[0]: Account(row[1], row[2]) for row in rows}

    async def signing_keys(self) -> list[SigningKey]:
        query = "SELECT id, data, made_at FROM signing_key ORDER BY made_at DESC"
        return [SigningKey(*row) for row in await self._db.rows(query)]

    async def put_signing_key(self, key: SigningKey, drop_before: float) -> None:
        async def put(session: Session) -> None:
            await session.run("DELETE FROM signing_key WHERE made_at < ?", drop_before)
            statement = "INSERT INTO signing_key (id, data, made_at) VALUES (?, ?, ?)"
            await session.run(statement, key.key_id, key.data, key.made_at)

        await self._db.write(put, frees=True)

    async def put_refresh_token(self, token_hash: bytes, token: RefreshToken) -> None:
        async def put(session: Session) -> None:
            await session.run("DELETE FROM refresh_token WHERE expires_at < ?", time.time())
            await session.run(
                'INSERT INTO refresh_token (hash, "user", client, expires_at) VALUES (?, ?, ?, ?) ON CONFLICT (hash) '
                'DO UPDATE SET "user" = excluded."user", client = excluded.client, expires_at = excluded.expires_at',
                *(token_hash, token.user, token.client, token.expires_at),
            )

        await self._db.write(put)

    async def refresh_token(self, token_hash: bytes) -> RefreshToken | None:
        query = 'SELECT "user", client, expires_at FROM refresh_token WHERE hash = ? AND expires_at >= ?'
        row = await self._db.row(query, token_hash, time.time())
        return RefreshToken(*row) if row else None
