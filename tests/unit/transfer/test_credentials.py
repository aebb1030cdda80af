"""Credentials as clients send them."""

import base64
import json

import pytest

from scow.transfer.credentials import Credentials, decode_registry_auth


def encode(value: object, *, urlsafe: bool = True, padded: bool = True) -> str:
    data = json.dumps(value).encode()
    text = (base64.urlsafe_b64encode if urlsafe else base64.b64encode)(data).decode()
    return text if padded else text.rstrip("=")


@pytest.mark.parametrize("urlsafe", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_user_and_password_are_read_from_any_base64(urlsafe: bool, padded: bool) -> None:
    header = encode({"username": "ann", "password": "pä>?ss", "serveraddress": "x"}, urlsafe=urlsafe, padded=padded)
    assert decode_registry_auth(header) == Credentials(username="ann", password="pä>?ss", server_address="x")


@pytest.mark.parametrize("header", [None, "", "e30=", "%%%", "bm8ganNvbg==", encode([]), encode({"username": 1})])
def test_what_holds_no_credentials_is_ignored(header: str | None) -> None:
    assert decode_registry_auth(header) is None


def test_the_auth_field_of_a_config_file_is_taken_apart() -> None:
    header = encode({"auth": base64.b64encode(b"ann:se:cret").decode()})
    assert decode_registry_auth(header) == Credentials(username="ann", password="se:cret")


def test_an_identity_token_may_hide_behind_the_user_token() -> None:
    header = encode({"username": "<token>", "password": "refresh"})
    assert decode_registry_auth(header) == Credentials(identity_token="refresh")


def test_secrets_are_not_shown() -> None:
    shown = repr(Credentials(username="ann", password="secret", identity_token="token"))
    assert "secret" not in shown
    assert "token" not in shown
