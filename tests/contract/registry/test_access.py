"""HTTP Basic with users of the registry and of an htpasswd file."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scow.errors import InvalidArgument
from scow.registry.access import HtpasswdInvalid, hash_password, read_htpasswd
from scow.registry.settings import Auth, Settings

from .conftest import Client, Running


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


async def test_with_the_first_user_everything_needs_a_password(client: Client, running: Running) -> None:
    await running.registry.metadata.put_user("ann", hash_password("secret"))
    client.url = running.url
    for method, path in (("GET", "/v2/"), ("POST", "/v2/a/blobs/uploads/"), ("GET", "/v2/a/tags/list")):
        answer = await client(method, path)
        assert (answer.status, answer.codes) == (401, ["UNAUTHORIZED"])
        assert answer.headers.getall("WWW-Authenticate") == ['Basic realm="scow registry"']
    assert (await client("GET", "/v2/", Authorization=basic("ann", "secret"))).status == 200
    assert (await client("GET", "/v2/", Authorization=basic("ann", "secret"))).status == 200


@pytest.mark.parametrize(
    "header",
    [
        basic("ann", "wrong"),
        basic("bob", "secret"),
        basic("", ""),
        "Basic",
        "Basic !!!",
        "Bearer x",
        "x" * 7000,
        basic("ann", "x" * 200),
        "Basic " + base64.b64encode(b"ann").decode(),
        "Basic /////w==",
    ],
)
async def test_wrong_credentials_are_refused(client: Client, running: Running, header: str) -> None:
    await running.registry.metadata.put_user("ann", hash_password("secret"))
    answer = await client("GET", "/v2/", Authorization=header)
    assert (answer.status, answer.codes) == (401, ["UNAUTHORIZED"])


async def test_reading_can_be_open_while_writing_is_not(
    serve: Callable[..., Any], settings: Settings, client: Client
) -> None:
    running = await serve(settings, auth=Auth(anonymous_pull=True))
    await running.registry.metadata.put_user("ann", hash_password("secret"))
    client.url = running.url
    assert (await client("GET", "/v2/")).status == 200
    assert (await client("POST", "/v2/a/blobs/uploads/")).status == 401


async def test_users_of_an_htpasswd_file_and_its_change(
    serve: Callable[..., Any], settings: Settings, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scow.registry.access.USERS_FRESH_S", 0)
    path = tmp_path / "htpasswd"
    path.write_text(f"# users\n\nbob:{hash_password('one').replace('$2b$', '$2y$')}\n")
    client.url = (await serve(settings, auth=Auth(htpasswd=str(path)))).url
    assert (await client("GET", "/v2/")).status == 401
    assert (await client("GET", "/v2/", Authorization=basic("bob", "one"))).status == 200
    path.write_text(f"bob:{hash_password('other')}\neve:{hash_password('three')}\n")
    assert (await client("GET", "/v2/", Authorization=basic("bob", "one"))).status == 401
    assert (await client("GET", "/v2/", Authorization=basic("bob", "other"))).status == 200


@pytest.mark.parametrize("line", ["nocolon", ":x", "ann:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="])
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "htpasswd"
    path.write_text(f"# first\n{line}\n")
    with pytest.raises(HtpasswdInvalid, match=r"htpasswd:2: "):
        read_htpasswd(path)


@pytest.mark.parametrize("password", ["", "x" * 73])
def test_a_password_that_bcrypt_would_cut_is_refused(password: str) -> None:
    with pytest.raises(InvalidArgument, match="1 to 72 bytes"):
        hash_password(password)
