"""Issuers of OpenID Connect: whose ID tokens say who somebody is. OpenID Connect Core 1.0, Discovery 1.0; RFC 7636."""

import asyncio
import time
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from scow.registry.errors import IssuerUnreachable, LoginRefused
from scow.registry.jwks import LEEWAY_S, ForeignKeys, Peer, unverified
from scow.registry.rules import ROBOT, Identity
from scow.registry.settings import Oidc, SettingsInvalid

DISCOVERY: Final = "/.well-known/openid-configuration"
FRESH_S: Final = 3600.0
NAME_LIMIT: Final = 255
GROUPS_LIMIT: Final = 1000
_KEPT_LIMIT: Final = 10_000
_LOOPBACK: Final = {"localhost", "127.0.0.1", "::1"}


class _Discovery(msgspec.Struct, frozen=True):
    issuer: str
    jwks_uri: str
    authorization_endpoint: str = ""
    token_endpoint: str = ""
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)


class Issuer:
    """One issuer of the settings."""

    def __init__(self, settings: Oidc) -> None:
        """Raises SettingsInvalid."""
        _check_url(settings.issuer)
        if not settings.name.isascii() or not settings.name.replace("-", "").isalnum():
            raise SettingsInvalid("auth.oidc", f"the name {settings.name!r} must be of letters, digits and hyphens")
        self.settings = settings
        self.title = settings.title or settings.name
        self._peer = Peer(settings.ca)
        self._secret = settings.client_secret
        if settings.client_secret_file is not None:
            try:
                self._secret = Path(settings.client_secret_file).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise SettingsInvalid(settings.client_secret_file, error.strerror or str(error)) from error
            except UnicodeDecodeError as error:
                raise SettingsInvalid(settings.client_secret_file, "it is no text in UTF-8") from error
        self._known: tuple[float, _Discovery, ForeignKeys] | None = None
        self._asking = asyncio.Lock()
        self._kept: dict[bytes, tuple[Identity, float]] = {}  # by the token's hash: tokens may be long

    def has_issued(self, text: str) -> bool:
        """Whether a token claims to be this issuer's. Nothing is verified."""
        return unverified(text).get("iss") == self.settings.issuer

    async def identify(self, text: str, nonce: str | None = None) -> Identity | None:
        """Who an ID token is of; None if it isn't good. Raises IssuerUnreachable, and LoginRefused without a name.

        `nonce` is that of the login which it is to belong to, None where a client has brought it.
        """
        key = sha256(text.encode()).digest()
        kept = self._kept.get(key) if nonce is None else None
        if kept is not None:
            return kept[0] if time.time() < kept[1] else None
        _, keys = await self._discover()
        claims = await keys.verify(text)
        if claims is None or not self._is_good(claims, nonce):
            return None
        who = self._identity(claims)
        if len(self._kept) >= _KEPT_LIMIT:
            self._kept.clear()
        self._kept[key] = (who, float(claims["exp"]))
        return who

    def _is_good(self, claims: dict[str, Any], nonce: str | None) -> bool:
        settings, now = self.settings, time.time()
        audience = claims.get("aud")
        ours = {settings.client_id, *(settings.audiences if nonce is None else ())}
        try:
            return (
                claims["iss"] == settings.issuer
                and not ours.isdisjoint(audience if isinstance(audience, list) else [audience])
                and (nonce is None or claims.get("nonce") == nonce)
                and (nonce is None or claims.get("azp", settings.client_id) == settings.client_id)
                and now < float(claims["exp"]) + LEEWAY_S
                and float(claims.get("nbf", 0)) <= now + LEEWAY_S
                and float(claims.get("iat", 0)) <= now + LEEWAY_S
            )
        except (KeyError, TypeError, ValueError):
            return False

    def _identity(self, claims: dict[str, Any]) -> Identity:
        settings = self.settings
        said = claims.get(settings.user_claim)
        name = f"{settings.user_prefix}{said}" if isinstance(said, str) and said else ""
        if not name or len(name) > NAME_LIMIT or not name.isprintable() or name.startswith(ROBOT):
            raise LoginRefused(f"{self.title} names nobody in {settings.user_claim}")
        found = claims.get(settings.groups_claim, [])
        groups = [found] if isinstance(found, str) else found if isinstance(found, list) else []
        return Identity(name, frozenset([g for g in groups if isinstance(g, str)][:GROUPS_LIMIT]), local=False)

    async def authorization_url(self, redirect_uri: str, state: str, nonce: str, verifier: str) -> str:
        """Where the browser goes to log in. Raises IssuerUnreachable."""
        found, _ = await self._discover()
        query = {
            "response_type": "code",
            "client_id": self.settings.client_id,
            "redirect_uri": redirect_uri,
            "scope": " ".join(self.settings.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        mark = "&" if urlsplit(found.authorization_endpoint).query else "?"
        return f"{found.authorization_endpoint}{mark}{urlencode(query)}"

    async def redeem(self, code: str, redirect_uri: str, nonce: str, verifier: str) -> Identity:
        """Who has come back with a code. Raises LoginRefused and IssuerUnreachable."""
        found, _ = await self._discover()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "client_id": self.settings.client_id,
            "code_verifier": verifier,
        }
        headers = {}
        if self._secret and "client_secret_basic" in found.token_endpoint_auth_methods_supported:
            pair = f"{quote(self.settings.client_id, safe='')}:{quote(self._secret, safe='')}"  # RFC 6749 section 2.3.1
            headers["Authorization"] = f"Basic {_b64(pair)}"
        elif self._secret:
            form["client_secret"] = self._secret
        status, answer = await self._peer.ask(found.token_endpoint, form, **headers)
        token = answer.get("id_token")
        if status != 200 or not isinstance(token, str):
            raise LoginRefused(f"{self.title} does not take the code: {str(answer.get('error', status))[:200]}")
        who = await self.identify(token, nonce)
        if who is None:
            raise LoginRefused(f"the ID token of {self.title} is not good for this registry")
        return who

    async def _discover(self) -> tuple[_Discovery, ForeignKeys]:
        async with self._asking:
            known = self._known
            if known is not None and time.monotonic() - known[0] < FRESH_S:
                return known[1:]
            url = self.settings.issuer.rstrip("/") + DISCOVERY
            try:
                status, document = await self._peer.ask(url)
                found = msgspec.convert(document, _Discovery)
                if status != 200 or found.issuer != self.settings.issuer:
                    raise IssuerUnreachable(url, f"status {status}, issuer {found.issuer}")
                for endpoint in (found.jwks_uri, found.authorization_endpoint, found.token_endpoint):
                    if endpoint:
                        _check_url(endpoint)
            except (msgspec.ValidationError, SettingsInvalid) as error:
                raise IssuerUnreachable(url, str(error)) from error
            except IssuerUnreachable:
                if known is None:
                    raise
                self._known = (time.monotonic(), *known[1:])
                return known[1:]
            keys = known[2] if known is not None and known[1].jwks_uri == found.jwks_uri else None
            self._known = (time.monotonic(), found, keys or ForeignKeys(found.jwks_uri, self._peer))
            return self._known[1:]

    async def aclose(self) -> None:
        """Close the connections."""
        await self._peer.aclose()


class Issuers:
    """All issuers of the settings."""

    def __init__(self, settings: Sequence[Oidc]) -> None:
        """Raises SettingsInvalid."""
        self.all = [Issuer(each) for each in settings]
        if len({issuer.settings.name for issuer in self.all}) < len(self.all):
            raise SettingsInvalid("auth.oidc", "two issuers have the same name")

    def find(self, name: str) -> Issuer | None:
        """The issuer of a name."""
        return next((issuer for issuer in self.all if issuer.settings.name == name), None)

    async def identify(self, text: str) -> Identity | None:
        """Who a token is of that a client has brought; None if no issuer of ours has made it for us."""
        for issuer in self.all:
            if issuer.has_issued(text) and (who := await issuer.identify(text)) is not None:
                return who
        return None

    async def aclose(self) -> None:
        """Close the connections."""
        for issuer in self.all:
            await issuer.aclose()


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if not url.isascii() or not url.isprintable() or " " in url:
        raise SettingsInvalid(url[:300], "not a URL")  # it goes into headers
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise SettingsInvalid(url, "an issuer must be reached by https")


def _b64(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode().translate(str.maketrans("-_", "+/"))
