"""The keys that the registry signs with: tokens for clients, sessions of browsers. They lie in the database.

Every process signs with the newest and accepts all that may still have something valid out.
"""

import asyncio
import json
import sys
import time
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from scow.registry.accounts import Accounts, SigningKey

if TYPE_CHECKING:
    from scow.registry.signatures import OwnKey

FRESH_S: Final = 60.0
AHEAD_S: Final = 3600.0
EARLY_S: Final = 10
"""What is signed is valid from so long before: clocks differ."""


class Keys:
    """Signs claims and verifies what any process of this registry has signed."""

    # What does it, `signatures`, is imported where it is used: most registries sign nothing.

    def __init__(self, accounts: Accounts, algorithm: str, life_s: float, longest_s: float) -> None:
        """A key signs for `life_s`; what it has signed is valid for `longest_s` at most."""
        self._accounts = accounts
        self._algorithm = algorithm
        self._life_s = life_s
        self._longest_s = longest_s
        self._keys: list[tuple[SigningKey, OwnKey]] = []
        self._read_at = -FRESH_S

    async def sign(self, claims: dict[str, Any]) -> str:
        """Claims as a JWT."""
        made, key = await self._newest()
        from scow.registry import signatures

        return signatures.sign(claims, key, made.key_id)

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
        from scow.registry import signatures

        return signatures.verify_own(text, [key for _, key in self._keys])

    async def _newest(self) -> tuple[SigningKey, "OwnKey"]:
        await _import_signatures()
        from scow.registry import signatures

        await self._read()
        now = time.time()
        # One from far ahead was made while the clock was wrong: it would be used until that time has come.
        newest = next((each for each in self._keys if each[0].made_at < now + AHEAD_S), None)
        if (
            newest is None
            or newest[0].made_at + self._life_s < now
            or signatures.algorithm_of(newest[1]) != self._algorithm
        ):
            made = signatures.generate(self._algorithm)
            known = SigningKey(str(made.kid), json.dumps(made.as_dict(private=True)), now)
            await self._accounts.put_signing_key(known, now - self._life_s - self._longest_s - EARLY_S)
            await self._read(fresh=True)
            newest = next(each for each in self._keys if each[0].made_at < now + AHEAD_S)
        return newest

    async def _read(self, *, fresh: bool = False) -> None:
        if not fresh and time.monotonic() - self._read_at < FRESH_S:
            return
        known = {made.key_id: key for made, key in self._keys}
        keys = await self._accounts.signing_keys()
        if keys:
            await _import_signatures()
            from scow.registry import signatures

            self._keys = [(made, known.get(made.key_id) or signatures.import_own(made.data)) for made in keys]
        else:
            self._keys = []
        self._read_at = time.monotonic()


async def _import_signatures() -> None:
    """Import what signs, in a thread: it takes 70 ms, unless that was done before workers were forked."""
    name = "scow.registry.signatures"
    if name not in sys.modules:
        await asyncio.to_thread(import_module, name)
