"""The built-in token server, by docker's token specification, and what its tokens open."""

import asyncio
import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import msgspec
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

from scow.registry.accounts import Account, RefreshToken
from scow.registry.passwords import hash_password, make_secret
from scow.registry.registry import Registry
from scow.registry.settings import Auth, Proxy, Rule, Settings, Token
from scow.transfer.credentials import Credentials
from scow.transfer.hosts import HostPolicy
from scow.transfer.registries import Registries
from scow.transfer.search import search

from .conftest import Answer, Client, Running, digest_of

ANN, BOB, EVE = ("ann", "ann's password"), ("bob", "bob's password"), ("eve", "eve's password")
HASHES = {name: hash_password(password) for name, password in (ANN, BOB, EVE)}

RULES = [
    Rule(repositories=["public/**"], actions=["pull"], anonymous=True),
    Rule(repositories=["team/**", "public/**"], actions=["pull", "push"], groups=["dev"]),
    Rule(repositories=["team/**"], actions=["*"], users=["ann"]),
    Rule(repositories=["home/{user}/**"], actions=["*"], users=["*"]),
    Rule(repositories=["team/app"], actions=["pull"], robots=["ci"]),
]


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def count_queries(registry: Registry, name: str) -> list[Any]:
    """What the names are asked for by this method from now on."""
    asked: list[Any] = []
    method = getattr(registry.metadata, name)
    setattr(registry.metadata, name, lambda *given: asked.append(given) or method(*given))
    return asked


def credentials(name: str, password: str) -> Credentials:
    return Credentials(username=name, password=password)


class TokenClient(Client):
    async def token(self, *scopes: str, user: tuple[str, str] | None = None, **query: str) -> Answer:
        text = urlencode([("service", "scow-registry"), *query.items(), *(("scope", scope) for scope in scopes)])
        headers = {"Authorization": basic(*user)} if user else {}
        return await self("GET", f"/token?{text}", **headers)

    async def bearer(self, *scopes: str, user: tuple[str, str] | None = None) -> str:
        answer = await self.token(*scopes, user=user)
        assert answer.status == 200, answer.body
        return f"Bearer {answer.json['token']}"

    async def form(self, **fields: str) -> Answer:
        data = urlencode(fields).encode()
        return await self("POST", "/token", data, Content_Type="application/x-www-form-urlencoded")

    async def claims(self, answer: Answer) -> dict[str, Any]:
        """What a token says, verified with the published keys alone."""
        keys = KeySet.import_key_set((await self("GET", "/.well-known/jwks.json")).json)
        assert all("d" not in key.as_dict() for key in keys.keys)
        return jwt.decode(answer.json["token"], keys, algorithms=["ES256", "EdDSA"]).claims


@pytest.fixture
def settings(settings: Settings) -> Settings:
    auth = Auth(token=Token(), rules=RULES, groups={"dev": ["ann", "bob"]})
    return msgspec.structs.replace(settings, auth=auth)


@pytest.fixture
async def accounts(running: Running) -> dict[str, str]:
    secret, kept = make_secret()
    for name, hashed in HASHES.items():
        await running.registry.accounts.put(name, Account(hashed))
    await running.registry.accounts.put("robot+ci", Account(kept))
    return {"robot+ci": secret}


@pytest.fixture
async def client(running: Running, accounts: dict[str, str], session: aiohttp.ClientSession) -> TokenClient:
    return TokenClient(session, running.url)


def challenge(answer: Answer) -> dict[str, str]:
    """The one challenge of an answer, taken apart as docker's parser does: one scheme a line."""
    assert answer.status == 401
    (line,) = answer.headers.getall("WWW-Authenticate")
    scheme, _, rest = line.partition(" ")
    assert scheme == "Bearer"
    return dict(re.findall(r'([a-z]+)="([^"]*)"', rest))


