"""Authorization: answers to a registry's challenges. docker-registry-auth token.md, oauth.md; RFC 7617 for Basic."""

import asyncio
import base64
import logging
import time
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, urlencode

import msgspec
from yarl import URL

from scow.transfer.challenge import Challenge, parse_challenges
from scow.transfer.credentials import Credentials
from scow.transfer.http import Transport, read_limited
from scow.transfer.registry_error import AuthenticationFailed, RegistryFailure, RegistryUnreachable, refusal

log = logging.getLogger(__name__)

CLIENT_ID: Final = "docker"
"""Token services know docker's; some refuse others."""
MIN_LIFETIME_S: Final = 60
"""A token that claims to live shorter, or doesn't say, is taken to live this long. token.md#token-response-fields."""
MARGIN_S: Final = 5
_TOKEN_LIMIT: Final = 1 << 20

Scopes = frozenset[str]


class _Answer(msgspec.Struct, frozen=True):
    token: str | None = None
    access_token: str | None = None
    refresh_token: str | None = None
    expires_in: int | None = None


class _Token(msgspec.Struct, frozen=True):
    value: str
    expires_at: float  # of the monotonic clock: the server's `issued_at` is of another

    @property
    def fresh(self) -> bool:
        return time.monotonic() < self.expires_at


def repository_scope(repository: str, *actions: str) -> str:
    """The scope for `actions` on a repository. docker-registry-auth scope.md."""
    return f"repository:{repository}:{','.join(actions)}"


