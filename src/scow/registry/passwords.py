"""Passwords: how they are kept, checked without haste, and guarded against guessing.

A bcrypt check takes 50 to 250 ms, and docker sends the password with every request: what was right once is
remembered for minutes, as a keyed hash. Wrong ones make the next answer to the same address or name come later.
"""

import asyncio
import hashlib
import hmac
import os
import secrets
import time
from pathlib import Path
from typing import Final

from scow.errors import InvalidArgument
from scow.registry.accounts import Account, Accounts
from scow.registry.errors import TooManyRequests
from scow.registry.rates import client_of
from scow.registry.shared import SharedTable

REMEMBER_S: Final = 300
REMEMBERED_LIMIT: Final = 10_000
PASSWORD_LIMIT: Final = 72
"""bcrypt looks at no more bytes, and newer versions raise instead of cutting."""
FRESH_S: Final = 1.0
CHECKS: Final = 4
"""bcrypt checks that run at once: a crowd of guesses does not take the threads of everybody else."""
FREE_TRIES: Final = 3
FIRST_DELAY_S: Final = 0.5
LAST_DELAY_S: Final = 8.0
FORGET_S: Final = 600.0
WAITING_LIMIT: Final = 100
# Checked when the name is unknown, so that the answer takes as long as for a known one.
_NOBODY: Final = b"$2b$10$CwTycUXWue0Thq9StjUM0uJ8lUk5Hn5VRPzrcTIY6TSzHb4hUD7.2"


class HtpasswdInvalid(InvalidArgument):
    """A line of the htpasswd file cannot be used."""

    def __init__(self, path: Path, line: int, why: str) -> None:
        super().__init__(f"{path}:{line}: {why}")


def hash_password(password: str) -> str:
    """A bcrypt hash to be stored. Slow on purpose. Raises InvalidArgument."""
    data = password.encode()
    if not data or len(data) > PASSWORD_LIMIT:
        raise InvalidArgument(f"the password must have 1 to {PASSWORD_LIMIT} bytes")
    import bcrypt  # here, for most processes never need it

    return bcrypt.hashpw(data, bcrypt.gensalt(10)).decode()


def make_secret() -> tuple[str, str]:
    """A robot's secret, and what is kept of it. It is random enough to need no slow hash."""
    secret = secrets.token_urlsafe(32)
    return secret, f"sha256:{hashlib.sha256(secret.encode()).hexdigest()}"


def read_htpasswd(path: Path) -> dict[str, str]:
    """Names and bcrypt hashes of an htpasswd file. Raises HtpasswdInvalid and OSError."""
    users = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, colon, password_hash = line.partition(":")
        if not colon or not name:
            raise HtpasswdInvalid(path, number, "expected name:hash")
        if not password_hash.startswith(("$2a$", "$2b$", "$2y$")):
            raise HtpasswdInvalid(path, number, "only bcrypt hashes are supported, make them with htpasswd -B")
        users[name] = password_hash
    return users


class Delays:
    """How long the next try of an address or name has to wait: over all workers, if `failures` are theirs."""

    def __init__(self, failures: SharedTable | None = None) -> None:
        self._failures = failures or SharedTable()  # until when they are remembered (monotonic), and how many
        self.waiting = 0

    def delay_s(self, *keys: str) -> float:
        """Seconds to wait before the next check."""
        now, worst = time.monotonic(), 0.0
        for key in keys:
            until, count = self._failures.look(key.encode())
            if now < until:
                worst = max(worst, count)
        # The exponent is bounded, as the count is not.
        return min(FIRST_DELAY_S * 2 ** min(worst - FREE_TRIES, 16), LAST_DELAY_S) if worst >= FREE_TRIES else 0.0

    def failed(self, *keys: str) -> None:
        """Take note of a wrong password."""
        now = time.monotonic()
        for key in keys:
            self._failures.update(
                key.encode(), lambda until, count: (now + FORGET_S, (count if now < until else 0.0) + 1)
            )

    def succeeded(self, *keys: str) -> None:
        """Forget what was wrong before."""
        for key in keys:
            self._failures.update(key.encode(), lambda *_: (0.0, 0.0))


