"""What the log says of requests."""

import pytest

from scow.api.app import loggable


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/v1.50/build?t=a&buildargs=%7B%22P%22%3A%22pw%22%7D&q=1", "/v1.50/build?t=a&buildargs=...&q=1"),
        ("/build?remote=https://me:pw@host/x.git", "/build?remote=..."),
        ("/build?remote=", "/build?remote="),
        ("/images/create?fromSrc=http://me:pw@host/x.tar&repo=a", "/images/create?fromSrc=...&repo=a"),
        ("/containers/json?all=1", "/containers/json?all=1"),
    ],
)
def test_what_may_hold_passwords_is_not_logged(path: str, shown: str) -> None:
    assert loggable(path) == shown
