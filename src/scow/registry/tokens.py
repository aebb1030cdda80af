"""Tokens of docker's token specification: signed ones that say what their bearer may do, and opaque refresh tokens.

Claims are those of docker's token specification (distribution's docs, spec/auth/jwt.md).
"""

import hashlib
import hmac
import secrets
import time
from typing import Any, Final, Protocol, TypedDict

import msgspec

from scow.registry.accounts import Accounts, RefreshToken
from scow.registry.jwks import LEEWAY_S, ForeignKeys, Peer
from scow.registry.keys import EARLY_S, Keys
from scow.registry.settings import SettingsInvalid, Token

ISSUER: Final = "scow-registry"
KEPT_SIZE: Final = 4 << 20
"""Characters of verified tokens that are remembered: anybody may ask for many, and for long ones."""

Grants = dict[str, frozenset[str]]


class Grant(TypedDict):
    """What a token grants of one thing, an entry of the claim `access`."""

    type: str
    name: str
    actions: list[str]


class Claims(msgspec.Struct, frozen=True):
    """What a verified token says."""

    subject: str  # the account's name; empty for anonymous
    expires_at: float  # seconds since the epoch
    repositories: Grants
    catalog: bool


class Verifier(Protocol):
    """Knows good tokens."""

    async def verify(self, text: str) -> Claims | None:
        """What a token says; None if it is not good here. Raises IssuerUnreachable."""


class KeptClaims:
    """Tokens that were verified, so that a client's next request needs no cryptography."""

    def __init__(self) -> None:
        self._claims: dict[str, Claims] = {}
        self._size = 0

    def find(self, text: str) -> Claims | None:
        return self._claims.get(text)

    def keep(self, text: str, claims: Claims) -> None:
        if self._size + len(text) > KEPT_SIZE:
            self._claims.clear()
            self._size = 0
        self._size += len(text)
        self._claims[text] = claims


class ForeignTokens:
    """Verifies the tokens of a token server that is not ours."""

    def __init__(self, settings: Token) -> None:
        """Raises SettingsInvalid."""
        if not (settings.realm and settings.keys and settings.issuer):
            raise SettingsInvalid("auth.token", "a token server of somebody else needs realm, issuer and keys")
        self._settings = settings
        self._peer = Peer(settings.ca)
        self._keys = ForeignKeys(settings.keys, self._peer)
        self._verified = KeptClaims()

    async def verify(self, text: str) -> Claims | None:
        found = self._verified.find(text)
        if found is None:
            said = await self._keys.verify(text)
            found = read_claims(said, self._settings.issuer, self._settings.service) if said is not None else None
            if found is None:
                return None
            self._verified.keep(text, found)
        return found if time.time() < found.expires_at + LEEWAY_S else None

    async def aclose(self) -> None:
        """Close the connections."""
        await self._peer.aclose()


class Tokens:
    """Issues and verifies tokens of one registry."""

    def __init__(self, accounts: Accounts, keys: Keys, settings: Token) -> None:
        self._accounts = accounts
        self._settings = settings
        self._keys = keys
        self._verified = KeptClaims()

    async def issue(self, subject: str, access: list[Grant]) -> tuple[str, int]:
        """A token for what is granted, and the time of its making (seconds since the epoch)."""
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": subject,
            "aud": self._settings.service,
            "exp": now + self._settings.life_s,
            "nbf": now - EARLY_S,
            "iat": now,
            "jti": secrets.token_hex(16),
            "access": access,
        }
        return await self._keys.sign(claims), now

    async def verify(self, text: str) -> Claims | None:
        """What a token says; None if it is not ours, was changed, or has expired."""
        now = time.time()
        found = self._verified.find(text)
        if found is not None:
            return found if now < found.expires_at else None
        said = await self._keys.verify(text)
        claims = read_claims(said, ISSUER, self._settings.service) if said is not None else None
        if claims is None or now >= claims.expires_at:
            return None
        self._verified.keep(text, claims)
        return claims

    async def public_keys(self) -> bytes:
        """The keys that verify our tokens, as a JWKS document."""
        return await self._keys.public()

    # Refresh tokens are random and kept as hashes: what is read from the database logs nobody in.

    async def issue_refresh(self, user: str, secret: str, client: str) -> str:
        """A refresh token for an account; `secret` is what is kept of the password that it ends with."""
        chance = secrets.token_urlsafe(32)
        text = f"{chance}.{_proof(chance, secret)}"
        token = RefreshToken(user, client[:200], time.time() + self._settings.refresh_life_s)
        await self._accounts.put_refresh_token(_hashed(text), token)
        return text

    async def verify_refresh(self, text: str) -> str | None:
        """The account of a refresh token; None if it is unknown, revoked or expired."""
        found = await self._accounts.refresh_token(_hashed(text))
        return found.user if found is not None else None


def is_of_password(refresh: str, secret: str) -> bool:
    """Whether an account still has the password for which it was given a refresh token.

    The database forgets the tokens of a password that is changed there; an htpasswd file is somebody else's. Tokens of
    earlier versions don't tell.
    """
    chance, told, proof = refresh.partition(".")
    return not told or hmac.compare_digest(proof, _proof(chance, secret))


def read_claims(said: dict[str, Any], issuer: str, service: str) -> Claims | None:
    """What the claims of a verified signature grant; None if they are not for this service or not good yet."""
    try:
        audience = said["aud"]
        if said["iss"] != issuer or service not in (audience if isinstance(audience, list) else [audience]):
            return None
        if said.get("nbf", 0) > time.time() + EARLY_S:
            return None
        repositories: Grants = {}
        for entry in said["access"] or ():
            if entry["type"] == "repository":
                repositories[entry["name"]] = frozenset(entry["actions"]) | repositories.get(entry["name"], frozenset())
        catalog = any(entry["type"] == "registry" and entry["name"] == "catalog" for entry in said["access"] or ())
        return Claims(str(said["sub"]), float(said["exp"]), repositories, catalog)
    except (ValueError, KeyError, TypeError):
        return None


def _proof(chance: str, secret: str) -> str:
    return hmac.new(chance.encode(), secret.encode(), hashlib.sha256).hexdigest()[:32]


def _hashed(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
