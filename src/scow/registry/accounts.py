"""Who can log in, what tokens are signed with, and which refresh tokens are out.

`Accounts` is what access control needs of whoever keeps them; the records are what crosses that line.
"""

import sqlite3
import time
from typing import Protocol

import msgspec

from scow.registry.database import Database


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


class SqliteAccounts:
    """Accounts in the registry's SQLite file."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def version(self) -> int:
        return self._db.version()

    async def put(self, name: str, account: Account) -> None:
        def put(db: sqlite3.Connection) -> None:
            db.execute("INSERT OR REPLACE INTO user VALUES (?, ?, ?)", (name, account.secret, account.expires_at))
            db.execute("DELETE FROM refresh_token WHERE user = ?", (name,))

        await self._db.write(put)

    async def remove(self, name: str) -> bool:
        def remove(db: sqlite3.Connection) -> bool:
            db.execute("DELETE FROM refresh_token WHERE user = ?", (name,))
            return db.execute("DELETE FROM user WHERE name = ?", (name,)).rowcount > 0

        return await self._db.write(remove)

    async def all(self) -> dict[str, Account]:
        query = "SELECT name, password, expires_at FROM user"
        return await self._db.read(lambda db: {row[0]: Account(row[1], row[2]) for row in db.execute(query)})

    async def signing_keys(self) -> list[SigningKey]:
        query = "SELECT id, data, made_at FROM signing_key ORDER BY made_at DESC"
        return await self._db.read(lambda db: [SigningKey(*row) for row in db.execute(query)])

    async def put_signing_key(self, key: SigningKey, drop_before: float) -> None:
        def put(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM signing_key WHERE made_at < ?", (drop_before,))
            db.execute("INSERT INTO signing_key VALUES (?, ?, ?)", (key.key_id, key.data, key.made_at))

        await self._db.write(put)

    async def put_refresh_token(self, token_hash: bytes, token: RefreshToken) -> None:
        def put(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM refresh_token WHERE expires_at < ?", (time.time(),))
            values = (token_hash, token.user, token.client, token.expires_at)
            db.execute("INSERT OR REPLACE INTO refresh_token VALUES (?, ?, ?, ?)", values)

        await self._db.write(put)

    async def refresh_token(self, token_hash: bytes) -> RefreshToken | None:
        query = "SELECT user, client, expires_at FROM refresh_token WHERE hash = ? AND expires_at >= ?"
        row = await self._db.read(lambda db: db.execute(query, (token_hash, time.time())).fetchone())
        return RefreshToken(*row) if row else None
