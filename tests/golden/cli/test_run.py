"""The order of requests, which engines depend on, and what they carry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

HELLO = "4bd78111b6914a99dbc560e6a20eab57ff6655aea4a80c50b0c5491968cbc2e6"


def test_run_attaches_and_watches_before_it_starts(fake: Any, client: Callable[..., Any]) -> None:
    done = client("run", "--rm", "-i", "hello-world", stdin="typed")
    assert (done.returncode, done.stdout) == (3, "Hello from Scow!\n")
    assert done.stderr.endswith("a word on stderr\n")
    assert bytes(fake.stdin) == b"typed"
    base = f"/v1.50/containers/{HELLO}"
    assert fake.calls() == [
        "HEAD /_ping",
        "POST /v1.50/containers/create",
        "POST /v1.50/images/create",
        "POST /v1.50/containers/create",
        f"POST {base}/attach",
        f"POST {base}/wait",
        f"POST {base}/start",
    ]
    targets = [target for _, target, _ in fake.requests]
    assert targets[2] == "/v1.50/images/create?fromImage=docker.io%2Flibrary%2Fhello-world&tag=latest"
    assert fake.headers[2]["X-Registry-Auth"] == "e30="
    assert targets[4].endswith("attach?stderr=1&stdin=1&stdout=1&stream=1")
    assert targets[5].endswith("wait?condition=removed")
    assert fake.requests[1][2] == fake.requests[3][2]


@pytest.mark.parametrize(("offered", "used"), [("1.41", "v1.41"), ("1.60", "v1.50"), (None, "v1.24")])
def test_the_version_is_negotiated(fake: Any, client: Callable[..., Any], offered: str | None, used: str) -> None:
    fake.api_version = offered
    assert client("ps").returncode == 0
    assert fake.calls() == ["HEAD /_ping", f"GET /{used}/containers/json"]


def test_a_given_version_is_not_negotiated(fake: Any, client: Callable[..., Any]) -> None:
    assert client("ps", DOCKER_API_VERSION="1.43").returncode == 0
    assert fake.calls() == ["GET /v1.43/containers/json"]


def test_detached_it_prints_the_id_and_asks_for_no_stream(fake: Any, client: Callable[..., Any]) -> None:
    done = client("run", "-d", "--name", "box", "hello-world")
    assert done.stdout == f"{HELLO}\n"
    assert [call.rpartition("/")[2] for call in fake.calls()] == ["_ping", "create", "create", "create", "start"]
    assert fake.requests[1][1] == "/v1.50/containers/create?name=box"
    assert fake.requests[1][2]["AttachStdout"] is False


def test_never_pulls_nothing(fake: Any, client: Callable[..., Any]) -> None:
    done = client("run", "--pull", "never", "hello-world")
    assert done.returncode == 125
    assert done.stderr.startswith(
        "scow: Error response from daemon: No such image: hello-world:latest\n\nRun 'scow run"
    )
    assert len(fake.calls()) == 2


def test_filters_go_as_a_map_of_maps(fake: Any, client: Callable[..., Any]) -> None:
    client("ps", "-a", "-f", "status=exited", "-f", "label=a=b")
    assert fake.requests[-1][1] == (
        "/v1.50/containers/json?all=1&filters="
        "%7B%22label%22%3A%7B%22a%3Db%22%3Atrue%7D%2C%22status%22%3A%7B%22exited%22%3Atrue%7D%7D"
    )