class TestChallenge:
    async def test_the_ping_says_where_tokens_are(self, client: TokenClient) -> None:
        assert challenge(await client("GET", "/v2/")) == {"realm": f"{client.url}/token", "service": "scow-registry"}

    @pytest.mark.parametrize(
        ("method", "path", "scope"),
        [
            ("GET", "/v2/team/app/manifests/latest", "repository:team/app:pull"),
            ("PUT", "/v2/team/app/manifests/latest", "repository:team/app:pull,push"),
            ("POST", "/v2/team/app/blobs/uploads/", "repository:team/app:pull,push"),
            ("DELETE", "/v2/team/app/manifests/latest", "repository:team/app:delete"),
            (
                "POST",
                f"/v2/team/app/blobs/uploads/?mount={digest_of(b'')}&from=team/base",
                "repository:team/app:pull,push repository:team/base:pull",
            ),
        ],
    )
    async def test_the_scope_is_that_of_the_request(
        self, client: TokenClient, method: str, path: str, scope: str
    ) -> None:
        assert challenge(await client(method, path))["scope"] == scope

    async def test_a_configured_realm_is_named_as_it_is(
        self, serve: Callable[..., Any], settings: Settings, client: TokenClient
    ) -> None:
        running = await serve(settings, url="https://registry.example.org/")
        client.url = running.url
        assert challenge(await client("GET", "/v2/"))["realm"] == "https://registry.example.org/token"

    async def test_a_host_cannot_smuggle_anything(self, client: TokenClient) -> None:
        answer = await client("GET", "/v2/", Host='x",realm="http://evil/')
        assert challenge(answer)["realm"] == "http://localhost/token"


class TestIssue:
    async def test_a_login_without_scope_opens_the_ping(self, client: TokenClient) -> None:
        answer = await client.token(user=ANN, account="ann", client_id="docker", offline_token="true")
        assert answer.status == 200
        assert answer.json["token"] == answer.json["access_token"]
        assert answer.json["expires_in"] == 300
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", answer.json["issued_at"])
        assert answer.json["refresh_token"]
        ping = await client("GET", "/v2/", Authorization=f"Bearer {answer.json['token']}")
        assert ping.status == 200

    async def test_the_claims_are_those_of_the_specification(self, client: TokenClient) -> None:
        claims = await client.claims(await client.token("repository:team/app:pull,push", user=BOB))
        assert (claims["sub"], claims["aud"], claims["iss"]) == ("bob", "scow-registry", "scow-registry")
        assert claims["nbf"] <= claims["iat"] <= claims["exp"] == claims["iat"] + 300
        assert claims["jti"]
        assert claims["access"] == [{"type": "repository", "name": "team/app", "actions": ["pull", "push"]}]

    @pytest.mark.parametrize(
        ("user", "scope", "actions"),
        [
            (None, "repository:public/x:pull,push", ["pull"]),
            (None, "repository:team/app:pull", []),
            (ANN, "repository:team/app:pull,push,delete", ["delete", "pull", "push"]),
            (ANN, "repository:team/app:*", ["*", "delete", "pull", "push"]),
            (BOB, "repository:team/app:*", ["pull", "push"]),
            (BOB, "repository:team/app:delete", []),
            (BOB, "repository:home/bob/x:delete", ["delete"]),
            (BOB, "repository:home/ann/x:pull", []),
            (EVE, "repository:team/app:pull", []),
            (EVE, "repository:public/deep/er:pull,delete", ["pull"]),
            (EVE, "repository(plugin):public/x:pull", ["pull"]),
            (EVE, "nonsense", []),
            (EVE, "repository:team/app", []),
            (EVE, "repository:public:pull", []),
        ],
    )
    async def test_what_is_not_allowed_is_left_out(
        self, client: TokenClient, user: tuple[str, str] | None, scope: str, actions: list[str]
    ) -> None:
        claims = await client.claims(await client.token(scope, user=user))
        assert [entry["actions"] for entry in claims["access"]] == ([actions] if actions else [])

    async def test_a_robot_has_what_names_it_and_nothing_of_everybody(
        self, client: TokenClient, accounts: dict[str, str]
    ) -> None:
        robot = ("robot+ci", accounts["robot+ci"])
        scopes = ("repository:team/app:pull,push", "repository:home/robot+ci/x:pull", "repository:team/other:pull")
        claims = await client.claims(await client.token(*scopes, user=robot))
        assert claims["access"] == [{"type": "repository", "name": "team/app", "actions": ["pull"]}]

    async def test_a_rule_may_be_for_every_robot(
        self, serve: Callable[..., Any], settings: Settings, client: TokenClient, accounts: dict[str, str]
    ) -> None:
        rules = [Rule(repositories=["team/**"], actions=["pull"], robots=["*"])]
        client.url = (await serve(settings, auth=msgspec.structs.replace(settings.auth, rules=rules))).url
        for user, actions in ((("robot+ci", accounts["robot+ci"]), [["pull"]]), (ANN, [])):
            claims = await client.claims(await client.token("repository:team/x:pull,push", user=user))
            assert [entry["actions"] for entry in claims["access"]] == actions

    async def test_a_robot_may_be_in_a_group(
        self, serve: Callable[..., Any], settings: Settings, client: TokenClient, accounts: dict[str, str]
    ) -> None:
        auth = msgspec.structs.replace(settings.auth, groups={"dev": ["ann", "robot+ci"]})
        client.url = (await serve(settings, auth=auth)).url
        answer = await client.token("repository:team/other:pull,push", user=("robot+ci", accounts["robot+ci"]))
        assert (await client.claims(answer))["access"][0]["actions"] == ["pull", "push"]

    @pytest.mark.parametrize("together", [True, False], ids=["one parameter", "several"])
    async def test_scopes_of_several_repositories(self, client: TokenClient, together: bool) -> None:
        scopes = ["repository:team/a:pull,push", "repository:team/b:pull"]
        claims = await client.claims(await client.token(*([" ".join(scopes)] if together else scopes), user=BOB))
        assert [(entry["name"], entry["actions"]) for entry in claims["access"]] == [
            ("team/a", ["pull", "push"]),
            ("team/b", ["pull"]),
        ]

    async def test_a_token_is_no_way_to_another_one(self, client: TokenClient) -> None:
        """One that says little would become one that says all, and for as long as a refresh token lives."""
        little = await client.bearer("repository:team/app:pull", user=ANN)
        answer = await client("GET", "/token?scope=repository:team/app:delete&offline_token=true", Authorization=little)
        assert (answer.status, answer.codes) == (401, ["UNAUTHORIZED"])
        assert answer.headers.getall("WWW-Authenticate") == ['Basic realm="scow registry"']

    async def test_a_name_that_no_repository_can_have_is_left_out(self, client: TokenClient) -> None:
        scopes = [f"repository:{name}:pull" for name in ("team/" + "a" * 300, "team/..", "team/A", "team/**", "team/")]
        claims = await client.claims(await client.token(*scopes, user=ANN))
        assert claims["access"] == []

    async def test_a_wrong_password_gets_none(self, client: TokenClient) -> None:
        answer = await client.token("repository:team/app:pull", user=("ann", "wrong"))
        assert (answer.status, answer.codes) == (401, ["UNAUTHORIZED"])

    async def test_another_service_is_refused(self, client: TokenClient) -> None:
        assert (await client("GET", "/token?service=other")).status == 400

    async def test_without_tokens_configured_there_is_no_such_page(
        self, serve: Callable[..., Any], settings: Settings, client: TokenClient
    ) -> None:
        client.url = (await serve(settings, auth=Auth())).url
        for path in ("/token", "/.well-known/jwks.json"):
            assert (await client("GET", path)).status == 404


