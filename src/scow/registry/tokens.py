"""Bearer tokens: JWTs signed with ES256 or EdDSA by keys that rotate, and opaque refresh tokens.

Claims are those of docker's token specification (distribution's docs, spec/auth/jwt.md). Keys lie in the database, so
every worker signs with the newest and accepts all that may still have valid tokens.
"""

import hashlib
import json
import secrets
import time
from typing import Any, Final

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet, OKPKey
from joserfc.jws import JWSRegistry

from scow.registry.accounts import Accounts, RefreshToken, SigningKey
from scow.registry.settings import Token

ISSUER: Final = "scow-registry"
ALGORITHMS: Final = ("ES256", "EdDSA")
KEYS_FRESH_S: Final = 60.0
EARLY_S: Final = 10
"""A token is valid from so long before it was made: clocks differ."""
VERIFIED_LIMIT: Final = 10_000

Grants = dict[str, frozenset[str]]
Key = ECKey | OKPKey


class _Registry(JWSRegistry):
    """Knows two algorithms. The library warns of EdDSA, renamed by RFC 9864; but other registries know that name."""

    def get_alg(self, name: str) -> Any:  # its type is not exported
        return self.algorithms[name] if name in ALGORITHMS else super().get_alg(name)


_REGISTRY: Final = _Registry(algorithms=ALGORITHMS)


class Claims(msgspec.Struct, frozen=True):
    """What a verified token says."""

    subject: str  # the account's name; empty for anonymous
    expires_at: float  # seconds since the epoch
    repositories: Grants
    catalog: bool


class Tokens:
    """Issues and verifies tokens of one registry."""

    def __init__(self, accounts: Accounts, settings: Token) -> None:
        self._accounts = accounts
        self._settings = settings
        self._keys: list[tuple[SigningKey, Key]] = []
        self._keys_read_at = -KEYS_FRESH_S
        self._verified: dict[str, Claims] = {}

    async def issue(self, subject: str, access: list[dict[str, Any]]) -> tuple[str, int]:
        """A token for what is granted, and the time of its making (seconds since the epoch)."""
        made, key = await self._signing_key()
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
        algorithm = _algorithm(key)
        header = {"typ": "JWT", "alg": algorithm, "kid": made.key_id}
        return jwt.encode(header, claims, key, registry=_REGISTRY), now

    async def verify(self, text: str) -> Claims | None:
        """What a token says; None if it is not ours, was changed, or has expired."""
        now = time.time()
        found = self._verified.get(text)
        if found is not None:
            return found if now < found.expires_at else None
        await self._read_keys()
        claims = self._decode(text)
        if claims is None:
            # Another worker may have begun to sign with a new key.
            await self._read_keys(fresh=True)
            claims = self._decode(text)
        if claims is None or now >= claims.expires_at:
            return None
        if len(self._verified) >= VERIFIED_LIMIT:
            self._verified.clear()
        self._verified[text] = claims
        return claims

    def _decode(self, text: str) -> Claims | None:
        if not self._keys:
            return None
        try:
            token = jwt.decode(text, KeySet([key for _, key in self._keys]), registry=_REGISTRY)
            said = token.claims
            if said["iss"] != ISSUER or said["aud"] != self._settings.service or said["nbf"] > time.time():
                return None
            repositories: Grants = {}
            for entry in said["access"]:
                if entry["type"] == "repository":
                    repositories[entry["name"]] = frozenset(entry["actions"])
            catalog = any(entry["type"] == "registry" and entry["name"] == "catalog" for entry in said["access"])
            return Claims(str(said["sub"]), float(said["exp"]), repositories, catalog)
        except (JoseError, ValueError, KeyError, TypeError):
            return None

    async def public_keys(self) -> bytes:
        """The keys that verify our tokens, as a JWKS document."""
        await self._signing_key()
        return json.dumps({"keys": [key.as_dict(private=False) for _, key in self._keys]}).encode()

    async def _signing_key(self) -> tuple[SigningKey, Key]:
        await self._read_keys()
        now, algorithm = time.time(), self._settings.algorithm
        newest = self._keys[0] if self._keys else None
        if newest is None or newest[0].made_at + self._settings.key_life_s < now or _algorithm(newest[1]) != algorithm:
            made = _generate(algorithm)
            known = SigningKey(str(made.kid), json.dumps(made.as_dict(private=True)), now)
            keep_s = self._settings.key_life_s + self._settings.life_s + EARLY_S
            await self._accounts.put_signing_key(known, now - keep_s)
            await self._read_keys(fresh=True)
        return self._keys[0]

    async def _read_keys(self, *, fresh: bool = False) -> None:
        if not fresh and time.monotonic() - self._keys_read_at < KEYS_FRESH_S:
            return
        known = {made.key_id: key for made, key in self._keys}
        keys = await self._accounts.signing_keys()
        self._keys = [(made, known.get(made.key_id) or _import(made.data)) for made in keys]
        self._keys_read_at = time.monotonic()

    # Refresh tokens are random and kept as hashes: what is read from the database logs nobody in.

    async def issue_refresh(self, user: str, client: str) -> str:
        """A refresh token for an account."""
        text = secrets.token_urlsafe(32)
        token = RefreshToken(user, client[:200], time.time() + self._settings.refresh_life_s)
        await self._accounts.put_refresh_token(_hashed(text), token)
        return text

    async def verify_refresh(self, text: str) -> str | None:
        """The account of a refresh token; None if it is unknown, revoked or expired."""
        found = await self._accounts.refresh_token(_hashed(text))
        return found.user if found is not None else None


def _generate(algorithm: str) -> Key:
    if algorithm == "EdDSA":
        return OKPKey.generate_key("Ed25519", {"use": "sig", "alg": algorithm}, private=True, auto_kid=True)
    return ECKey.generate_key("P-256", {"use": "sig", "alg": algorithm}, private=True, auto_kid=True)


def _import(data: str) -> Key:
    document = json.loads(data)
    return OKPKey.import_key(document) if document["kty"] == "OKP" else ECKey.import_key(document)


def _algorithm(key: Key) -> str:
    return "EdDSA" if isinstance(key, OKPKey) else "ES256"


def _hashed(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
