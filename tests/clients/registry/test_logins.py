"""docker, skopeo, podman and curl log in at the token server and use what they may."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Process
from .test_clients import copy, make_layout, need, run
from .test_docker import Docker, docker  # noqa: F401  # a fixture

CONFIG = """
[auth.token]
[auth.groups]
dev = ["ann"]
[[auth.rules]]
repositories = ["team/**"]
groups = ["dev"]
actions = ["*"]
[[auth.rules]]
repositories = ["team/open"]
anonymous = true
actions = ["pull"]
[[auth.rules]]
repositories = ["team/app"]
robots = ["ci"]
actions = ["pull"]
"""


def manage(storage: Path, *words: str, text: str = "") -> str:
    command = [sys.executable, "-m", "scow.registry", *words, "--storage", str(storage)]
    return subprocess.run(command, input=text, text=True, check=True, capture_output=True, timeout=30).stdout


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Process]:
    storage = tmp_path / "registry"
    config = tmp_path / "registry.toml"
    config.write_text(CONFIG)
    manage(storage, "user", "add", "ann", "--password-stdin", text="secret\n")
    manage(storage, "user", "add", "bob", "--password-stdin", text="secret\n")
    process = Process(storage, "--config", str(config))
    process.start()
    yield process
    assert process.stop() == 0


@pytest.fixture
def layout(tmp_path: Path) -> str:
    return f"oci:{make_layout(tmp_path / 'layout')}:latest"


def test_skopeo_pushes_pulls_and_is_refused(guarded: Process, layout: str, tmp_path: Path) -> None:
    need("skopeo")
    image, opened = (f"docker://{guarded.host}/team/{name}:v1" for name in ("app", "open"))
    copy(layout, image, "--dest-creds", "ann:secret")
    copy(image, opened, "--src-creds", "ann:secret", "--dest-creds", "ann:secret")
    copy(opened, f"dir:{tmp_path / 'anonymous'}")
    assert copy(image, f"dir:{tmp_path / 'x'}", check=False).returncode != 0
    assert copy(layout, image, "--dest-creds", "bob:secret", check=False).returncode != 0
    assert copy(layout, image, "--dest-creds", "ann:wrong", check=False).returncode != 0
    name, secret = manage(guarded.root, "robot", "add", "ci").split()
    copy(image, f"dir:{tmp_path / 'robot'}", "--src-creds", f"{name}:{secret}")
    assert copy(layout, image, "--dest-creds", f"{name}:{secret}", check=False).returncode != 0
    run("skopeo", "delete", "--tls-verify=false", "--creds", "ann:secret", opened)
    assert "unauthorized" not in run("skopeo", "inspect", "--tls-verify=false", opened, check=False).stderr


def test_skopeo_logs_in_and_out(guarded: Process, layout: str, tmp_path: Path) -> None:
    need("skopeo")
    kept = f"--authfile={tmp_path / 'auth.json'}"
    login = ["skopeo", "login", "--tls-verify=false", kept, "--username", "ann", "--password"]
    assert "Login Succeeded" in run(*login, "secret", guarded.host).stdout
    assert run(*login, "wrong", guarded.host, check=False).returncode != 0
    copy(layout, f"docker://{guarded.host}/team/app:v1", kept)
    run("skopeo", "logout", kept, guarded.host)


def test_podman_logs_in(guarded: Process, tmp_path: Path) -> None:
    need("podman")
    kept = f"--authfile={tmp_path / 'auth.json'}"
    login = ["podman", "login", "--tls-verify=false", kept, "--username", "ann", "--password-stdin", guarded.host]
    done = subprocess.run(login, input="secret", text=True, capture_output=True, timeout=60, check=False)
    assert "Login Succeeded" in done.stdout, done.stderr
    done = subprocess.run(login, input="wrong", text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode != 0


def test_podman_finds_what_who_has_logged_in_may_see(guarded: Process, layout: str, tmp_path: Path) -> None:
    need("podman")
    need("skopeo")
    kept = f"--authfile={tmp_path / 'auth.json'}"
    copy(layout, f"docker://{guarded.host}/team/app:v1", "--dest-creds", "ann:secret")
    search = ["podman", "search", "--tls-verify=false", kept, "--format", "{{.Name}}", f"{guarded.host}/"]
    run("podman", "login", "--tls-verify=false", kept, "--username", "ann", "--password", "secret", guarded.host)
    assert run(*search).stdout.split() == [f"{guarded.host}/team/app"]


def test_curl_takes_a_token(guarded: Process) -> None:
    need("curl")
    url = f"http://{guarded.host}"
    answer = run("curl", "-sf", "-u", "ann:secret", f"{url}/token?service=scow-registry&scope=repository:team/x:push")
    token = json.loads(answer.stdout)["token"]
    posted = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", "POST"]
    upload = f"{url}/v2/team/x/blobs/uploads/"
    assert run(*posted, "-H", f"Authorization: Bearer {token}", upload).stdout == "202"
    assert run(*posted, "-u", "ann:secret", upload).stdout == "202"
    assert run(*posted, upload).stdout == "401"


def test_docker_logs_in_pushes_and_pulls(guarded: Process, docker: Docker, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "data").write_bytes(bytes(range(256)) * 1000)
    tar = subprocess.run(["tar", "-C", tmp_path, "-c", "data"], check=True, capture_output=True).stdout
    app, opened = f"{guarded.host}/team/app:v1", f"{guarded.host}/team/open:v1"
    config = ["--config", str(tmp_path / "config")]
    docker("import", "-", app, data=tar)
    assert "denied" in docker("push", app, check=False) or "unauthorized" in docker("push", app, check=False)
    login = [*config, "login", "-u", "ann", "--password-stdin", guarded.host]
    assert "unauthorized" in docker(*login, data=b"wrong", check=False)
    assert "Login Succeeded" in docker(*login, data=b"secret")
    auths = json.loads((tmp_path / "config" / "config.json").read_text())["auths"]
    assert guarded.host in auths
    assert ": Pushed" in docker(*config, "push", app)
    docker("tag", app, opened)
    assert ": Mounted from team/app" in docker(*config, "push", opened)
    docker("rmi", app, opened)
    assert f"Downloaded newer image for {opened}" in docker("pull", opened)
    docker("rmi", opened)
    assert "pull access denied" in docker("pull", app, check=False) or "unauthorized" in docker(
        "pull", app, check=False
    )
    assert f"Downloaded newer image for {app}" in docker(*config, "pull", app)