class Authorizer:
    """Knows how one registry host wants to be asked by one set of credentials, and keeps the tokens it got.

    `header` gives what to send; a 401 goes to `answer`, and if that returns True the request is worth a second try.
    """

    def __init__(self, transport: Transport, credentials: Credentials | None, *, verify: bool, secure: bool) -> None:
        self._transport = transport
        self._credentials = credentials or Credentials()
        self._verify = verify
        self._secure = secure  # the registry was reached by TLS: its secrets don't go over plain HTTP
        self._challenge: Challenge | None = None
        self._tokens: dict[Scopes, _Token] = {}
        self._extra: Scopes = frozenset()  # what the registry asked for beyond what we thought of
        self._lock = asyncio.Lock()  # guards the making of tokens: forty layers ask for one, not for forty
        self.identity_token = ""

    async def header(self, method: str, url: URL, scopes: Scopes) -> str | None:
        """The value of `Authorization` for a request, None while no challenge is known. Raises AuthenticationFailed."""
        if self._credentials.registry_token:
            return f"Bearer {self._credentials.registry_token}"
        if self._challenge is None:
            return None
        if self._challenge.scheme == "basic":
            return self._basic()
        scopes |= self._extra
        async with self._lock:
            token = self._tokens.get(scopes)
            if token is None or not token.fresh:
                token = self._tokens[scopes] = await self._fetch(method, url, self._challenge, scopes)
        return f"Bearer {token.value}"

    async def answer(
        self, method: str, url: URL, challenges: Iterable[Challenge], scopes: Scopes, used: str | None
    ) -> bool:
        """Take in the challenges of a 401 to a request that carried `used`; tell whether to try again.

        Raises AuthenticationFailed if there is nothing to answer with.
        """
        offered = {challenge.scheme: challenge for challenge in reversed(list(challenges))}
        challenge = offered.get("bearer") or offered.get("basic")
        if challenge is None or self._credentials.registry_token:
            return False
        if challenge.scheme == "bearer" and not challenge.get("realm"):
            raise AuthenticationFailed(method, str(url), "no realm in the registry's bearer challenge")
        self._challenge = challenge
        if challenge.scheme == "basic":
            if not self._credentials.username and not self._credentials.password:
                raise AuthenticationFailed(method, str(url), "no basic auth credentials")
            return used != self._basic()
        token = self._tokens.get(scopes | self._extra)
        if token is not None and used == f"Bearer {token.value}":
            del self._tokens[scopes | self._extra]  # expired or revoked before its time
        if not _covers(scopes, challenge.scopes):
            self._extra |= challenge.scopes
        return True

    def _basic(self) -> str:
        pair = f"{self._credentials.username}:{self._credentials.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"

    async def _fetch(self, method: str, url: URL, challenge: Challenge, scopes: Scopes) -> _Token:
        try:
            answer = await self._ask(challenge, scopes)
        except RegistryUnreachable as error:
            raise RegistryUnreachable(method, str(url), str(error), transient=error.transient) from error
        except RegistryFailure as error:
            failed = AuthenticationFailed(method, str(url), str(error))
            failed.transient, failed.retry_after_s = error.transient, error.retry_after_s
            raise failed from error
        value = answer.access_token or answer.token
        if not value:
            raise AuthenticationFailed(method, str(url), "authorization server did not include a token in the response")
        if answer.refresh_token:
            self.identity_token = answer.refresh_token
        lifetime_s = max(answer.expires_in or 0, MIN_LIFETIME_S)
        return _Token(value, time.monotonic() + lifetime_s - MARGIN_S)

    async def _ask(self, challenge: Challenge, scopes: Scopes) -> _Answer:
        realm = URL(challenge.get("realm"))
        known = self._credentials
        has_secret = bool(known.identity_token or known.password)
        if realm.scheme not in ("http", "https") or not realm.host:
            raise AuthenticationFailed("GET", str(realm), "the registry names no usable token service")
        if has_secret and self._secure and realm.scheme != "https":
            raise AuthenticationFailed("GET", str(realm), "refusing to send credentials to a token service without TLS")
        service, wanted = challenge.get("service"), sorted(scopes)
        if known.identity_token:
            return await self._post(
                realm, service, wanted, grant_type="refresh_token", refresh_token=known.identity_token
            )
        query = [("account", known.username)] if known.username else []
        query += [("client_id", CLIENT_ID)] if not wanted else []
        query += [("offline_token", "true")] if known.username and not wanted else []
        query += [("scope", scope) for scope in wanted]
        query += [("service", service)] if service else []
        headers = {"Authorization": self._basic()} if known.username else {}
        text = str(realm) + ("&" if realm.query_string else "?") + urlencode(query, quote_via=quote, safe=":,/")
        try:
            return await self._send("GET", URL(text, encoded=True), headers, None)
        except RegistryFailure as error:
            # A service of pure OAuth2 knows only POST.
            if getattr(error, "status", 0) not in (404, 405) or not known.username:
                raise
        return await self._post(
            realm, service, wanted, grant_type="password", username=known.username, password=known.password
        )

    async def _post(self, realm: URL, service: str, scopes: list[str], **grant: str) -> _Answer:
        form = {"client_id": CLIENT_ID, "service": service, "scope": " ".join(scopes), **grant}
        if grant["grant_type"] == "password" and not scopes:
            form["access_type"] = "offline"
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return await self._send("POST", realm, headers, urlencode({k: v for k, v in form.items() if v}).encode())

    async def _send(self, method: str, url: URL, headers: dict[str, str], body: bytes | None) -> _Answer:
        response = await self._transport.send(method, url, headers=headers, body=body, verify=self._verify)
        async with response:
            data = await read_limited(response, _TOKEN_LIMIT)
        if response.status != 200:
            challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
            raise refusal(response.status, response.headers, _translate_oauth(data), challenges)
        try:
            return msgspec.json.decode(data, type=_Answer)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise AuthenticationFailed(method, str(url), f"unable to decode token response: {error}") from error


class _OAuthError(msgspec.Struct, frozen=True):
    error: str
    error_description: str = ""


def _translate_oauth(data: bytes) -> bytes:
    """OAuth2 services have error documents of their own (RFC 6749 section 5.2): bring them into the registry's form."""
    try:
        own = msgspec.json.decode(data, type=_OAuthError)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return data
    item = {"code": "UNAUTHORIZED", "message": own.error_description or own.error}
    return msgspec.json.encode({"errors": [item]})


def _covers(ours: Scopes, asked: Scopes) -> bool:
    """Whether `ours` include all that is `asked`, actions in any order."""
    return all(
        any(_split(scope)[0] == _split(own)[0] and _split(scope)[1] <= _split(own)[1] for own in ours)
        for scope in asked
    )


def _split(scope: str) -> tuple[str, frozenset[str]]:
    resource, _, actions = scope.rpartition(":")
    return resource, frozenset(actions.split(","))
