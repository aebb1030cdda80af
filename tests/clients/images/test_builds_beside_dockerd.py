"""The same Dockerfiles built by dockerd's classic builder and by ours: config, tree and lines are equal."""

import io
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import builds
from support import dockerd as docker_daemon
from support.daemon import Daemon, Registry, Socket, folder
from support.dockerd import Dockerd

DOCKERFILE = """
ARG BASE=busybox
FROM $BASE AS one
MAINTAINER me@example.org
ARG WHO=world
ENV A=1 B="two words"
LABEL l1=v1 "l 2"="v 2"
RUN echo hi $WHO > /f; mkdir /new; rm /data/seed; chmod 4755 /bin/cat; ln -s f /fl; ln /f /hard
RUN ["/bin/echo", "exec form"]
COPY a.txt sub /dst/
COPY a.txt /data/sub2/renamed
COPY --chown=1000:2000 sub /owned
COPY link /lnk
COPY *.txt /wild/
ADD arch.tar /arch/
WORKDIR /w/x
WORKDIR y
COPY . .
EXPOSE 80 53/udp
USER app
HEALTHCHECK --interval=5s CMD true
STOPSIGNAL SIGINT
ENTRYPOINT ["/bin/sh"]
CMD echo x
FROM one
RUN cat /f
COPY --from=one /f /owned /z/
"""
VERSION = (
    subprocess.run([docker_daemon.PROGRAM, "--version"], capture_output=True, text=True, check=False).stdout
    if docker_daemon.PROGRAM
    else ""
)
MADE_BY_THE_RUNTIME = re.compile(r"(?:dev|proc|sys|etc|\.dockerenv)(?:/.*)?")


@pytest.fixture(scope="module")
def dockerd(registry: Registry) -> Iterator[Dockerd]:
    if not VERSION.startswith("Docker version 20.10"):
        pytest.skip("there is no dockerd 20.10 to compare with")
    with folder() as path, docker_daemon.running(path, f"http://{registry.address}") as daemon:
        yield daemon


