"""The browser's login at an issuer of OpenID Connect: the code flow with PKCE, state and nonce.

What has to be remembered until the browser comes back is in a signed cookie of its own, so that it may come back to
any process. The session begins only where the login did.
"""

import hmac
import secrets
import time
from typing import Any, Final

from scow.registry.access import Access
from scow.registry.calls import Call
from scow.registry.errors import LoginRefused, MethodUnsupported, PageUnknown
from scow.registry.issuers import Issuer
from scow.registry.replies import Reply
from scow.registry.sessions import cookie, set_cookie
from scow.registry.web.forms import local_path
from scow.registry.web.login import went

AUDIENCE: Final = "scow-registry login"
COOKIE: Final = "scow-login"
LIFE_S: Final = 600
"""A login at an issuer may take so long."""


class OidcLogin:
    """The endpoints `/-/oidc/<name>`, where it begins, and `/-/oidc/<name>/callback`, where it ends."""

    def __init__(self, access: Access, url: str) -> None:
        """`url` is the registry's as clients reach it; empty: what the request says."""
        self._access = access
        self._url = url.rstrip("/")

    async def answer(self, call: Call) -> Reply:
        """Begin a login, or end it. Raises LoginRefused and IssuerUnreachable."""
        if call.method != "GET":
            raise MethodUnsupported(call.method, ("GET",))
        issuer = self._access.issuers.find(call.route.reference.removesuffix("/callback"))
        if issuer is None:
            raise PageUnknown(call.raw_path)
        if call.route.reference.endswith("/callback"):
            return await self._end(call, issuer)
        return await self._begin(call, issuer)

    async def _begin(self, call: Call, issuer: Issuer) -> Reply:
        claims: dict[str, Any] = {
            "aud": AUDIENCE,
            "issuer": issuer.settings.name,
            "state": secrets.token_urlsafe(32),
            "nonce": secrets.token_urlsafe(32),
            "verifier": secrets.token_urlsafe(48),
            "next": local_path(call.parameter("next")),
            "exp": int(time.time()) + LIFE_S,
        }
        url = await issuer.authorization_url(
            self._callback(call, issuer), claims["state"], claims["nonce"], claims["verifier"]
        )
        return went(url, (set_cookie(call, COOKIE, await self._access.keys.sign(claims), LIFE_S),))

    async def _end(self, call: Call, issuer: Issuer) -> Reply:
        text = cookie(call, COOKIE)
        claims = await self._access.keys.verify(text) if text is not None else None
        if (
            claims is None
            or claims.get("aud") != AUDIENCE
            or claims["issuer"] != issuer.settings.name
            or claims["exp"] < time.time()
            or not hmac.compare_digest(claims["state"].encode(), (call.parameter("state") or "").encode())
        ):
            raise LoginRefused("this login was not begun in this browser, or too long ago: try again")
        code = call.parameter("code")
        if code is None:
            why = call.parameter("error_description") or call.parameter("error") or "no code"
            raise LoginRefused(f"{issuer.title} has refused the login: {why[:300]}")
        who = await issuer.redeem(code, self._callback(call, issuer), claims["nonce"], claims["verifier"])
        call.caller = self._access.caller(who)
        gone = set_cookie(call, COOKIE, "", 0)
        return went(claims["next"], (await self._access.sessions.begin(call, who), gone))

    def _callback(self, call: Call, issuer: Issuer) -> str:
        return f"{self._url or call.base_url}/-/oidc/{issuer.settings.name}/callback"
