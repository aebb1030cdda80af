"""Issuers of OpenID Connect: login in the browser, and their tokens at the API."""

import base64
import hmac
import re
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import msgspec
import pytest
from joserfc.jwk import RSAKey

from scow.registry import jwks
from scow.registry.accounts import Account
from scow.registry.passwords import hash_password
from scow.registry.settings import Auth, Oidc, Rule, Settings, SettingsInvalid, Token

from .conftest import Answer, Client, Running
from .issuer import CLIENT, SECRET, FakeIssuer
from .test_login import Browser

RULES = [
    Rule(repositories=["team/**"], actions=["pull", "push"], groups=["dev"]),
    Rule(repositories=["home/{user}/**"], actions=["*"], users=["*"]),
]


@pytest.fixture
async def issuer() -> AsyncIterator[FakeIssuer]:
    made = FakeIssuer()
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def settings(settings: Settings, issuer: FakeIssuer) -> Settings:
    oidc = Oidc(name="work", issuer=issuer.url, client_id=CLIENT, client_secret=SECRET, title="Work & Co")
    return msgspec.structs.replace(settings, auth=Auth(oidc=[oidc], rules=RULES))


class Tab(Browser):
    """Follows the way to the issuer and back."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        super().__init__(session, url)
        self.jar: dict[str, str] = {}

    async def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        self.cookie = "; ".join(f"{name}={value}" for name, value in self.jar.items())
        answer = await super().__call__(method, path, body, **headers)
        for line in answer.headers.getall("Set-Cookie", []):
            name, _, value = line.partition(";")[0].partition("=")
            self.jar[name] = value
        return answer

    async def begin(self, after: str = "/") -> str:
        """Begin a login; where the issuer sends the browser back to."""
        answer = await self("GET", f"/-/oidc/work?next={after}")
        assert answer.status == 303
        async with self._session.get(answer.headers["Location"], allow_redirects=False) as reply:
            assert reply.status == 302
            back = reply.headers["Location"]
        assert back.startswith(f"{self.url}/-/oidc/work/callback?")
        return back.removeprefix(self.url)


@pytest.fixture
def tab(running: Running, session: aiohttp.ClientSession) -> Tab:
    return Tab(session, running.url)


class TestBrowser:
    async def test_a_login_leads_there_and_back(self, tab: Tab) -> None:
        form = (await tab("GET", "/-/login?next=/-/repositories/team/app")).body.decode()
        assert "Log in with Work &amp; Co" in form
        assert 'type="password"' not in form  # nobody has one
        link = re.search(r'href="(/-/oidc/work\?next=[^"]*)"', form)
        assert link is not None
        answer = await tab("GET", await tab.begin("/-/repositories/team/app"))
        assert (answer.status, answer.headers["Location"]) == (303, "/-/repositories/team/app")
        assert b"<span>ann</span>" in (await tab("GET", "/")).body
        assert (await tab("GET", "/-/repositories/team/app")).status == 404  # her group may read it
        assert (await tab("GET", "/-/repositories/other/app")).status == 403

    async def test_with_accounts_there_is_a_form_too(self, tab: Tab, running: Running) -> None:
        await running.registry.accounts.put("eve", Account(hash_password("eve's password")))
        running.registry.passwords.forget()
        assert b'type="password"' in (await tab("GET", "/-/login")).body
        assert (await tab.log_in("eve", "eve's password")).status == 303

    async def test_a_login_ends_only_where_it_began(self, tab: Tab, session: aiohttp.ClientSession) -> None:
        back = await tab.begin()
        other = Tab(session, tab.url)
        assert (await other("GET", back)).status == 403
        await other.begin()
        assert (await other("GET", back)).status == 403  # its state is another one's
        assert "scow-session" not in other.jar
        assert (await tab("GET", back)).status == 303
        assert (await tab("GET", back)).status == 403  # once

    async def test_a_refusal_is_shown(self, tab: Tab, issuer: FakeIssuer) -> None:
        issuer.refuses = "not <b>you</b>"
        answer = await tab("GET", await tab.begin())
        assert answer.status == 403
        assert b"Work &amp; Co has refused the login: not &lt;b&gt;you&lt;/b&gt;" in answer.body

    @pytest.mark.parametrize(
        "claims",
        [
            {"aud": "somebody else"},
            {"nonce": "another"},
            {"azp": "somebody else"},
            {"exp": 1},
            {"iss": "http://evil.example"},
            {"iat": time.time() + 86400},
            {"preferred_username": None},
            {"preferred_username": "robot+ci"},
            {"preferred_username": "a\nb"},
        ],
    )
    async def test_an_id_token_that_is_not_good_opens_no_session(
        self, tab: Tab, issuer: FakeIssuer, monkeypatch: pytest.MonkeyPatch, claims: dict[str, Any]
    ) -> None:
        made = issuer.token
        monkeypatch.setattr(issuer, "token", lambda **others: made(**(others | claims)))
        assert (await tab("GET", await tab.begin())).status == 403
        assert "scow-session" not in tab.jar

    async def test_an_issuer_that_is_away_is_named(self, tab: Tab, issuer: FakeIssuer) -> None:
        await issuer.stop()
        answer = await tab("GET", "/-/oidc/work")
        assert answer.status == 503
        assert issuer.url.encode() in answer.body
        assert (await tab("GET", "/-/login")).status == 200

    async def test_a_cookie_holds_the_groups_that_matter(self, tab: Tab, issuer: FakeIssuer) -> None:
        issuer.claims["groups"] = [f"a group of the company with the number {number}" for number in range(900)] + [
            "dev"
        ]
        await tab("GET", await tab.begin())
        assert len(tab.jar["scow-session"]) < 1000  # browsers take 4096
        assert (await tab("GET", "/-/repositories/team/app")).status == 404

    async def test_an_unknown_issuer(self, tab: Tab) -> None:
        assert (await tab("GET", "/-/oidc/nobody")).status == 404


class TestTokens:
    """ID tokens that clients bring."""

    async def test_as_a_bearer(self, tab: Tab, issuer: FakeIssuer) -> None:
        bearer = f"Bearer {issuer.token()}"
        assert (await tab("GET", "/v2/", Authorization=bearer)).status == 200
        assert (await tab("POST", "/v2/team/app/blobs/uploads/", Authorization=bearer)).status == 202
        assert (await tab("POST", "/v2/home/ann/x/blobs/uploads/", Authorization=bearer)).status == 202
        assert (await tab("POST", "/v2/home/bob/x/blobs/uploads/", Authorization=bearer)).status == 403
        bearer = f"Bearer {issuer.token(groups=[], preferred_username='ann/x')}"
        assert (await tab("POST", "/v2/team/app/blobs/uploads/", Authorization=bearer)).status == 403
        assert (await tab("POST", "/v2/home/ann/x/blobs/uploads/", Authorization=bearer)).status == 403

    async def test_as_dockers_password(self, tab: Tab, issuer: FakeIssuer) -> None:
        assert (await tab("GET", "/v2/", Authorization=basic("oidc", issuer.token()))).status == 200
        assert (await tab("GET", "/v2/", Authorization=basic("oidc", issuer.token(aud="x")))).status == 401

    async def test_at_the_token_server(
        self, serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession, issuer: FakeIssuer
    ) -> None:
        auth = msgspec.structs.replace(settings.auth, token=Token())
        client = Client(session, (await serve(settings, auth=auth)).url)
        query = "?service=scow-registry&offline_token=true&scope=repository:team/app:pull,push"
        answer = await client("GET", f"/token{query}", Authorization=basic("oidc", issuer.token()))
        assert "refresh_token" not in answer.json  # it would outlive the issuer's word
        bearer = f"Bearer {answer.json['token']}"
        assert (await client("POST", "/v2/team/app/blobs/uploads/", Authorization=bearer)).status == 202
        assert (await client("GET", "/v2/", Authorization=f"Bearer {issuer.token()}")).status == 200

    async def test_other_audiences_have_to_be_named(
        self, serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession, issuer: FakeIssuer
    ) -> None:
        oidc = msgspec.structs.replace(settings.auth.oidc[0], audiences=["ci"], user_claim="sub", user_prefix="ci:")
        client = Client(session, (await serve(settings, auth=Auth(oidc=[oidc], rules=RULES))).url)
        for audience, status in (("ci", 202), (["x", "ci"], 202), ("x", 401), ([], 401), (None, 401), (7, 401)):
            bearer = f"Bearer {issuer.token(aud=audience, sub='job')}"
            ping = await client("GET", "/v2/", Authorization=bearer)
            assert ping.status == (200 if status == 202 else 401)
            answer = await client("POST", "/v2/team/x/blobs/uploads/", Authorization=bearer)
            assert answer.status == status

    @pytest.mark.parametrize("forgery", ["another key", "public key as secret", "none", "expired", "garbage"])
    async def test_a_forged_token_is_invalid(self, tab: Tab, issuer: FakeIssuer, forgery: str) -> None:
        other = RSAKey.generate_key(2048, {"kid": issuer.keys[0].kid})
        head, body, _ = issuer.token().split(".")
        shared = _b64(b'{"alg":"HS256"}')
        signed = f"{shared}.{body}"
        public = issuer.keys[0].as_pem(private=False)
        token = {
            "another key": issuer.token(key=other),
            "public key as secret": f"{signed}.{_b64(hmac.digest(public, signed.encode(), 'sha256'))}",
            "none": _b64(b'{"alg":"none"}') + f".{body}.",
            "expired": issuer.token(exp=int(time.time()) - 60),
            "garbage": f"{head}.{body}.AAAA",
        }[forgery]
        answer = await tab("GET", "/v2/", Authorization=f"Bearer {token}")
        assert (answer.status, answer.codes) == (401, ["UNAUTHORIZED"])

    async def test_new_keys_are_fetched_and_guesses_fetch_nothing(
        self, tab: Tab, issuer: FakeIssuer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert (await tab("GET", "/v2/", Authorization=f"Bearer {issuer.token()}")).status == 200
        issuer.keys.append(RSAKey.generate_key(2048, auto_kid=True))
        token = issuer.token()
        for _ in range(3):
            assert (await tab("GET", "/v2/", Authorization=f"Bearer {token}")).status == 401
        assert issuer.asked_for_keys == 1
        monkeypatch.setattr(jwks, "PAUSE_S", 0.0)  # a minute later
        assert (await tab("GET", "/v2/", Authorization=f"Bearer {token}")).status == 200
        assert issuer.asked_for_keys == 2

    async def test_a_long_token_is_taken(self, tab: Tab, issuer: FakeIssuer) -> None:
        token = issuer.token(groups=["dev", *(f"group number {number}" for number in range(400))])
        assert len(token) > 8190
        assert (await tab("GET", "/v2/", Authorization=f"Bearer {token}")).status == 200
        assert (await tab("GET", "/v2/", Authorization=basic("oidc", token))).status == 200

    async def test_an_issuer_that_is_away_is_not_asked_by_each_request(self, tab: Tab, issuer: FakeIssuer) -> None:
        token = issuer.token()
        await issuer.stop()
        bearer = f"Bearer {token}"
        assert (await tab("GET", "/v2/", Authorization=bearer)).status == 503
        await issuer.start(int(issuer.url.rsplit(":", 1)[1]))
        assert (await tab("GET", "/v2/", Authorization=bearer)).status == 503
        assert issuer.asked_for_keys == 0

    async def test_without_the_issuer_known_keys_go_on_and_passwords_too(
        self, tab: Tab, running: Running, issuer: FakeIssuer
    ) -> None:
        await running.registry.accounts.put("eve", Account(hash_password("eve's password")))
        token = issuer.token()
        assert (await tab("GET", "/v2/", Authorization=f"Bearer {token}")).status == 200
        await issuer.stop()
        assert (await tab("GET", "/v2/", Authorization=f"Bearer {issuer.token(jti='new')}")).status == 200
        assert (await tab("GET", "/v2/", Authorization=basic("eve", "eve's password"))).status == 200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"issuer": "http://login.example"}, "must be reached by https"),
        ({"name": "a/b"}, "letters, digits and hyphens"),
        ({"client_secret_file": "/nowhere"}, "/nowhere: No such file"),
        ({"client_secret_file": "/bin/true"}, "/bin/true: it is no text"),
        ({"ca": "/nowhere"}, "/nowhere: No such file"),
    ],
)
async def test_settings_that_cannot_be_used(
    serve: Callable[..., Any], settings: Settings, changes: dict[str, str], message: str
) -> None:
    oidc = msgspec.structs.replace(settings.auth.oidc[0], **changes)
    with pytest.raises(SettingsInvalid, match=message):
        await serve(settings, auth=Auth(oidc=[oidc]))


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