class Passwords:
    """The accounts and the htpasswd file, and whether a password is right."""

    def __init__(self, accounts: Accounts, htpasswd: Path | None, failures: SharedTable | None = None) -> None:
        """`failures` are what all workers remember of wrong passwords; without it this process does alone."""
        self._accounts = accounts
        self._htpasswd = htpasswd
        self._known: dict[str, Account] = {}
        self._read_at = -FRESH_S
        self._version = -1
        self._file_users: dict[str, str] = {}
        self._file_stamp: tuple[int, int] | None = None
        self._key = os.urandom(32)
        self._remembered: dict[bytes, float] = {}
        self._delays = Delays(failures)
        self._checks = asyncio.Semaphore(CHECKS)

    async def known(self, *, fresh: bool = False) -> dict[str, Account]:
        """Everybody who can log in, as of a second ago or, if it has to be `fresh`, of now."""
        now = time.monotonic()
        if now - self._read_at < FRESH_S and not (fresh and self._accounts.version() != self._version):
            return self._known
        version = self._accounts.version()
        users = await self._accounts.all()
        if self._htpasswd is not None:
            stat = await asyncio.to_thread(self._htpasswd.stat)
            if (stamp := (stat.st_mtime_ns, stat.st_size)) != self._file_stamp:
                self._file_users = await asyncio.to_thread(read_htpasswd, self._htpasswd)
                self._file_stamp = stamp
        self._known = {name: Account(secret) for name, secret in self._file_users.items()} | users
        self._read_at, self._version = now, version
        return self._known

    def forget(self) -> None:
        """Read the accounts anew for the next request."""
        self._read_at = -FRESH_S

    async def exists(self, name: str) -> bool:
        """Whether the account is there and has not expired."""
        return await self._stored(name, fresh=True) is not None

    async def secret(self, name: str) -> str | None:
        """What is kept of an account's password, which changes with it; None without such an account."""
        return await self._stored(name)

    async def check(self, name: str, password: str, remote: str) -> bool:
        """Whether it is the password of an account. Waits after wrong ones. Raises TooManyRequests."""
        stored = await self._stored(name)
        proof = hmac.digest(self._key, f"{name}\0{stored}\0{password}".encode(), hashlib.sha256)
        if time.monotonic() < self._remembered.get(proof, 0.0):
            return True
        keys = (f"address {client_of(remote)!r}", f"name {name}")
        await self._wait(keys)
        if not await self._verify(stored, password.encode()):
            newer = await self._stored(name, fresh=True)
            if newer == stored or not await self._verify(newer, password.encode()):
                self._delays.failed(*keys)
                return False
            return True
        self._delays.succeeded(*keys)
        if len(self._remembered) >= REMEMBERED_LIMIT:
            self._remembered.clear()
        self._remembered[proof] = time.monotonic() + REMEMBER_S
        return True

    async def _stored(self, name: str, *, fresh: bool = False) -> str | None:
        account = (await self.known(fresh=fresh)).get(name)
        return account.secret if account is not None and not _is_expired(account) else None

    async def _wait(self, keys: tuple[str, str]) -> None:
        delay_s = self._delays.delay_s(*keys)
        if not delay_s:
            return
        if self._delays.waiting >= WAITING_LIMIT:
            raise TooManyRequests(delay_s)
        self._delays.waiting += 1
        try:
            await asyncio.sleep(delay_s)
        finally:
            self._delays.waiting -= 1

    async def _verify(self, stored: str | None, password: bytes) -> bool:
        if stored is not None and stored.startswith("sha256:"):
            return hmac.compare_digest(stored, f"sha256:{hashlib.sha256(password).hexdigest()}")
        wanted = stored.encode() if stored is not None else _NOBODY
        async with self._checks:
            right = await asyncio.to_thread(_is_hash_of, password[:PASSWORD_LIMIT], wanted)
        return right and stored is not None


def _is_hash_of(password: bytes, wanted: bytes) -> bool:
    import bcrypt

    return bcrypt.checkpw(password, wanted)


def _is_expired(account: Account) -> bool:
    return account.expires_at is not None and account.expires_at < time.time()
