"""Images for several platforms, and what registries say of images: by docker's client and ours."""

import json
import os
import pty
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import pytest

from scow.oci import media_types
from scow.samples.hello_world import Blob
from support.daemon import Daemon, Registry
from support.docker_client import modern_docker
from support.images import blob, document

from . import forms
from .conftest import fetch, inspect
from .test_pulls import fresh, unique

HERE = f"linux/{forms.MACHINE}"
THERE = "linux/s390x" if forms.MACHINE != "s390x" else "linux/amd64"
THIRD = "linux/riscv64"
ACCEPT = ", ".join((media_types.OCI_INDEX, media_types.OCI_MANIFEST))


class Several(NamedTuple):
    """An index in a registry: its name there, its digest, and its manifests by platform."""

    ref: str
    digest: str
    manifests: dict[str, Blob]


@pytest.fixture
def several(registry: Registry, engine: Daemon) -> Iterator[Several]:
    """Images for three platforms and an attestation, pulled whole."""
    name = fresh()
    made = {}
    for platform in (HERE, THERE, THIRD):
        made[platform] = forms.make([unique(), unique()], architecture=platform.partition("/")[2])
    statement = blob("application/vnd.in-toto+json", b'{"_type": "statement"}')
    unknown = {"architecture": "unknown", "os": "unknown"}
    nothing = document(media_types.OCI_CONFIG, {**unknown, "rootfs": {"type": "layers"}})
    attestation = forms.Made(forms.manifest_of(nothing, [statement]), [nothing, statement])
    entries = [
        (image, dict(zip(("os", "architecture"), platform.split("/"), strict=True))) for platform, image in made.items()
    ]
    plain = forms.index([*entries, (attestation, unknown)])
    value = json.loads(plain.data)
    value["manifests"][-1]["annotations"] = {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": made[HERE].manifest.digest,
    }
    top = document(media_types.OCI_INDEX, value)
    digest = forms.push(registry.address, name, "latest", *made.values(), attestation, tops=[top])
    ref = f"{registry.address}/{name}:latest"
    said = engine.scow("pull", "--all-platforms", ref).stdout
    assert f"Digest: {digest}" in said
    yield Several(ref, digest, {platform: image.manifest for platform, image in made.items()})
    for tag in inspect(engine, ref)["RepoTags"] if engine.docker("images", "-q", ref).stdout else []:  # type: ignore[attr-defined]
        engine.docker("rmi", "-f", str(tag))


def manifests(engine: Daemon, ref: str) -> dict[str, dict[str, Any]]:
    """The manifests of a listed image by platform; the attestation's by its kind."""
    listed = engine.json("GET", f"/v1.50/images/{ref}/json?manifests=1")["Manifests"]
    return {
        "/".join(each["ImageData"]["Platform"][key] for key in ("os", "architecture"))
        if each["Kind"] == "image"
        else each["Kind"]: each
        for each in listed
    }


@modern_docker
def test_an_index_that_was_pulled_whole_is_pushed_whole(engine: Daemon, registry: Registry, several: Several) -> None:
    target = f"{registry.address}/{fresh('whole/app')}"
    engine.docker("tag", several.ref, f"{target}:a")
    engine.docker("tag", several.ref, f"{target}:b")
    for said in (engine.scow("push", f"{target}:a").stdout, engine.docker("push", "-a", target).stdout):
        assert f"digest: {several.digest} size: " in said
    for tag in "ab":
        url = f"http://{registry.address}/v2/{target.partition('/')[2]}/manifests"
        assert fetch(f"{url}/{tag}", accept=ACCEPT)[1] == several.digest
        for manifest in several.manifests.values():
            assert fetch(f"{url}/{manifest.digest}", accept=ACCEPT)[0] == manifest.data
    digests = inspect(engine, f"{target}:a")["RepoDigests"]
    assert f"{target}@{several.digest}" in digests  # type: ignore[operator]
    engine.docker("push", "--platform", THERE, f"{target}:a")
    assert fetch(f"{url}/a", accept=ACCEPT)[1] == several.manifests[THERE].digest
    refused = engine.docker("push", "--platform", "linux/mips64le", f"{target}:a", check=False)
    assert "does not provide the specified platform (linux/mips64le)" in refused.stderr


