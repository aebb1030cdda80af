"""Errors of registries, in docker's words."""

import time
from email.utils import formatdate

import pytest

from scow.errors import Forbidden, InvalidArgument, NotFound, ScowError, Unauthorized, Unavailable
from scow.transfer.challenge import parse_challenges
from scow.transfer.registry_error import refusal

JSON = {"Content-Type": "application/json"}


def document(code: str, message: str = "", detail: str = "null") -> bytes:
    return f'{{"errors":[{{"code":"{code}","message":"{message}","detail":{detail}}}]}}'.encode()


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (404, document("MANIFEST_UNKNOWN", "manifest unknown"), NotFound, "manifest unknown: manifest unknown"),
        (404, document("NAME_UNKNOWN"), NotFound, "name unknown: repository name not known to registry"),
        (
            401,
            document("UNAUTHORIZED", "authentication required"),
            Unauthorized,
            "unauthorized: authentication required",
        ),
        (401, b"", Unauthorized, "unauthorized: authentication required"),
        (403, document("DENIED", "no way", "{}"), Forbidden, "denied: no way"),
        (403, b"<html>", Forbidden, "denied: requested access to the resource is denied"),
        (429, document("TOOMANYREQUESTS", "slow down"), Unavailable, "toomanyrequests: slow down"),
        (429, b'{"details":"pull limit"}', Unavailable, "toomanyrequests: pull limit"),
        (400, document("STRANGE", "odd"), InvalidArgument, "unknown: odd"),
        (
            400,
            b"<html>oops",
            InvalidArgument,
            "error parsing HTTP 400 response body: not an error document: '<html>oops'",
        ),
        (404, b"{}", NotFound, "error parsing HTTP 404 response body: no error details found in HTTP response body"),
        (500, document("UNKNOWN"), Unavailable, "received unexpected HTTP status: 500 Internal Server Error"),
        (302, b"", Unavailable, "received unexpected HTTP status: 302 Found"),
    ],
)
def test_an_answer_becomes_an_error_of_its_kind(status: int, body: bytes, kind: type[ScowError], text: str) -> None:
    error = refusal(status, JSON, body, [])
    assert isinstance(error, kind)
    assert str(error) == text


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("insufficient_scope", "denied: requested access to the resource is denied"),
        ("invalid_token", "unauthorized: authentication required"),
    ],
)
def test_the_reason_in_a_bearer_challenge_weighs_more_than_the_body(reason: str, text: str) -> None:
    challenges = parse_challenges([f'Bearer realm="x",error="{reason}"'])
    assert str(refusal(401, JSON, document("UNKNOWN", "other"), challenges)) == text


@pytest.mark.parametrize(
    ("status", "code", "headers", "transient"),
    [
        (500, "UNKNOWN", {}, True),
        (503, "UNAVAILABLE", {}, True),
        (429, "TOOMANYREQUESTS", {}, False),
        (429, "TOOMANYREQUESTS", {"Retry-After": "1"}, True),
        (404, "MANIFEST_UNKNOWN", {}, False),
        (403, "DENIED", {}, False),
    ],
)
def test_only_what_may_pass_is_tried_again(status: int, code: str, headers: dict[str, str], transient: bool) -> None:
    assert refusal(status, {**JSON, **headers}, document(code), []).transient is transient


def test_retry_after_is_a_number_of_seconds_or_a_date() -> None:
    assert refusal(429, {"Retry-After": "7"}, b"", []).retry_after_s == 7
    dated = refusal(429, {"Retry-After": formatdate(time.time() + 30, usegmt=True)}, b"", []).retry_after_s
    assert dated is not None
    assert 25 < dated <= 30
    assert refusal(429, {"Retry-After": "soon"}, b"", []).retry_after_s is None
