"""The keys that the registry signs with: tokens for clients, sessions of browsers. They lie in the database.

Every process signs with the newest and accepts all that may still have something valid out.
"""

import json
import time
from typing import Any, Final

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet, OKPKey
from joserfc.jws import JWSRegistry

from scow.registry.accounts import Accounts, SigningKey

ALGORITHMS: Final = ("ES256", "EdDSA")
FRESH_S: Final = 60.0
EARLY_S: Final = 10
"""What is signed is valid from so long before: clocks differ."""

Key = ECKey | OKPKey


class Algorithms(JWSRegistry):
    """Knows the algorithms of its list. The library warns of EdDSA, renamed by RFC 9864; but others know that name."""

    def get_alg(self, name: str) -> Any:  # its type is not exported
        return self.algorithms[name] if name in (self.allowed or ()) else super().get_alg(name)


_REGISTRY: Final = Algorithms(algorithms=list(ALGORITHMS))


class Keys:
    """Signs claims and verifies what any process of this registry has signed."""

    def __init__(self, accounts: Accounts, algorithm: str, life_s: float, longest_s: float) -> None:
        """A key signs for `life_s`; what it has signed is valid for `longest_s` at most."""
        self._accounts = accounts
        self._algorithm = algorithm
        self._life_s = life_s
        self._longest_s = longest_s
        self._keys: list[tuple[SigningKey, Key]] = []
        self._read_at = -FRESH_S

    async def sign(self, claims: dict[str, Any]) -> str:
        """Claims as a JWT."""
        made, key = await self._newest()
        header = {"typ": "JWT", "alg": _algorithm(key), "kid": made.key_id}
        return jwt.encode(header, claims, key, registry=_REGISTRY)

    async def verify(self, text: str) -> dict[str, Any] | None:
        """The claims of a JWT that one of our keys has signed; None for anything else."""
        await self._read()
        claims = self._decode(text)
        if claims is None:
            # Another worker may have begun to sign with a new key.
            await self._read(fresh=True)
            claims = self._decode(text)
        return claims

    async def public(self) -> bytes:
        """The keys that verify what we sign, as a JWKS document."""
        await self._newest()
        return json.dumps({"keys": [key.as_dict(private=False) for _, key in self._keys]}).encode()

    def _decode(self, text: str) -> dict[str, Any] | None:
        if not self._keys:
            return None
        try:
            return jwt.decode(text, KeySet([key for _, key in self._keys]), registry=_REGISTRY).claims
        except (JoseError, ValueError):
            return None

    async def _newest(self) -> tuple[SigningKey, Key]:
        await self._read()
        now = time.time()
        newest = self._keys[0] if self._keys else None
        if newest is None or newest[0].made_at + self._life_s < now or _algorithm(newest[1]) != self._algorithm:
            made = _generate(self._algorithm)
            known = SigningKey(str(made.kid), json.dumps(made.as_dict(private=True)), now)
            await self._accounts.put_signing_key(known, now - self._life_s - self._longest_s - EARLY_S)
            await self._read(fresh=True)
        return self._keys[0]

    async def _read(self, *, fresh: bool = False) -> None:
        if not fresh and time.monotonic() - self._read_at < FRESH_S:
            return
        known = {made.key_id: key for made, key in self._keys}
        keys = await self._accounts.signing_keys()
        self._keys = [(made, known.get(made.key_id) or _import(made.data)) for made in keys]
        self._read_at = time.monotonic()


def _generate(algorithm: str) -> Key:
    if algorithm == "EdDSA":
        return OKPKey.generate_key("Ed25519", {"use": "sig", "alg": algorithm}, private=True, auto_kid=True)
    return ECKey.generate_key("P-256", {"use": "sig", "alg": algorithm}, private=True, auto_kid=True)


def _import(data: str) -> Key:
    document = json.loads(data)
    return OKPKey.import_key(document) if document["kty"] == "OKP" else ECKey.import_key(document)


def _algorithm(key: Key) -> str:
    return "EdDSA" if isinstance(key, OKPKey) else "ES256"
