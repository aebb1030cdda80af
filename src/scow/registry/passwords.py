"""Passwords: how they are kept, checked without haste, and guarded against guessing.

A bcrypt check takes 50 to 250 ms, and docker sends the password with every request: what was right once is
remembered for minutes, as a keyed hash. Wrong ones make the next answer to the same address or name come later.
Requests with one password at the same time are one check; of different ones an address has few at a time.
"""

import asyncio
import hashlib
import hmac
import os
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final

from scow.errors import InvalidArgument
from scow.registry.accounts import Account, Accounts
from scow.registry.errors import TooManyRequests
from scow.registry.htpasswd import Htpasswd
from scow.registry.rates import client_of
from scow.registry.rules import ROBOT
from scow.registry.shared import SharedTable

REMEMBER_S: Final = 300
REMEMBERED_LIMIT: Final = 10_000
PASSWORD_LIMIT: Final = 72
"""bcrypt looks at no more bytes, and newer versions raise instead of cutting."""
FRESH_S: Final = 1.0
CHECKS: Final = 4
"""bcrypt checks that run at once: a crowd of guesses does not take the threads of everybody else."""
GUESSES: Final = 2
"""The same for addresses that have guessed wrong, so that nobody else stands in a row behind a crowd of them."""
FREE_TRIES: Final = 3
FIRST_DELAY_S: Final = 0.5
LAST_DELAY_S: Final = 8.0
FORGET_S: Final = 600.0
WAITING_LIMIT: Final = 100
"""Tries of addresses that have guessed wrong that wait at once."""
OTHERS_LIMIT: Final = 1000
"""The same of other addresses: who guesses somebody's password elsewhere does not shut them out."""
TRIES_AT_ONCE: Final = 64
"""Different passwords of one address that are looked at together: guesses in a crowd keep nobody else waiting."""
TRIES_OF_NAME: Final = 8
"""The same for one name at that address: guesses come in a row, or the delays between them would count for little."""
_NOBODY: Final = "$2b${cost}$CwTycUXWue0Thq9StjUM0uJ8lUk5Hn5VRPzrcTIY6TSzHb4hUD7.2"
_NO_ROBOT: Final = f"sha256:{'0' * 64}"


def hash_password(password: str) -> str:
    """A bcrypt hash to be stored. Slow on purpose. Raises InvalidArgument."""
    try:
        data = password.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument("the password is not UTF-8") from error
    if not data or len(data) > PASSWORD_LIMIT:
        raise InvalidArgument(f"the password must have 1 to {PASSWORD_LIMIT} bytes")
    import bcrypt  # here, for most processes never need it

    return bcrypt.hashpw(data, bcrypt.gensalt(10)).decode()


def make_secret() -> tuple[str, str]:
    """A robot's secret, and what is kept of it. It is random enough to need no slow hash."""
    secret = secrets.token_urlsafe(32)
    return secret, f"sha256:{hashlib.sha256(secret.encode()).hexdigest()}"


