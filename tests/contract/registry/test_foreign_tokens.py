"""A token server that is not the registry's own, as docker's token specification has it: realm, issuer, keys."""

import datetime
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey

from scow.registry.settings import Auth, Rule, Settings, SettingsInvalid, Token

from .conftest import Client
from .issuer import FakeIssuer

REALM = "https://auth.example/token"
ALL = [{"type": "repository", "name": "team/app", "actions": ["pull", "push"]}]


@pytest.fixture
async def issuer() -> AsyncIterator[FakeIssuer]:
    made = FakeIssuer()
    await made.start()
    yield made
    await made.stop()


def token_of(key: RSAKey | ECKey, algorithm: str = "RS256", *, kid: str | None = "", **changes: Any) -> str:
    now = int(time.time())
    claims = {"iss": "auth.example", "aud": "registry.example", "sub": "ann", "exp": now + 300, "nbf": now, "iat": now}
    header = {"alg": algorithm} | ({"kid": kid or key.kid} if kid is not None else {})
    return jwt.encode(header, claims | {"access": ALL} | changes, key, algorithms=[algorithm])


def certificate_of(key: RSAKey | ECKey) -> bytes:
    private: Any = key.private_key
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "auth")])
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(private.public_key())
    made = made.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    return made.sign(private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def open_with(serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession) -> Callable[..., Any]:
    async def start(keys: str, **more: Any) -> Client:
        token = Token(realm=REALM, service="registry.example", issuer="auth.example", keys=keys)
        return Client(session, (await serve(msgspec.structs.replace(settings, auth=Auth(token=token, **more)))).url)

    return start


async def test_the_challenge_names_it_and_its_tokens_open(issuer: FakeIssuer, open_with: Callable[..., Any]) -> None:
    client = await open_with(f"{issuer.url}/keys")
    refused = await client("GET", "/v2/team/app/tags/list")
    assert refused.headers["WWW-Authenticate"] == (
        f'Bearer realm="{REALM}",service="registry.example",scope="repository:team/app:pull"'
    )
    bearer = {"Authorization": f"Bearer {token_of(issuer.keys[0])}"}
    assert (await client("POST", "/v2/team/app/blobs/uploads/", **bearer)).status == 202
    assert (await client("POST", "/v2/team/other/blobs/uploads/", **bearer)).status == 401
    assert (await client("GET", "/v2/", **bearer)).status == 200
    assert (await client("GET", "/token")).status == 404
    assert (await client("GET", "/.well-known/jwks.json")).status == 404


@pytest.mark.parametrize(
    "changes",
    [{"iss": "x"}, {"aud": "x"}, {"exp": 1}, {"nbf": time.time() + 999}, {"access": 7}, {"aud": ["x"]}, {"exp": None}],
)
async def test_a_token_that_is_not_good_is_invalid(
    issuer: FakeIssuer, open_with: Callable[..., Any], changes: dict[str, Any]
) -> None:
    client = await open_with(f"{issuer.url}/keys")
    answer = await client("GET", "/v2/", Authorization=f"Bearer {token_of(issuer.keys[0], **changes)}")
    assert answer.status == 401
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


@pytest.mark.parametrize("form", ["jwks", "certificates", "public keys"])
async def test_keys_in_a_file(form: str, open_with: Callable[..., Any], tmp_path: Path) -> None:
    rsa, ec = RSAKey.generate_key(2048, auto_kid=True), ECKey.generate_key("P-256", auto_kid=True)
    file = tmp_path / "keys"
    if form == "jwks":
        file.write_text(json.dumps(KeySet([rsa, ec]).as_dict(private=False)))
    elif form == "certificates":
        file.write_bytes(certificate_of(rsa) + certificate_of(ec))
    else:
        file.write_bytes(rsa.as_pem(private=False) + ec.as_pem(private=False))
    client = await open_with(str(file))
    kid = "" if form == "jwks" else "AB:CD"  # docker's own servers name keys in a way of theirs
    for token in (token_of(rsa, kid=kid), token_of(ec, "ES256", kid=kid), token_of(ec, "ES256", kid=None)):
        assert (await client("GET", "/v2/", Authorization=f"Bearer {token}")).status == 200
    stranger = token_of(RSAKey.generate_key(2048, auto_kid=True), kid=kid)
    assert (await client("GET", "/v2/", Authorization=f"Bearer {stranger}")).status == 401


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "No such file"), ('{"keys": []}', "no keys are in it"), ("{", "no keys can be read")],
)
async def test_a_file_without_keys_is_found_at_the_start(
    open_with: Callable[..., Any], tmp_path: Path, text: str | None, message: str
) -> None:
    file = tmp_path / "keys"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SettingsInvalid, match=f"{file}: {message}"):
        await open_with(str(file))


async def test_what_everybody_may_read_stays_open(issuer: FakeIssuer, open_with: Callable[..., Any]) -> None:
    rules = [Rule(repositories=["open/**"], anonymous=True, actions=["pull"])]
    client = await open_with(f"{issuer.url}/keys", rules=rules)
    assert (await client("GET", "/v2/open/app/tags/list")).codes == ["NAME_UNKNOWN"]
    assert (await client("GET", "/v2/")).status == 401  # or docker would not log in


async def test_a_server_that_is_away_is_named(issuer: FakeIssuer, open_with: Callable[..., Any]) -> None:
    client = await open_with(f"{issuer.url}/keys")
    await issuer.stop()
    answer = await client("GET", "/v2/", Authorization=f"Bearer {token_of(issuer.keys[0])}")
    assert (answer.status, answer.codes) == (503, ["UNSUPPORTED"])


async def test_half_of_the_settings_are_refused(serve: Callable[..., Any], settings: Settings) -> None:
    with pytest.raises(SettingsInvalid, match="needs realm, issuer and keys"):
        await serve(settings, auth=Auth(token=Token(issuer="auth.example")))
