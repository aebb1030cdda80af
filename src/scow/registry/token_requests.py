"""The token server over HTTP: docker's token specification, by GET and by OAuth2's POST, and the keys as JWKS."""

from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qs

from scow.registry.access import Access
from scow.registry.calls import Call
from scow.registry.errors import MethodUnsupported, PageUnknown, QueryInvalid
from scow.registry.metrics import Metrics
from scow.registry.replies import Reply, json_reply
from scow.registry.rules import Identity
from scow.registry.settings import Token
from scow.registry.tokens import Tokens, is_of_password

FORM_LIMIT: Final = 64 << 10
SCOPES_LIMIT: Final = 100


class TokenRequests:
    """The endpoints `/token` and `/.well-known/jwks.json`; unknown where no tokens are configured."""

    def __init__(self, access: Access, settings: Token | None, metrics: Metrics) -> None:
        self._access = access
        self._settings = settings
        self._metrics = metrics

    async def answer(self, call: Call) -> Reply:
        """Issue a token. Raises AuthenticationRequired where credentials are given and wrong."""
        tokens = self._tokens("/token")
        if call.method == "GET":
            return await self._answer_get(call, tokens)
        if call.method == "POST":
            return await self._answer_post(call, tokens)
        raise MethodUnsupported(call.method, ("GET", "POST"))

    async def answer_keys(self, call: Call) -> Reply:
        """The public keys."""
        if call.method not in ("GET", "HEAD"):
            raise MethodUnsupported(call.method, ("GET", "HEAD"))
        document = await self._tokens("/.well-known/jwks.json").public_keys()
        return Reply(HTTPStatus.OK, (("Content-Type", "application/jwk-set+json"),), document)

    def _tokens(self, path: str) -> Tokens:
        if self._access.tokens is None:
            raise PageUnknown(path)
        return self._access.tokens

    async def _answer_get(self, call: Call, tokens: Tokens) -> Reply:
        caller = await self._access.identify(call)
        call.caller = caller
        self._check_service(call.parameter("service"))
        offline = call.parameter("offline_token") == "true"
        client = call.parameter("client_id") or ""
        return await self._issue(tokens, caller.who, call.query.get("scope", []), client if offline else None)

    async def _answer_post(self, call: Call, tokens: Tokens) -> Reply:
        form = await _read_form(call)
        self._check_service(form.get("service", [None])[0])
        scopes, client = form.get("scope", []), form.get("client_id", [""])[0]
        match form.get("grant_type", [""])[0]:
            case "password":
                name, password = form.get("username", [""])[0], form.get("password", [""])[0]
                who = await self._access.log_in(call, name, password)
                if who is None:
                    raise self._access.challenge(call)
                call.caller = self._access.caller(who, session=False)
                offline = form.get("access_type", [""])[0] == "offline"
                return await self._issue(tokens, who, scopes, client if offline else None)
            case "refresh_token":
                text = form.get("refresh_token", [""])[0]
                user = await tokens.verify_refresh(text)
                call.tried = user
                secret = await self._access.secret(user) if user is not None else None
                if user is None or secret is None or not is_of_password(text, secret):
                    raise self._access.challenge(call)
                call.caller = self._access.caller(Identity(user), session=False)
                return await self._issue(tokens, Identity(user), scopes, None, text)
            case other:
                raise QueryInvalid("unsupported grant_type", {"grant_type": other[:100]})

    def _check_service(self, service: str | None) -> None:
        assert self._settings is not None
        if service is not None and service != self._settings.service:
            raise QueryInvalid("this token server does not serve that service", {"service": service[:200]})

    async def _issue(
        self,
        tokens: Tokens,
        who: Identity | None,
        scopes: list[str],
        refresh_for: str | None,
        refresh: str | None = None,
    ) -> Reply:
        assert self._settings is not None
        asked = [scope for value in scopes for scope in value.split(" ") if scope]
        if len(asked) > SCOPES_LIMIT:
            raise QueryInvalid(f"at most {SCOPES_LIMIT} scopes in one request")
        granted = await self._access.granted(who, asked)
        text, made_at = await tokens.issue(who.name if who else "", granted)
        if refresh_for is not None and who is not None and who.local:
            secret = await self._access.secret(who.name)
            if secret is not None:  # a certificate does not need an account
                refresh = await tokens.issue_refresh(who.name, secret, refresh_for)
        self._metrics.count("tokens_issued")
        document = {
            "token": text,
            "access_token": text,
            "expires_in": self._settings.life_s,
            "issued_at": datetime.fromtimestamp(made_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "scope": " ".join(f"{each['type']}:{each['name']}:{','.join(each['actions'])}" for each in granted),
        }
        if refresh is not None:
            document["refresh_token"] = refresh
        return json_reply(HTTPStatus.OK, document, (("Cache-Control", "no-store"),))


async def _read_form(call: Call) -> dict[str, list[str]]:
    data = await call.form(FORM_LIMIT)
    if b"%00" in data or b"\0" in data:
        raise QueryInvalid("the form has a NUL character")
    try:
        return parse_qs(data.decode(), keep_blank_values=True, max_num_fields=200)
    except ValueError as error:
        raise QueryInvalid("the form is malformed") from error