@modern_docker
def test_each_manifest_is_told_and_can_be_looked_at_or_let_go(engine: Daemon, several: Several) -> None:
    found = manifests(engine, several.ref)
    assert set(found) == {HERE, THERE, THIRD, "attestation"}
    assert all(each["Available"] for each in found.values())
    assert found["attestation"]["AttestationData"] == {"For": several.manifests[HERE].digest}
    assert found[HERE]["Size"]["Total"] > found[HERE]["Size"]["Content"] > 0
    assert THERE in engine.docker("image", "ls", "--tree", several.ref).stdout
    listed = engine.json("GET", "/v1.47/images/json?manifests=1")
    assert any(several.manifests[THERE].digest in json.dumps(each) for each in listed)
    assert "Manifests" not in json.dumps(engine.json("GET", "/v1.46/images/json?manifests=1"))

    there = json.loads(engine.docker("image", "inspect", "--platform", THERE, several.ref).stdout)[0]
    assert (there["Os"], there["Architecture"]) == tuple(THERE.split("/"))
    assert there["Descriptor"]["digest"] == several.manifests[THERE].digest
    assert engine.docker("history", "-q", "--no-trunc", "--platform", THERE, several.ref).stdout.strip() == there["Id"]
    for command in (("image", "inspect"), ("history",)):
        refused = engine.docker(*command, "--platform", "linux/mips64le", several.ref, check=False)
        assert "does not provide the specified platform (linux/mips64le)" in refused.stderr

    assert engine.docker("rmi", "--platform", THERE, several.ref).stdout.startswith("Deleted: sha256:")
    left = manifests(engine, several.ref)
    assert not left[THERE]["Available"]
    assert left[THERE]["Size"]["Total"] == 0
    assert left[THIRD]["Available"]
    assert left[HERE]["Available"]
    again = engine.scow("rmi", "--platform", THERE, several.ref, check=False)
    assert "does not provide the specified platform" in again.stderr
    own = engine.scow("rmi", "--platform", HERE, several.ref, check=False)
    assert "remove the image instead" in own.stderr


@modern_docker
def test_one_platform_is_saved_and_loaded(engine: Daemon, several: Several, tmp_path: Path) -> None:
    file = str(tmp_path / "one.tar")
    engine.docker("save", "--platform", THERE, "-o", file, several.ref)
    engine.docker("rmi", several.ref)
    refused = engine.docker("load", "--platform", THIRD, "-i", file, check=False)
    assert f"no image for the platform {THIRD}" in refused.stderr
    engine.scow("load", "--platform", THERE, "-i", file)
    loaded = inspect(engine, several.ref)
    assert loaded["Architecture"] == THERE.partition("/")[2]


@pytest.mark.parametrize("client", [pytest.param("docker", marks=modern_docker), "scow"])
@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("null", "a character device file"),
        ("link", "a symbolic link"),
        ("fifo", "a named pipe"),
        ("dir", "a directory"),
    ],
)
def test_archives_replace_nothing_but_files(engine: Daemon, tmp_path: Path, client: str, kind: str, word: str) -> None:
    path = tmp_path / kind
    if kind == "null":
        os.mknod(path, stat.S_IFCHR | 0o600, os.stat("/dev/null").st_rdev)
    elif kind == "link":
        path.symlink_to("elsewhere")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    before = path.lstat()
    done = getattr(engine, client)("save", "-o", str(path), "busybox", check=False)
    assert (done.returncode, f"cannot write to {word}" in done.stderr) == (1, True), done.stderr
    after = path.lstat()
    assert (after.st_mode, after.st_ino, os.listdir(tmp_path)) == (before.st_mode, before.st_ino, [kind])


