"""Keys of others, by a URL or a file, and what they have signed. RFC 7517, RFC 7519.

Fetched keys are kept for an hour, and fetched again when something is signed with one that is not among them, but not
more often than once a minute: anybody can send such a thing.
"""

import asyncio
import json
import logging
import ssl
import time
from base64 import urlsafe_b64decode
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import aiohttp

from scow.registry.errors import IssuerUnreachable
from scow.registry.settings import SettingsInvalid

if TYPE_CHECKING:
    from scow.registry.signatures import Key

FRESH_S: Final = 3600.0
PAUSE_S: Final = 60.0
TIMEOUT_S: Final = 10.0
DOCUMENT_LIMIT: Final = 1 << 20
TOKEN_LIMIT: Final = 128 << 10
RETRY_S: Final = 5.0
"""Who does not answer is not asked again for so long: requests fail at once rather than wait in a row."""
LEEWAY_S: Final = 30
"""Clocks differ by so much."""

log = logging.getLogger("scow.registry.issuers")


class Peer:
    """Asks one server for JSON, with a bound on time and size. Make it anywhere; `aclose` it on its loop."""

    def __init__(self, ca: str | None = None) -> None:
        """`ca` is a file of certificates that are trusted besides the system's. Raises SettingsInvalid."""
        self._tls: ssl.SSLContext | bool = True
        if ca is not None:
            try:
                self._tls = ssl.create_default_context()
                self._tls.load_verify_locations(ca)
            except OSError as error:
                raise SettingsInvalid(ca, error.strerror or str(error)) from error
        self._session: aiohttp.ClientSession | None = None
        self._failed: dict[str, tuple[float, IssuerUnreachable]] = {}  # by URL, with the time (monotonic)

    async def ask(self, url: str, form: dict[str, str] | None = None, **headers: str) -> tuple[int, dict[str, Any]]:
        """GET a document, or POST a form; status and object. Raises IssuerUnreachable."""
        failed_at, failure = self._failed.get(url, (0.0, None))
        if failure is not None and time.monotonic() - failed_at < RETRY_S:
            raise failure
        try:
            answer = await self._ask(url, form, headers)
        except IssuerUnreachable as error:
            self._failed[url] = (time.monotonic(), error)
            raise
        self._failed.pop(url, None)
        return answer

    async def _ask(self, url: str, form: dict[str, str] | None, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
            self._session = aiohttp.ClientSession(timeout=timeout, headers={"Accept": "application/json"})
        method = "GET" if form is None else "POST"
        try:
            async with self._session.request(
                method, url, data=form, headers=headers, ssl=self._tls, allow_redirects=False
            ) as answer:
                data = await answer.content.read(DOCUMENT_LIMIT)
                document = json.loads(data)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, RecursionError) as error:
            raise IssuerUnreachable(url, str(error) or type(error).__name__) from error
        if not isinstance(document, dict):
            raise IssuerUnreachable(url, "not a JSON object")
        return answer.status, document

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


class ForeignKeys:
    """The keys of one issuer."""

    def __init__(self, where: str, peer: Peer) -> None:
        """`where` is the URL of a JWKS document, or a file: a JWKS document, or certificates or public keys in PEM.

        A file is read at once, which blocks. Raises SettingsInvalid.
        """
        self._where = where
        self._peer = peer
        self._keys: list[Key] = []
        self._read_at = -FRESH_S
        self._reading = asyncio.Lock()
        if not self._is_url:
            self._keys, self._read_at = read_keys(Path(where)), time.monotonic()

    @property
    def _is_url(self) -> bool:
        return urlsplit(self._where).scheme in ("http", "https")

    async def verify(self, text: str) -> dict[str, Any] | None:
        """The claims of a JWT that one of the keys has signed; None for anything else. Raises IssuerUnreachable."""
        if len(text) > TOKEN_LIMIT:
            return None
        await self._read(FRESH_S)
        claims = self._decode(text)
        if claims is None and _header(text) is not None:
            await self._read(PAUSE_S)
            claims = self._decode(text)
        return claims

    def _decode(self, text: str) -> dict[str, Any] | None:
        from scow.registry import signatures  # here, for most registries verify nothing

        return signatures.verify_foreign(text, (_header(text) or {}).get("kid"), self._keys)

    async def _read(self, age_s: float) -> None:
        if self._keys and time.monotonic() - self._read_at < age_s:
            return  # perhaps they are being read anew: nobody else need wait for that
        async with self._reading:
            if time.monotonic() - self._read_at < age_s:
                return
            from scow.registry import signatures

            before, self._read_at = self._read_at, time.monotonic()
            try:
                if self._is_url:
                    status, document = await self._peer.ask(self._where)
                    if status != 200:
                        raise IssuerUnreachable(self._where, f"status {status}")
                    self._keys = signatures.import_set(document)
                else:
                    self._keys = await asyncio.to_thread(read_keys, Path(self._where))
            except (IssuerUnreachable, SettingsInvalid) as error:
                if not self._keys:
                    self._read_at = before
                    raise IssuerUnreachable(self._where, str(error)) from error
                log.warning("the keys are kept as they were: %s", error)


def read_keys(path: Path) -> "list[Key]":
    """Keys of a file: a JWKS document, or certificates or public keys in PEM. Raises SettingsInvalid."""
    from scow.registry import signatures

    try:
        data = path.read_bytes()
    except OSError as error:
        raise SettingsInvalid(str(path), error.strerror or str(error)) from error
    try:
        keys = signatures.import_pem(data) if b"-----BEGIN" in data else signatures.import_set(json.loads(data))
    except ValueError as error:
        raise SettingsInvalid(str(path), f"no keys can be read: {error}") from error
    if not keys:
        raise SettingsInvalid(str(path), "no keys are in it")
    return keys


def _header(text: str) -> dict[str, Any] | None:
    """The header of a JWT, not verified; None if the text is none."""
    return _part(text, 0)


def unverified(text: str) -> dict[str, Any]:
    """What a JWT claims, to find out whose keys verify it; empty if the text is none."""
    return _part(text, 1) or {}


def _part(text: str, number: int) -> dict[str, Any] | None:
    parts = text.split(".")
    if len(parts) != 3 or len(text) > TOKEN_LIMIT:
        return None
    try:
        found = json.loads(urlsafe_b64decode(parts[number] + "=" * (-len(parts[number]) % 4)))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
