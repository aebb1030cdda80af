"""A small issuer of OpenID Connect for the tests: discovery, keys, authorization code with PKCE, ID tokens."""

import base64
import hashlib
import secrets
import time
from typing import Any
from urllib.parse import parse_qs, urlencode

from aiohttp import web
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey

CLIENT, SECRET = "scow", "a secret/with:signs"


class FakeIssuer:
    """Logs everybody in as `claims` says. `start`, then `url`."""

    def __init__(self) -> None:
        self.keys: list[RSAKey | ECKey] = [RSAKey.generate_key(2048, {"use": "sig"}, auto_kid=True)]
        self.claims: dict[str, Any] = {"sub": "1", "preferred_username": "ann", "groups": ["dev"]}
        self.url = ""
        self.asked_for_keys = 0
        self.refuses = ""
        self._codes: dict[str, dict[str, str]] = {}
        self._runner: web.AppRunner | None = None

    async def start(self, port: int = 0) -> None:
        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", self._discovery)
        app.router.add_get("/keys", self._show_keys)
        app.router.add_get("/authorize", self._authorize)
        app.router.add_post("/token", self._token)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def token(self, *, key: Any = None, algorithm: str = "RS256", **changes: Any) -> str:
        """An ID token; a change to None leaves a claim out."""
        now = int(time.time())
        claims = {"iss": self.url, "aud": CLIENT, "exp": now + 300, "iat": now, **self.claims, **changes}
        signing = key or self.keys[-1]
        header = {"alg": algorithm, "kid": signing.kid}
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(header, claims, signing, algorithms=[algorithm])

    async def _discovery(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/keys",
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
            }
        )

    async def _show_keys(self, request: web.Request) -> web.Response:
        self.asked_for_keys += 1
        return web.json_response(KeySet(list(self.keys)).as_dict(private=False))

    async def _authorize(self, request: web.Request) -> web.Response:
        query = dict(request.query)
        assert (query["response_type"], query["client_id"], query["code_challenge_method"]) == ("code", CLIENT, "S256")
        assert "openid" in query["scope"].split()
        answer = {"state": query["state"]}
        if self.refuses:
            answer |= {"error": "access_denied", "error_description": self.refuses}
        else:
            code = answer["code"] = secrets.token_urlsafe(16)
            self._codes[code] = query
        raise web.HTTPFound(f"{query['redirect_uri']}?{urlencode(answer)}")

    async def _token(self, request: web.Request) -> web.Response:
        form = {name: values[0] for name, values in parse_qs((await request.read()).decode()).items()}
        scheme, _, value = request.headers["Authorization"].partition(" ")
        pair = base64.b64decode(value).decode()
        begun = self._codes.pop(form["code"], None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=")
        if (
            (scheme, pair) != ("Basic", f"{CLIENT}:a%20secret%2Fwith%3Asigns")
            or begun is None
            or begun["redirect_uri"] != form["redirect_uri"]
            or begun["code_challenge"] != challenge.decode()
        ):
            return web.json_response({"error": "invalid_grant"}, status=400)
        return web.json_response({"id_token": self.token(nonce=begun["nonce"]), "token_type": "Bearer"})
