"""Builds that are cut off: by their client, or by the end of the engine."""

import concurrent.futures
import http.client
import socket
from pathlib import Path

import pytest

from support.builds import build, context, image_of
from support.calls import eventually
from support.daemon import Daemon

DOCKERFILE = "FROM busybox\nRUN echo begun; sleep 1000\n"


def begin(engine: Daemon) -> socket.socket:
    """Send a build whose command doesn't end, and wait until it runs."""
    body = context({"Dockerfile": DOCKERFILE})
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(60)
    client.connect(str(engine.socket))
    head = (
        "POST /v1.41/build?buildid=b1 HTTP/1.1",
        "Host: x",
        "Content-Type: application/x-tar",
        f"Content-Length: {len(body)}",
    )
    client.sendall("\r\n".join([*head, "", ""]).encode() + body)
    said = b""
    while b"begun\\n" not in said:
        data = client.recv(1 << 16)
        assert data, said
        said += data
    return client


def left(engine: Daemon) -> list[str]:
    """What a build has on disk."""
    data, run = engine.folder / "data", engine.folder / "exec"
    places = (data / "snapshots", data / "build/work", run / "containers", run / "rootfs", run / "build")
    return [str(entry) for place in places if place.exists() for entry in place.iterdir()]


def wait_until_nothing_is_left(engine: Daemon) -> None:
    """The engine answers nobody when a build that was cut off is cleared; only its traces tell."""
    eventually(lambda: not left(engine))


@pytest.mark.parametrize("how", ["hang up", "cancel"])
def test_a_build_that_is_given_up_ends_at_once(own_engine: Daemon, how: str) -> None:
    client = begin(own_engine)
    assert left(own_engine)
    if how == "hang up":
        client.close()
    else:
        assert own_engine.request("POST", "/build/cancel?id=b1")[0] == 204
        while client.recv(1 << 16):
            pass
        client.close()
    wait_until_nothing_is_left(own_engine)
    assert own_engine.json("GET", "/containers/json?all=1") == []
    assert len(own_engine.json("GET", "/images/json?all=1")) == 1


def test_after_a_killed_engine_nothing_of_its_builds_is_left(own_engine: Daemon) -> None:
    client = begin(own_engine)
    own_engine.kill()
    client.close()
    assert left(own_engine)
    own_engine.start()
    assert left(own_engine) == []
    assert own_engine.json("GET", "/containers/json?all=1") == []


@pytest.mark.parametrize("point", ["build.prepared", "build.ran", "start.created"])
def test_killed_between_the_steps_of_a_run(own_engine: Daemon, point: str) -> None:
    own_engine.at(point, "kill")
    with pytest.raises((OSError, http.client.HTTPException)):
        build(own_engine, "FROM busybox\nRUN echo 1 > /one\n")
    own_engine.wait_killed()
    own_engine.start()
    assert left(own_engine) == []
    image_of(build(own_engine, "FROM busybox\nRUN echo 1 > /one\n"))


def test_killed_before_its_image_is_there(own_engine: Daemon) -> None:
    def kept() -> list[Path]:
        return sorted((own_engine.folder / "data/blobs").rglob("*"))

    before = kept()
    own_engine.at("build.packed", "kill")
    with pytest.raises((OSError, http.client.HTTPException)):
        build(own_engine, "FROM scratch\nCOPY file /\n", {"file": b"x"}, t="cut", attest=["type=sbom"])
    own_engine.wait_killed()
    assert len(kept()) > len(before)
    own_engine.start()
    assert own_engine.request("GET", "/images/cut/json")[0] == 404
    files = [path for path in before if path.is_file()]
    assert own_engine.request("POST", "/build/prune?all=1")[0] == 200  # steps that were done may be used again
    eventually(lambda: [path for path in kept() if path.is_file()] == files)  # the rest goes soon after the start


@pytest.mark.parametrize(
    ("point", "dockerfile"),
    [
        ("build.prepared", "FROM busybox\nRUN true > /x\nCOPY --from=busybox /bin/sh /again\n"),
        ("build.published", "FROM busybox\n"),
        ("build.published", "FROM busybox\nRUN true > /x\n"),
    ],
)
def test_what_a_build_uses_and_makes_may_be_removed_meanwhile(own_engine: Daemon, point: str, dockerfile: str) -> None:
    own_engine.at(point, "hold")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        building = pool.submit(build, own_engine, dockerfile, t="kept")
        own_engine.wait_held()
        for image in own_engine.json("GET", "/images/json?all=1"):
            assert own_engine.request("DELETE", f"/images/{image['Id']}?force=1")[0] == 200
        own_engine.go_on()
        made = image_of(building.result())
    assert own_engine.json("GET", "/images/kept/json")["Id"] == made
    assert own_engine.docker("run", "--rm", "kept", "echo", "it runs").stdout == "it runs\n"
