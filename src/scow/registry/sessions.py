"""Sessions of browsers: who has logged in on the page, kept in a signed cookie, so that every process knows of it.

A cookie counts for pages alone, never for the API. It ends with its time, with a new password and with the account.
"""

import hashlib
import hmac
import time
from typing import Any, Final

import msgspec

from scow.registry.calls import Call
from scow.registry.keys import Keys
from scow.registry.passwords import Passwords
from scow.registry.rules import Identity

AUDIENCE: Final = "scow-registry pages"
COOKIE: Final = "scow-session"
_KEPT_LIMIT: Final = 10_000


class _Session(msgspec.Struct, frozen=True):
    identity: Identity
    proof: str  # of the account's secret; empty for who came by an issuer
    expires_at: float  # seconds since the epoch


class Sessions:
    """Makes and reads the cookies."""

    def __init__(self, keys: Keys, passwords: Passwords, life_s: float, groups: frozenset[str]) -> None:
        """`groups` are those that any rule names: an issuer's others would make a cookie larger than browsers take."""
        self._keys = keys
        self._passwords = passwords
        self._life_s = life_s
        self._groups = groups
        self._kept: dict[str, _Session] = {}

    async def begin(self, call: Call, identity: Identity) -> tuple[str, str]:
        """The header that gives the browser its cookie."""
        now = int(time.time())
        claims: dict[str, Any] = {
            "aud": AUDIENCE,
            "sub": identity.name,
            "groups": sorted(identity.groups & self._groups),
            "proof": await self._proof(identity.name) if identity.local else "",
            "exp": now + int(self._life_s),
        }
        return set_cookie(call, COOKIE, await self._keys.sign(claims), int(self._life_s))

    async def find(self, call: Call) -> Identity | None:
        """Who has sent the request, by its cookie."""
        text = cookie(call, COOKIE)
        if text is None:
            return None
        session = self._kept.get(text)
        if session is None:
            claims = await self._keys.verify(text)
            if claims is None or claims.get("aud") != AUDIENCE:
                return None
            identity = Identity(claims["sub"], frozenset(claims["groups"]), local=bool(claims["proof"]))
            session = _Session(identity, claims["proof"], claims["exp"])
            if len(self._kept) >= _KEPT_LIMIT:
                self._kept.clear()
            self._kept[text] = session
        if time.time() >= session.expires_at:
            return None
        if session.proof and not hmac.compare_digest(session.proof, await self._proof(session.identity.name)):
            return None  # the password is another one now, or the account is gone
        return session.identity

    async def _proof(self, name: str) -> str:
        secret = await self._passwords.secret(name) or ""
        return hashlib.sha256(f"session\0{name}\0{secret}".encode()).hexdigest()[:32] if secret else "-"


def end(call: Call) -> tuple[str, str]:
    """The header that takes the cookie away."""
    return set_cookie(call, COOKIE, "", 0)


def set_cookie(call: Call, name: str, value: str, life_s: int, same_site: str = "Lax") -> tuple[str, str]:
    """A header that sets a cookie which scripts don't see and other sites can't send along."""
    secure = call.base_url.startswith("https:")
    name = f"__Host-{name}" if secure else name
    ending = "; Secure" if secure else ""
    return "Set-Cookie", f"{name}={value}; Path=/; Max-Age={life_s}; HttpOnly; SameSite={same_site}{ending}"


def cookie(call: Call, name: str) -> str | None:
    """The value of a cookie that `set_cookie` has set."""
    name = f"__Host-{name}" if call.base_url.startswith("https:") else name
    for part in call.headers.get("Cookie", "").split(";"):
        key, _, value = part.strip().partition("=")
        if key == name and value:
            return value
    return None