def test_save_takes_a_file_or_a_pipe_but_no_terminal(engine: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "one.tar"
    for run in (engine.docker, engine.scow):
        run("save", "-o", str(file), "busybox")
        missing = run("save", "-o", str(tmp_path / "no" / "file.tar"), "busybox", check=False)
        assert "invalid output path" in missing.stderr
        unknown = run("save", "-o", str(tmp_path / "none.tar"), "nobody-has-this", check=False)
        assert "No such image: nobody-has-this\n" in unknown.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.tar"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    ours, theirs = pty.openpty()
    try:
        scow = Path(sys.executable).with_name("scow")
        done = subprocess.run(
            [scow, "save", "busybox"], stdout=theirs, stderr=subprocess.PIPE, env=engine.environment(), check=False
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 1
    assert done.stderr == b"cowardly refusing to save to a terminal. Use the -o flag or redirect\n"
    assert engine.scow("load", input=file.read_bytes()).stdout == "Loaded image: busybox:latest\n"
    assert "is empty" in engine.scow("load", check=False).stderr
    broken = engine.scow("load", input=file.read_bytes()[:300_000], check=False)
    assert (broken.returncode, "it is truncated" in broken.stderr) == (1, True)


@modern_docker
def test_registries_are_asked_for_digests_and_manifests(engine: Daemon, registry: Registry, several: Several) -> None:
    ref = several.ref
    told = engine.json("GET", f"/distribution/{ref}/json")
    assert told["Descriptor"]["digest"] == several.digest
    assert told["Platforms"][1] == dict(zip(("os", "architecture"), THERE.split("/"), strict=True))
    one = engine.json("GET", f"/distribution/{ref.removesuffix(':latest')}@{several.manifests[HERE].digest}/json")
    assert one["Platforms"] == [dict(zip(("os", "architecture"), HERE.split("/"), strict=True))]
    status, body = engine.request("GET", f"/distribution/{registry.address}/nobody/json")
    assert (status, "not found" in body.decode()) == (404, True)

    ours = engine.scow("manifest", "inspect", ref).stdout
    theirs = engine.docker("manifest", "inspect", "--insecure", ref).stdout
    assert json.loads(ours)["manifests"][:3] == json.loads(theirs)["manifests"][:3]
    verbose = json.loads(engine.scow("manifest", "inspect", "-v", ref).stdout)
    assert verbose[1]["Descriptor"]["digest"] == several.manifests[THERE].digest


class _Search(BaseHTTPRequestHandler):
    """A registry that knows docker's search, as Docker Hub does."""

    def do_GET(self) -> None:
        found = [
            {"name": "some/app", "description": "An app", "star_count": 3, "is_official": False},
            {"name": "app", "description": "The app, " + "long " * 20, "star_count": 99, "is_official": True},
        ]
        status = 200 if self.path == "/v1/search?q=app&n=25" else 404
        body = json.dumps({"num_results": 2, "results": found}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Search)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("client", [pytest.param("docker", marks=modern_docker), "scow"])
def test_searches_ask_the_api_or_look_through_the_catalogue(
    engine: Daemon, registry: Registry, hub: str, client: str
) -> None:
    run = getattr(engine, client)
    said = run("search", f"{hub}/app").stdout.splitlines()
    assert said[0].split() == ["NAME", "DESCRIPTION", "STARS", "OFFICIAL"]
    assert said[1].split() == ["some/app", "An", "app", "3"]
    assert said[2].split() == ["app", "The", "app,", *["long"] * 7, "…", "99", "[OK]"]
    only = run("search", "-f", "is-official=true", "--format", "{{.Name}}", f"{hub}/app").stdout
    assert only.split() == ["app"]
    assert run("search", "-f", "stars=100", "--format", "{{.Name}}", f"{hub}/app").stdout == ""
    found = run("search", "--format", "{{.Name}}", f"{registry.address}/hello").stdout
    assert found.split() == [f"{registry.address}/library/hello-world"]
    for words, refusal in (
        (("--limit", "101", "app"), "limit 101 is outside the range of [1, 100]"),
        (("-f", "stars=x", "app"), "invalid filter 'stars=x'"),
        (("-f", "color=red", "app"), "invalid filter 'color'"),
        ((f"{hub}/other",), "404"),
    ):
        assert refusal in run("search", *words, check=False).stderr


def test_what_came_with_an_index_isnt_fetched_again(engine: Daemon, registry: Registry, several: Several) -> None:
    ref, digest = several.ref, several.manifests[THERE].digest
    layers = [layer["digest"] for layer in json.loads(several.manifests[THERE].data)["layers"]]
    for layer in layers:  # from now on only the engine has them
        url = f"http://{registry.address}/v2/{several.ref.split('/', 1)[1].removesuffix(':latest')}/blobs/{layer}"
        with urllib.request.urlopen(urllib.request.Request(url, method="DELETE")) as answer:
            assert answer.status == 202
    engine.docker("pull", "-q", "--platform", THERE, ref)
    assert inspect(engine, ref)["Architecture"] == THERE.partition("/")[2]
    assert engine.json("GET", f"/images/{ref}/json")["Descriptor"]["digest"] == several.digest
    assert digest in json.dumps(manifests(engine, ref))
