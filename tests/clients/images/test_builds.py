"""Builds by the real clients, and ours."""

import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import docker
import docker.errors
import pytest

from support.daemon import Daemon

DOCKERFILE = """
FROM busybox
ARG WHO=world
COPY . /all
RUN echo hello $WHO > /hello && find /all | sort
CMD ["cat", "/hello"]
"""


@pytest.fixture
def project(engine: Daemon, tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/file").write_text("x")
    (tmp_path / "left.out").write_text("x")
    (tmp_path / ".dockerignore").write_text("*.out\n")
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    return tmp_path


def docker_build(engine: Daemon, *args: str) -> "subprocess.CompletedProcess[str]":
    """The real client's classic builder."""
    environment = {**engine.environment(), "DOCKER_BUILDKIT": "0"}
    return subprocess.run(
        ["docker", "build", *args], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_docker_build(engine: Daemon, project: Path, tmp_path: Path) -> None:
    iidfile = tmp_path / "id.out"
    done = docker_build(
        engine, "-t", "one:x", "-t", "two", "--iidfile", str(iidfile), "--build-arg", "WHO=you", str(project)
    )
    assert done.returncode == 0, done.stderr
    assert "Step 5/5 : CMD" in done.stdout
    assert "/all/sub/file\n" in done.stdout
    assert "left.out" not in done.stdout
    assert iidfile.read_text() == engine.json("GET", "/images/one:x/json")["Id"]
    assert engine.docker("run", "--rm", "two").stdout == "hello you\n"
    quiet = docker_build(engine, "-q", "--build-arg", "WHO=you", str(project))
    assert quiet.stdout.strip() == iidfile.read_text()
    engine.docker("rmi", "one:x", "two")


def test_docker_exits_with_the_command_code(engine: Daemon, project: Path) -> None:
    (project / "Dockerfile").write_text("FROM busybox\nRUN exit 42\n")
    done = docker_build(engine, str(project))
    assert done.returncode == 42
    assert "The command '/bin/sh -c exit 42' returned a non-zero code: 42" in done.stderr


def test_docker_squashes_if_the_engine_is_experimental(
    engine: Daemon, make_engine: Callable[..., Daemon], tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /a\nCOPY Dockerfile /b\n")
    assert "experimental" in docker_build(engine, "--squash", str(tmp_path)).stderr
    other = make_engine("--experimental")
    done = docker_build(other, "--squash", "-t", "squashed", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert len(other.json("GET", "/images/squashed/json")["RootFS"]["Layers"]) == 1
    assert (other.json("GET", "/info")["ExperimentalBuild"], other.json("GET", "/version")["Experimental"]) == (
        True,
        True,
    )


def test_docker_py(engine: Daemon, docker_py: docker.DockerClient, project: Path) -> None:
    image, lines = docker_py.images.build(path=str(project), tag="py", labels={"a": "b"}, rm=True)
    assert (image.tags, image.labels) == (["py:latest"], {"a": "b"})
    assert any("Successfully built" in line.get("stream", "") for line in lines)
    with pytest.raises(docker.errors.BuildError, match="returned a non-zero code: 7"):
        docker_py.images.build(fileobj=io.BytesIO(b"FROM busybox\nRUN exit 7\n"))
    with pytest.raises(docker.errors.APIError, match="unknown instruction"):
        docker_py.images.build(fileobj=io.BytesIO(b"FROM busybox\nNOPE\n"))
    engine.docker("rmi", "py")


def test_scow_build_puts_the_image_where_it_is_wanted(engine: Daemon, project: Path, tmp_path: Path) -> None:
    out, metadata = tmp_path / "out", tmp_path / "metadata"
    secret = tmp_path / "left.out"
    with (project / "Dockerfile").open("a") as file:
        file.write("RUN --mount=type=secret,id=s cp /run/secrets/s /copied\n")
    done = engine.scow(
        *("build", "-t", "local", "--secret", f"id=s,src={secret}", "--metadata-file", str(metadata)),
        *("-o", f"type=local,dest={out}", "-o", f"type=oci,dest={tmp_path}/oci.out", str(project)),
    )
    assert "Successfully tagged local:latest" in done.stdout
    assert (out / "hello").read_text() == "hello world\n"
    assert (out / "copied").read_text() == "x"
    assert json.loads(metadata.read_text())["containerimage.config.digest"].startswith("sha256:")
    engine.docker("rmi", "local")
    assert "local:latest" in engine.scow("load", "-i", f"{tmp_path}/oci.out").stdout
    engine.docker("rmi", "local")


def test_scow_build_from_stdin_and_from_elsewhere(engine: Daemon, project: Path, tmp_path: Path) -> None:
    id = engine.scow("build", "-q", "-", input=b"FROM busybox\nLABEL from=stdin\n").stdout.strip()
    assert engine.json("GET", f"/images/{id}/json")["Config"]["Labels"] == {"from": "stdin"}
    elsewhere = tmp_path / "other.out"
    elsewhere.write_text("FROM busybox\nCOPY . /all\nRUN ls -A /all\n")
    said = engine.scow("build", "-f", str(elsewhere), str(project / "sub")).stdout
    assert "\nfile\n" in said
    assert ".dockerfile." not in said


def test_scow_exits_with_the_command_code(engine: Daemon) -> None:
    done = engine.scow("build", "-", input=b"FROM busybox\nRUN exit 9\n", check=False)
    assert (done.returncode, "returned a non-zero code: 9" in done.stderr) == (9, True)


@pytest.mark.parametrize("client", ["docker", "scow"])
def test_the_cache_is_pruned(engine: Daemon, client: str) -> None:
    engine.scow("build", "-q", "-", input=f"FROM busybox\nRUN echo {client} > /pruned\n".encode())
    done = getattr(engine, client)("builder", "prune", "-af")
    assert "Total reclaimed space" in done.stdout
    assert engine.json("GET", "/system/df?type=build-cache")["BuildCache"] == []
