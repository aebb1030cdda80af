"""Who may do what: anonymous, or HTTP Basic with users of the metadata store and of an htpasswd file.

A bcrypt check takes 50 to 250 ms, and docker sends the password with every request: what was right once is
remembered for minutes, as a keyed hash.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import os
import time
from pathlib import Path
from typing import Final

import bcrypt

from scow.errors import InvalidArgument
from scow.registry.errors import AuthenticationRequired
from scow.registry.metadata import Metadata

REMEMBER_S: Final = 300
REMEMBERED_LIMIT: Final = 10_000
PASSWORD_LIMIT: Final = 72
"""bcrypt looks at no more bytes, and newer versions raise instead of cutting."""
USERS_FRESH_S: Final = 1.0
# Checked when the name is unknown, so that the answer takes as long as for a known one.
_NOBODY: Final = b"$2b$10$CwTycUXWue0Thq9StjUM0uJ8lUk5Hn5VRPzrcTIY6TSzHb4hUD7.2"
REALM: Final = "scow registry"


class HtpasswdInvalid(InvalidArgument):
    """A line of the htpasswd file cannot be used."""

    def __init__(self, path: Path, line: int, why: str) -> None:
        super().__init__(f"{path}:{line}: {why}")


def hash_password(password: str) -> str:
    """A bcrypt hash to be stored. Slow on purpose. Raises InvalidArgument."""
    data = password.encode()
    if not data or len(data) > PASSWORD_LIMIT:
        raise InvalidArgument(f"the password must have 1 to {PASSWORD_LIMIT} bytes")
    return bcrypt.hashpw(data, bcrypt.gensalt(10)).decode()


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


class Access:
    """Decides about requests. With no users anywhere everybody may do everything."""

    def __init__(self, metadata: Metadata, htpasswd: Path | None, anonymous_pull: bool) -> None:
        self._metadata = metadata
        self._htpasswd = htpasswd
        self._anonymous_pull = anonymous_pull
        self._users: dict[str, str] = {}
        self._users_read_at = -USERS_FRESH_S
        self._file_users: dict[str, str] = {}
        self._file_stamp: tuple[int, int] | None = None
        self._key = os.urandom(32)
        self._remembered: dict[bytes, tuple[str, float]] = {}

    async def check(self, authorization: str | None, *, pull: bool) -> str | None:
        """The caller's name, None for anonymous; `pull` says that it only reads. Raises AuthenticationRequired."""
        users = await self._current_users()
        if not users and self._htpasswd is None:
            return None
        if authorization is None:
            if pull and self._anonymous_pull:
                return None
            raise AuthenticationRequired(REALM)
        name, password = _parse_basic(authorization)
        stored = users.get(name)
        proof = hmac.digest(self._key, f"{name}\0{stored}\0{password}".encode(), hashlib.sha256)
        known = self._remembered.get(proof)
        if known is not None and time.monotonic() < known[1]:
            return known[0]
        data = password.encode()[:PASSWORD_LIMIT]
        right = await asyncio.to_thread(bcrypt.checkpw, data, stored.encode() if stored else _NOBODY)
        if not right or stored is None:
            raise AuthenticationRequired(REALM)
        if len(self._remembered) >= REMEMBERED_LIMIT:
            self._remembered.clear()
        self._remembered[proof] = (name, time.monotonic() + REMEMBER_S)
        return name

    async def _current_users(self) -> dict[str, str]:
        now = time.monotonic()
        if now - self._users_read_at >= USERS_FRESH_S:
            users = await self._metadata.users()
            if self._htpasswd is not None:
                stat = await asyncio.to_thread(self._htpasswd.stat)
                if (stamp := (stat.st_mtime_ns, stat.st_size)) != self._file_stamp:
                    self._file_users = await asyncio.to_thread(read_htpasswd, self._htpasswd)
                    self._file_stamp = stamp
            self._users = {**self._file_users, **users}
            self._users_read_at = now
        return self._users


def _parse_basic(authorization: str) -> tuple[str, str]:
    scheme, _, value = authorization.partition(" ")
    try:
        name, colon, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError) as error:
        raise AuthenticationRequired(REALM) from error
    if scheme.lower() != "basic" or not colon or "\0" in name:
        raise AuthenticationRequired(REALM)
    return name, password