class TestOauth:
    async def test_a_password_by_post_as_containerd_sends_it(self, client: TokenClient) -> None:
        scope = "repository:team/app:pull"
        fields = {"grant_type": "password", "service": "scow-registry", "client_id": "containerd-client"}
        answer = await client.form(**fields, scope=scope, username="bob", password=BOB[1])
        assert answer.status == 200
        assert "refresh_token" not in answer.json
        assert (await client.claims(answer))["access"][0]["actions"] == ["pull"]
        assert answer.json["scope"] == "repository:team/app:pull"
        answer = await client.form(**fields, scope=scope, username="bob", password="wrong")
        assert answer.status == 401

    async def test_a_refresh_token_gets_tokens_until_it_is_revoked(self, client: TokenClient, running: Running) -> None:
        fields = {"grant_type": "password", "service": "scow-registry", "client_id": "x", "access_type": "offline"}
        refresh = (await client.form(**fields, username="bob", password=BOB[1])).json["refresh_token"]
        again = {"grant_type": "refresh_token", "service": "scow-registry", "client_id": "x", "refresh_token": refresh}
        answer = await client.form(**again, scope="repository:team/app:push")
        claims = await client.claims(answer)
        assert (claims["sub"], claims["access"][0]["actions"]) == ("bob", ["push"])
        assert answer.json["refresh_token"] == refresh
        await running.registry.accounts.put("bob", Account(HASHES["bob"]))  # the password was changed
        assert (await client.form(**again)).status == 401

    async def test_a_removed_account_has_no_refresh_tokens(self, client: TokenClient, running: Running) -> None:
        refresh = (await client.token(user=EVE, offline_token="true")).json["refresh_token"]
        await running.registry.accounts.remove("eve")
        answer = await client.form(grant_type="refresh_token", refresh_token=refresh)
        assert answer.status == 401

    async def test_a_refresh_token_ends_with_a_password_that_is_changed_in_an_htpasswd_file(
        self,
        serve: Callable[..., Any],
        settings: Settings,
        session: aiohttp.ClientSession,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("scow.registry.passwords.FRESH_S", 0)
        path = tmp_path / "htpasswd"
        path.write_text(f"eve:{HASHES['eve']}\n")
        auth = msgspec.structs.replace(settings.auth, htpasswd=str(path))
        client = TokenClient(session, (await serve(settings, auth=auth)).url)
        refresh = (await client.token(user=EVE, offline_token="true")).json["refresh_token"]
        again = {"grant_type": "refresh_token", "refresh_token": refresh}
        assert (await client.form(**again)).status == 200
        path.write_text(f"eve:{HASHES['bob']}\n")
        assert (await client.form(**again)).status == 401
        chance, _, proof = refresh.partition(".")
        assert (await client.form(**again | {"refresh_token": chance})).status == 401
        path.write_text(f"eve:{HASHES['eve']}\n")
        assert (await client.form(**again | {"refresh_token": f"{chance}.{proof[::-1]}"})).status == 401

    async def test_a_refresh_token_of_an_earlier_version_is_good_until_it_expires(
        self, client: TokenClient, running: Running
    ) -> None:
        token = RefreshToken("bob", "docker", time.time() + 100)
        await running.registry.accounts.put_refresh_token(hashlib.sha256(b"earlier").digest(), token)
        assert (await client.form(grant_type="refresh_token", refresh_token="earlier")).status == 200

    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"grant_type": "magic"},
            {"grant_type": "refresh_token", "refresh_token": "guess"},
            {"grant_type": "password", "username": "bob", "password": BOB[1], "client_id": "a\0b"},
        ],
    )
    async def test_other_forms_are_refused(self, client: TokenClient, fields: dict[str, str]) -> None:
        assert (await client.form(**fields)).status in (400, 401)

    async def test_a_form_has_to_be_small_and_come_in_time(
        self, client: TokenClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answer = await client.form(grant_type="password", username="x" * 70_000)
        assert (answer.status, answer.json["errors"][0]["message"]) == (400, "the form has more than 65536 bytes")
        monkeypatch.setattr("scow.registry.calls.FORM_S", 0.3)
        reader, writer = await asyncio.open_connection(*client.url.removeprefix("http://").split(":"))
        writer.write(b"POST /token HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        answered = asyncio.create_task(reader.readline())
        for _ in range(50):
            writer.write(b"x")
            if (await asyncio.wait([answered], timeout=0.1))[0]:
                break
        assert (await answered).startswith(b"HTTP/1.1 408 ")
        writer.close()

    async def test_what_is_kept_of_a_refresh_token_logs_nobody_in(
        self, client: TokenClient, settings: Settings
    ) -> None:
        refresh = (await client.token(user=BOB, offline_token="true")).json["refresh_token"]
        assert refresh.encode() not in kept_bytes(settings)


def kept_bytes(settings: Settings) -> bytes:
    return b"".join(path.read_bytes() for path in Path(settings.storage).glob("registry.db*"))


class TestUse:
    async def test_push_and_pull_with_tokens(self, client: TokenClient) -> None:
        token = await client.bearer("repository:team/app:pull,push", user=BOB)
        answer = await client("POST", "/v2/team/app/blobs/uploads/", Authorization=token)
        assert answer.status == 202
        location = f"{answer.headers['Location']}?digest={digest_of(b'data')}"
        assert (await client("PUT", location, b"data", Authorization=token)).status == 201
        path = f"/v2/team/app/blobs/{digest_of(b'data')}"
        assert (await client("GET", path, Authorization=token)).body == b"data"
        refused = challenge(await client("DELETE", path, Authorization=token))
        assert (refused["error"], refused["scope"]) == ("insufficient_scope", "repository:team/app:delete")
        assert (await client("DELETE", path, Authorization=token)).json["errors"][0]["message"] == (
            "the token does not allow delete here"
        )
        assert challenge(await client("GET", path))["scope"] == "repository:team/app:pull"

    async def test_a_token_is_for_its_repository(self, client: TokenClient) -> None:
        token = await client.bearer("repository:team/app:pull,push", user=BOB)
        answer = await client("POST", "/v2/team/other/blobs/uploads/", Authorization=token)
        assert challenge(answer)["error"] == "insufficient_scope"

    async def test_anonymous_reads_what_everybody_may(self, client: TokenClient) -> None:
        push = await client.bearer("repository:public/x:push", user=ANN)
        location = (await client("POST", "/v2/public/x/blobs/uploads/", Authorization=push)).headers["Location"]
        await client("PUT", f"{location}?digest={digest_of(b'data')}", b"data", Authorization=push)
        path = f"/v2/public/x/blobs/{digest_of(b'data')}"
        token = await client.bearer("repository:public/x:pull")
        assert (await client("GET", path, Authorization=token)).body == b"data"
        assert (await client("GET", path)).body == b"data"
        assert (await client("POST", "/v2/public/x/blobs/uploads/", Authorization=token)).status == 401

    async def test_a_password_does_as_well(self, client: TokenClient) -> None:
        uploads = "/v2/team/app/blobs/uploads/"
        assert (await client("POST", uploads, Authorization=basic(*BOB))).status == 202
        answer = await client("POST", uploads, Authorization=basic(*EVE))
        assert (answer.status, answer.codes) == (403, ["DENIED"])

    async def test_a_token_of_nobody_opens_the_ping_and_no_metrics(self, client: TokenClient) -> None:
        nobodys, anns = await client.bearer(), await client.bearer(user=ANN)
        assert (await client("GET", "/v2/", Authorization=nobodys)).status == 200
        assert (await client("GET", "/metrics", Authorization=nobodys)).status == 401
        assert (await client("GET", "/metrics", Authorization=anns)).status == 200

    @pytest.mark.parametrize("by_rule", [True, False])
    async def test_where_everybody_may_read_everything_clients_are_still_asked_to_log_in(
        self, serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession, by_rule: bool
    ) -> None:
        everything = Rule(repositories=["**"], actions=["pull"], anonymous=True)
        auth = Auth(token=Token(), anonymous_pull=not by_rule, rules=[*RULES, *([everything] if by_rule else [])])
        client = TokenClient(session, (await serve(settings, auth=auth)).url)
        assert challenge(await client("GET", "/v2/"))["realm"] == f"{client.url}/token"
        assert (await client("GET", "/v2/", Authorization=await client.bearer())).status == 200
        assert (await client("GET", "/v2/team/app/manifests/v1")).status == 404

    @pytest.mark.parametrize(("namespace", "status"), [("", 200), ("hub", 401)])
    async def test_a_mirror_that_everybody_may_read_asks_for_no_login(
        self, serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession, namespace: str, status: int
    ) -> None:
        auth = Auth(token=Token(), anonymous_pull=True)
        proxy = [Proxy(upstream="http://127.0.0.1:1", namespace=namespace)]
        client = TokenClient(session, (await serve(settings, auth=auth, proxy=proxy)).url)
        assert (await client("GET", "/v2/")).status == status
        assert (await client("DELETE", "/v2/hub/app/manifests/v1")).status == 401

    async def test_a_mount_needs_pull_on_its_source(self, client: TokenClient) -> None:
        push = await client.bearer("repository:team/base:pull,push", user=ANN)
        location = (await client("POST", "/v2/team/base/blobs/uploads/", Authorization=push)).headers["Location"]
        digest = digest_of(b"shared")
        await client("PUT", f"{location}?digest={digest}", b"shared", Authorization=push)
        for scopes, user, status in (
            (("repository:home/eve/x:pull,push", "repository:team/base:pull"), EVE, 202),
            (("repository:home/bob/x:pull,push", "repository:team/base:pull"), BOB, 201),
            (("repository:home/bob/y:pull,push",), BOB, 202),
        ):
            token = await client.bearer(*scopes, user=user)
            repository = scopes[0].split(":")[1]
            query = f"?mount={digest}&from=team/base"
            answer = await client("POST", f"/v2/{repository}/blobs/uploads/{query}", Authorization=token)
            assert answer.status == status

    async def test_the_catalog_shows_what_the_caller_may_see(self, client: TokenClient, running: Running) -> None:
        names = ("home/bob/x", "home/eve/y", "public/a", "public/b", "team/app")
        for name, user in zip(names, (BOB, EVE, ANN, ANN, ANN), strict=True):
            header = {"Authorization": basic(*user)}
            manifest = json.dumps(
                {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}
            ).encode()
            kind = "application/vnd.oci.image.index.v1+json"
            assert (
                await client("PUT", f"/v2/{name}/manifests/v1", manifest, Content_Type=kind, **header)
            ).status == 201
        assert (await client("GET", "/v2/_catalog")).json == {"repositories": ["public/a", "public/b"]}
        for user, seen in ((EVE, ["home/eve/y", "public/a", "public/b"]), (BOB, [names[0], *names[2:]])):
            token = await client.bearer("registry:catalog:*", user=user)
            assert (await client("GET", "/v2/_catalog", Authorization=token)).json == {"repositories": seen}
        nobodys = await client.bearer("repository:public/a:pull")
        shown = await client("GET", "/v2/_catalog", Authorization=nobodys)
        assert shown.json == {"repositories": ["public/a", "public/b"]}
        little = await client.bearer("repository:team/app:pull", user=ANN)  # says nothing of the catalog
        said = challenge(await client("GET", "/v2/_catalog", Authorization=little))
        assert (said["error"], said["scope"]) == ("insufficient_scope", "registry:catalog:*")
        asked = count_queries(running.registry, "repositories")
        answer = await client("GET", "/v2/_catalog?n=1", Authorization=basic(*EVE))
        assert (answer.json, len(asked)) == ({"repositories": ["home/eve/y"]}, 1)
        registries = Registries(HostPolicy())
        try:
            host = client.url.removeprefix("http://")
            named = await search(f"{host}/app", 0, registries=registries, credentials=credentials(*ANN))
            nobody = await search(f"{host}/app", 0, registries=registries)
        finally:
            await registries.aclose()
        assert ([match.name for match in named], nobody) == ([f"{host}/team/app"], [])
        answer = await client("GET", "/v2/_catalog?n=2", Authorization=basic(*EVE))
        assert answer.json == {"repositories": ["home/eve/y", "public/a"]}
        assert "last=public%2Fa" in answer.headers["Link"]

    @pytest.mark.parametrize(
        "change",
        ["signature", "claims", "algorithm", "cut", "text", "shared secret", "own key", "number", "deep", "critical"],
    )
    async def test_a_token_that_is_not_ours_is_invalid(self, client: TokenClient, change: str) -> None:
        answer = await client.token("repository:team/app:pull", user=ANN)
        head, body, signature = answer.json["token"].split(".")
        claims = await client.claims(answer)
        (public,) = (await client("GET", "/.well-known/jwks.json")).json["keys"]
        kid = public["kid"]
        mine = ECKey.generate_key("P-256", {"kid": kid})
        forged = {
            "signature": f"{head}.{body}.{'A' * len(signature)}",
            "claims": f"{head}.{_encoded({'iss': 'scow-registry', 'sub': 'ann', 'access': []})}.{signature}",
            "algorithm": f"{_encoded({'alg': 'none'})}.{body}.",
            "cut": f"{head}.{body}",
            "text": "x",
            "shared secret": _signed({"alg": "HS256", "kid": kid}, body, json.dumps(public).encode()),
            "own key": jwt.encode({"alg": "ES256", "kid": kid, "jwk": mine.as_dict(private=False)}, claims, mine),
            "number": f"{_encoded({'alg': 'ES256', 'kid': 7})}.{body}.{signature}",
            "critical": f"{_encoded({'alg': 'ES256', 'kid': kid, 'crit': 5})}.{body}.{signature}",
            "deep": f"{base64.urlsafe_b64encode(b'[' * 9000).decode()}.{body}.{signature}",
        }[change]
        answer = await client("GET", "/v2/", Authorization=f"Bearer {forged}")
        assert challenge(answer)["error"] == "invalid_token"

    async def test_an_expired_token_is_invalid(self, client: TokenClient, monkeypatch: pytest.MonkeyPatch) -> None:
        token = await client.bearer("repository:public/x:pull", user=ANN)
        assert (await client("GET", "/v2/", Authorization=token)).status == 200
        later = time.time() + 301
        monkeypatch.setattr("scow.registry.tokens.time.time", lambda: later)
        assert challenge(await client("GET", "/v2/", Authorization=token))["error"] == "invalid_token"


class TestKeys:
    async def test_keys_rotate_and_the_last_one_is_known_until_its_tokens_expired(
        self, client: TokenClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = time.time()
        month = 30 * 86400
        clock = [now]
        monkeypatch.setattr("scow.registry.tokens.time.time", lambda: clock[0])
        early = await client.token(user=ANN)
        clock[0] = now + month - 100
        old = await client.token(user=ANN)
        clock[0] = now + month + 1
        new = await client.token(user=ANN)
        heads = [
            json.loads(base64.urlsafe_b64decode(answer.json["token"].split(".")[0] + "==")) for answer in (old, new)
        ]
        assert heads[0]["kid"] != heads[1]["kid"]
        keys = {key["kid"] for key in (await client("GET", "/.well-known/jwks.json")).json["keys"]}
        assert {head["kid"] for head in heads} == keys
        for answer, status in ((early, 401), (old, 200), (new, 200)):
            assert (await client("GET", "/v2/", Authorization=f"Bearer {answer.json['token']}")).status == status
        clock[0] = now + 2 * month + 400
        await client.token(user=ANN)
        left = {key["kid"] for key in (await client("GET", "/.well-known/jwks.json")).json["keys"]}
        assert heads[0]["kid"] not in left

    async def test_a_key_of_a_clock_that_was_wrong_is_not_used_until_its_time_comes(
        self, client: TokenClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now, years = time.time(), 10 * 365 * 86400
        clock = [now]
        monkeypatch.setattr("scow.registry.tokens.time.time", lambda: clock[0])
        used = []
        for moment in (now, now + years, now + 1, now + 2):
            clock[0] = moment
            answer = await client.token(user=ANN)
            used.append(json.loads(base64.urlsafe_b64decode(answer.json["token"].split(".")[0] + "=="))["kid"])
            assert (await client("GET", "/v2/", Authorization=f"Bearer {answer.json['token']}")).status == 200
        assert used[1] not in (used[0], used[2])
        assert used[2] == used[3]

    async def test_a_token_of_one_process_is_good_at_another(
        self, serve: Callable[..., Any], settings: Settings, client: TokenClient
    ) -> None:
        other = (await serve(settings)).url
        one = client.url
        for here, there in ((one, other), (other, one)):
            client.url = here
            token = await client.bearer("repository:public/x:pull", user=ANN)
            client.url = there
            assert (await client("GET", "/v2/", Authorization=token)).status == 200


async def test_a_robot_ends_with_its_time(client: TokenClient, running: Running) -> None:
    secret, kept = make_secret()
    await running.registry.accounts.put("robot+ci", Account(kept, time.time() - 1))
    assert (await client.token(user=("robot+ci", secret))).status == 401


def _encoded(document: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")


def _signed(head: dict[str, Any], body: str, secret: bytes) -> str:
    text = f"{_encoded(head)}.{body}"
    return f"{text}.{base64.urlsafe_b64encode(hmac.digest(secret, text.encode(), 'sha256')).decode().rstrip('=')}"


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")  # of the test's own decoding
async def test_the_algorithm_of_keys_can_be_changed(
    serve: Callable[..., Any], settings: Settings, client: TokenClient, running: Running
) -> None:
    before = await client.bearer("repository:team/app:pull", user=ANN)
    auth = msgspec.structs.replace(settings.auth, token=Token(algorithm="EdDSA"))
    client.url = (await serve(settings, auth=auth)).url
    answer = await client.token("repository:team/app:pull", user=ANN)
    head = json.loads(base64.urlsafe_b64decode(answer.json["token"].partition(".")[0] + "=="))
    assert head["alg"] == "EdDSA"
    assert (await client.claims(answer))["sub"] == "ann"
    for bearer in (before, f"Bearer {answer.json['token']}"):
        assert (await client("GET", "/v2/team/app/tags/list", Authorization=bearer)).status == 404
    keys = (await client("GET", "/.well-known/jwks.json")).json["keys"]
    assert sorted((key["kty"], key["alg"]) for key in keys) == [("EC", "ES256"), ("OKP", "EdDSA")]