class Delays:
    """How long the next try of an address or name has to wait: over all workers, if `failures` are theirs."""

    def __init__(self, failures: SharedTable | None = None) -> None:
        self._failures = failures or SharedTable()  # until when they are remembered (monotonic), and how many

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
        """`failures` are what all workers remember of wrong passwords; without it this process does alone.

        Blocks, to read the file. Raises HtpasswdInvalid and SettingsInvalid.
        """
        self._accounts = accounts
        self._htpasswd = Htpasswd(htpasswd) if htpasswd is not None else None
        self._known: dict[str, Account] = {}
        self._read_at = -FRESH_S
        self._version = -1
        self._key = os.urandom(32)
        self._remembered: dict[bytes, float] = {}
        self._delays = Delays(failures)
        self._checks = asyncio.Semaphore(CHECKS)
        self._guesses = asyncio.Semaphore(GUESSES)
        self._waiting = {True: 0, False: 0}  # by whether their address has guessed wrong
        self._tries: Counter[str] = Counter()  # that go on, by address and by name at an address
        self._asked: dict[bytes, asyncio.Task[bool]] = {}  # the same, by what would be remembered of them

    async def known(self, *, fresh: bool = False) -> dict[str, Account]:
        """Everybody who can log in, as of a second ago or, if it has to be `fresh`, of now."""
        now = time.monotonic()
        if now - self._read_at < FRESH_S and not (fresh and self._accounts.version() != self._version):
            return self._known
        version = self._accounts.version()
        users = await self._accounts.all()
        if self._htpasswd is not None:
            await asyncio.to_thread(self._htpasswd.reload)
            users = {name: Account(secret) for name, secret in self._htpasswd.users.items()} | users
        self._known = users
        self._read_at, self._version = now, version
        return self._known

    def forget(self) -> None:
        """Read the accounts anew for the next request."""
        self._read_at = -FRESH_S

    async def secret(self, name: str, *, fresh: bool = False) -> str | None:
        """What is kept of an account's password, which changes with it; None without an account that has not expired.

        As of a second ago or, if it has to be `fresh`, of now.
        """
        return await self._stored(name, fresh=fresh)

    async def check(self, name: str, password: str, remote: str) -> bool:
        """Whether it is the password of an account. Waits after wrong ones. Raises TooManyRequests."""
        stored = await self._stored(name)
        proof = hmac.digest(self._key, f"{name}\0{stored}\0{password}".encode(), hashlib.sha256)
        if time.monotonic() < self._remembered.get(proof, 0.0):
            return True
        task = self._asked.get(proof)
        if task is None:
            task = self._asked[proof] = asyncio.create_task(
                self._check(name, stored, password, client_of(remote), proof)
            )
            task.add_done_callback(lambda done: self._forget(proof, done))
        # Shielded: who hangs up takes the answer from nobody else, nor its failure from the count.
        return await asyncio.shield(task)

    def _forget(self, proof: bytes, done: "asyncio.Task[bool]") -> None:
        del self._asked[proof]
        if not done.cancelled():
            done.exception()  # whoever asked may have gone

    async def _check(self, name: str, stored: str | None, password: str, client: bytes, proof: bytes) -> bool:
        keys = (f"address {client!r}", f"name {name}")
        with self._place(keys[0], f"{keys[0]} {keys[1]}"):
            suspect = self._delays.delay_s(keys[0]) > 0
            await self._wait(self._delays.delay_s(*keys), suspect)
            async with self._guesses if suspect else nullcontext():
                return await self._try(name, stored, password, keys, proof)

    @contextmanager
    def _place(self, address: str, name: str) -> Iterator[None]:
        """Take a place among the tries of an address. Raises TooManyRequests if there is none."""
        if self._tries[address] >= TRIES_AT_ONCE or self._tries[name] >= TRIES_OF_NAME:
            raise TooManyRequests(FIRST_DELAY_S, "too many passwords at once")
        self._tries.update((address, name))
        try:
            yield
        finally:
            self._tries.subtract((address, name))
            for key in (address, name):
                if not self._tries[key]:
                    del self._tries[key]

    async def _try(self, name: str, stored: str | None, password: str, keys: tuple[str, str], proof: bytes) -> bool:
        if not await self._verify(name, stored, password.encode()):
            newer = await self._stored(name, fresh=True)
            if newer == stored or not await self._verify(name, newer, password.encode()):
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

    async def _wait(self, delay_s: float, suspect: bool) -> None:
        if not delay_s:
            return
        if self._waiting[suspect] >= (WAITING_LIMIT if suspect else OTHERS_LIMIT):
            raise TooManyRequests(delay_s)
        self._waiting[suspect] += 1
        try:
            await asyncio.sleep(delay_s)
        finally:
            self._waiting[suspect] -= 1

    async def _verify(self, name: str, stored: str | None, password: bytes) -> bool:
        wanted = stored if stored is not None else self._stand_in(name)
        if wanted.startswith("sha256:"):
            right = hmac.compare_digest(wanted, f"sha256:{hashlib.sha256(password).hexdigest()}")
        else:
            async with self._checks:
                right = await asyncio.to_thread(_is_hash_of, password[:PASSWORD_LIMIT], wanted.encode())
        return right and stored is not None

    def _stand_in(self, name: str) -> str:
        """What is checked where nobody has the name: it takes as long as for the others, and so tells nobody."""
        if name.startswith(ROBOT):
            return _NO_ROBOT
        costs = Counter(each.secret[4:6] for each in self._known.values() if each.secret.startswith("$2"))
        return _NOBODY.format(cost=costs.most_common(1)[0][0] if costs else "10")


def _is_hash_of(password: bytes, wanted: bytes) -> bool:
    import bcrypt

    return bcrypt.checkpw(password, wanted)


def _is_expired(account: Account) -> bool:
    return account.expires_at is not None and account.expires_at < time.time()