def built(daemon: Any, context: Path) -> tuple[list[str], dict[str, Any], dict[str, tuple[Any, ...]]]:
    """The lines, the config and the files (kind, mode, owner, size, link's target) of the image."""
    environment = {**os.environ, "DOCKER_HOST": daemon.host, "DOCKER_BUILDKIT": "0", "DOCKER_CONFIG": "/nonexistent"}
    done = subprocess.run(
        ["docker", "build", "--no-cache", "-t", "beside", str(context)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    config = daemon.json("GET", "/images/beside/json")["Config"]
    made = daemon.json("POST", "/containers/create", {"Image": "beside"})["Id"]
    exported = subprocess.run(["docker", "export", made], env=environment, capture_output=True, check=True).stdout
    daemon.request("DELETE", f"/containers/{made}")
    with tarfile.open(fileobj=io.BytesIO(exported)) as archive:
        files = {
            entry.name: (entry.type, entry.mode & 0o7777, entry.uid, entry.gid, entry.size, entry.linkname)
            for entry in archive
            if not MADE_BY_THE_RUNTIME.fullmatch(entry.name)
        }
    lines = [re.sub(r"\b[0-9a-f]{12}\b", "ID", line) for line in done.stdout.splitlines()]
    pull = ("Sending", "latest:", "ID: ", "Digest:", "Status:", "[Warning]")
    return [line for line in lines if not line.startswith(pull)], config, files


def test_image_and_lines_are_those_of_docker(engine: Daemon, dockerd: Dockerd, tmp_path: Path) -> None:
    (tmp_path / "sub/deep").mkdir(parents=True)
    (tmp_path / "sub/deep").chmod(0o700)
    (tmp_path / "a.txt").write_text("A")
    (tmp_path / "a.txt").chmod(0o640)
    (tmp_path / "sub/b").write_text("B")
    (tmp_path / "link").symlink_to("a.txt")
    with tarfile.open(tmp_path / "arch.tar", "w") as archive:
        archive.add(tmp_path / "sub", "inside")
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    dockerd.docker("pull", "-q", "busybox")
    theirs, ours = built(dockerd, tmp_path), built(engine, tmp_path)
    engine.docker("rmi", "beside")
    assert ours[0] == theirs[0]
    for name in (
        "Env",
        "Cmd",
        "Entrypoint",
        "WorkingDir",
        "User",
        "Labels",
        "ExposedPorts",
        "StopSignal",
        "Healthcheck",
    ):
        assert json.dumps(ours[1].get(name)) == json.dumps(theirs[1].get(name)), name
    assert ours[2] == theirs[2]


def told(daemon: Socket, dockerfile: str, **query: Any) -> tuple[int, list[dict[str, Any]]]:
    """The messages of a build but those of pulls and of checks that docker hasn't; output in one piece, IDs hidden."""
    status, data = builds.post(daemon, builds.context({"Dockerfile": dockerfile}), **query)
    messages: list[dict[str, Any]] = []
    for line in data.splitlines():
        message = json.loads(re.sub(rb"\b(?:[0-9a-f]{64}|[0-9a-f]{12})\b", b"ID", line))
        text = message.get("stream", "")
        if "status" in message or text.startswith("[Warning] "):
            continue
        if "error" in message:  # ours go on with a suggestion, and with the place in the Dockerfile
            message["error"] = re.split(r" \(did you mean|\n", message["error"])[0]
            message["errorDetail"]["message"] = message["error"]
        if text == "\n" or text == "s":
            messages[-1]["stream"] += text
        else:
            messages.append(message)
    return status, messages


@pytest.mark.parametrize(
    ("dockerfile", "query"),
    [
        ("FROM busybox AS one\nRUN echo 1 > /1\nFROM one AS two\nENV A=1\nFROM two\nCOPY --from=one /1 /2", {}),
        ("FROM busybox\nRUN echo out\nRUN exit 3", {"nocache": 1}),
        ("FROM busybox\nRUN exit 3", {"nocache": 1, "forcerm": 1}),
        ("FROM busybox\nRUN echo seen && exit 3", {"nocache": 1, "q": 1}),
        ("FROM busybox\nRUN echo unseen", {"nocache": 1, "q": 1}),
        ("FROM busybox\nRUN echo kept", {"nocache": 1, "rm": 0}),
        ("FROM busybox\nENV A=1", {"labels": '{"b": "2", "a": "x y"}', "nocache": 1, "t": ["said:1", "said:2"]}),
        ("FROM busybox\nONBUILD RUN echo 1\nONBUILD ENV A=1", {"t": "said:on", "nocache": 1}),
        ("FROM said:on\nENV B=1", {"nocache": 1}),
        ("FROM busybox AS one\nENV A=1\nFROM one AS two\nENV A=2", {"target": "one", "nocache": 1}),
        ("FROM busybox\nCOPY none /", {}),
        ("FROM busybox\nCOPY --from=busybox /none /", {}),
        ("", {}),
    ],
)
def test_messages_are_those_of_docker(engine: Daemon, dockerd: Dockerd, dockerfile: str, query: dict[str, Any]) -> None:
    for daemon in (dockerd, engine):
        daemon.docker("pull", "-q", "busybox")
        if "said:on" in dockerfile:
            told(daemon, "FROM busybox\nONBUILD RUN echo 1\nONBUILD ENV A=1", t="said:on")
    assert told(engine, dockerfile, **query) == told(dockerd, dockerfile, **query)
    for name in ("said:1", "said:2", "said:on"):
        engine.docker("rmi", "-f", name, check=False)


def test_our_client_builds_with_docker(dockerd: Dockerd, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo out > /f\n")
    environment = {"DOCKER_HOST": dockerd.host, "PATH": os.environ["PATH"], "HOME": str(tmp_path)}

    def scow(*args: str) -> "subprocess.CompletedProcess[str]":
        program = Path(sys.executable).with_name("scow")
        return subprocess.run(
            [program, *args], env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    done = scow("build", "--progress", "rawjson", "-o", f"type=local,dest={tmp_path}/out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    names = [vertex["name"] for line in done.stdout.splitlines() for vertex in json.loads(line).get("vertexes", ())]
    assert names[-1] == "[2/2] RUN echo out > /f"
    assert (tmp_path / "out/f").read_text() == "out\n"
    refused = scow("build", "--sbom=true", str(tmp_path))
    assert "the engine has built a plain image" in refused.stderr
    assert refused.returncode != 0
