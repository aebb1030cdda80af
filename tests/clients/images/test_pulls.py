"""Pulls by docker, scow and docker-py through a real engine, from our registry and from distribution."""

import http.server
import json
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import docker
import pytest

from scow.oci import media_types
from scow.oci.platform import host_platform
from support.daemon import Daemon, Registry
from support.images import blob, document, tar

from . import forms
from .conftest import DebianRegistry, inspect

AnyRegistry = Registry | DebianRegistry


def by_docker(engine: Daemon, ref: str) -> None:
    engine.docker("pull", ref)


def by_scow(engine: Daemon, ref: str) -> None:
    engine.scow("pull", ref)


def by_docker_py(engine: Daemon, ref: str) -> None:
    client = docker.DockerClient(base_url=engine.host)
    name, _, digest = ref.partition("@")
    client.images.pull(name, tag=digest or None) if digest else client.images.pull(name)
    client.close()


CLIENTS = [by_docker, by_scow, by_docker_py]


def fresh(prefix: str = "team/app") -> str:
    """A repository that no other test uses."""
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


def unique() -> bytes:
    """A layer that no other test has."""
    return tar({"unique": uuid.uuid4().bytes})


@pytest.mark.parametrize("pull", CLIENTS)
def test_by_tag_by_digest_and_by_both(
    engine: Daemon, either_registry: AnyRegistry, pull: Callable[[Daemon, str], None]
) -> None:
    name = fresh()
    digest = forms.push(either_registry.address, name, "v1", forms.make([unique()]))
    other = forms.push(either_registry.address, name, "v2", forms.make([unique()]))
    ref = f"{either_registry.address}/{name}"
    pull(engine, f"{ref}:v1")
    assert inspect(engine, f"{ref}:v1")["RepoDigests"] == [f"{ref}@{digest}"]
    pull(engine, f"{ref}@{other}")
    assert inspect(engine, f"{ref}@{other}")["RepoTags"] == []
    if pull is not by_docker_py:
        pull(engine, f"{ref}:v1@{other}")  # the digest wins
        assert inspect(engine, f"{ref}:v1")["RepoDigests"] == [f"{ref}@{digest}"]
    engine.docker("rmi", f"{ref}:v1", f"{ref}@{other}")


@pytest.mark.parametrize(
    ("form", "compression"), [("oci", "gzip"), ("oci", "zstd"), ("oci", "none"), ("docker", "gzip")]
)
def test_every_form_of_layers_and_manifests_runs(
    engine: Daemon, either_registry: AnyRegistry, form: str, compression: str
) -> None:
    ref = fresh()
    word = uuid.uuid4().hex
    forms.push(
        either_registry.address, ref, "latest", forms.make(forms.box({"word": word.encode()}), form, compression)
    )
    ref = f"{either_registry.address}/{ref}"
    engine.docker("pull", "-q", ref)
    assert engine.docker("run", "--rm", ref, "cat", "/word").stdout == word
    engine.docker("rmi", ref)


@pytest.mark.parametrize("form", ["oci", "docker"])
def test_a_platform_is_selected_also_by_variant(engine: Daemon, registry: Registry, form: str) -> None:
    name = fresh()
    platforms = {
        "amd64": {"os": "linux", "architecture": "amd64"},
        "arm64": {"os": "linux", "architecture": "arm64"},
        "arm/v6": {"os": "linux", "architecture": "arm", "variant": "v6"},
        "arm/v7": {"os": "linux", "architecture": "arm", "variant": "v7"},
    }
    images = {
        key: forms.make([unique()], form, architecture=each["architecture"], variant=each.get("variant", ""))
        for key, each in platforms.items()
    }
    top = forms.index([(images[key], each) for key, each in platforms.items()], form)
    digest = forms.push(registry.address, name, "latest", *images.values(), tops=[top])
    ref = f"{registry.address}/{name}"
    own = host_platform().architecture
    wanted = [("", own), ("linux/arm64", "arm64"), ("linux/arm/v7", "arm/v7"), ("linux/arm/v6", "arm/v6")]
    for client in (engine.docker, engine.scow):
        for platform, key in wanted:
            client("pull", "-q", *(("--platform", platform) if platform else ()), ref)
            shown = inspect(engine, ref)
            assert shown["Id"] == images[key].blobs[0].digest
            assert shown["RepoDigests"] == [f"{ref}@{digest}"]
        refused = client("pull", "--platform", "linux/s390x", ref, check=False)
        assert refused.returncode == 1
        assert "no matching manifest for linux/s390x in the manifest list entries" in refused.stderr
        engine.docker("rmi", "-f", ref)


def test_an_index_of_indexes(engine: Daemon, registry: Registry) -> None:
    name = fresh()
    image = forms.make([unique()])
    inner = forms.index([(image, {"os": "linux", "architecture": forms.MACHINE})])
    outer = forms.index([(inner, None)])
    digest = forms.push(registry.address, name, "latest", image, tops=[inner, outer])
    shown = engine.docker("pull", f"{registry.address}/{name}").stdout
    assert f"Digest: {digest}" in shown


BROKEN = {
    "no JSON": (blob(media_types.OCI_MANIFEST, b"{"), "invalid manifest|manifest"),
    "an unknown media type": (
        blob(
            "application/vnd.example.thing+json",
            b'{"schemaVersion": 2, "mediaType": "application/vnd.example.thing+json"}',
        ),
        "unsupported",
    ),
    "schema 1": (
        blob(media_types.DOCKER_SCHEMA1_SIGNED, b'{"schemaVersion": 1, "name": "x", "tag": "y", "fsLayers": []}'),
        "schema 1|schema version 1|unsupported",
    ),
    "no image": (
        document(
            media_types.OCI_MANIFEST,
            {
                "schemaVersion": 2,
                "mediaType": media_types.OCI_MANIFEST,
                "config": {"mediaType": "application/vnd.example.config", "size": 2, "digest": "sha256:" + "4" * 64},
                "layers": [],
            },
        ),
        "",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_document_that_is_no_image_is_refused_in_words(engine: Daemon, what: str) -> None:
    document, words = BROKEN[what]

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            found = "/manifests/" in self.path
            body = document.data if found else b"{}"
            self.send_response(200 if found or self.path == "/v2/" else 404)
            self.send_header("Content-Type", document.media_type if found else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever).start()
        try:
            for client in (engine.docker, engine.scow):
                refused = client("pull", f"127.0.0.1:{server.server_port}/a/b", check=False)
                assert refused.returncode == 1
                assert refused.stderr.strip()
                assert "Traceback" not in refused.stderr
                assert "internal error" not in refused.stderr.lower()
                if words:
                    assert any(word in refused.stderr for word in words.split("|")), refused.stderr
        finally:
            server.shutdown()


def test_what_is_up_to_date_is_said_to_be(engine: Daemon, either_registry: AnyRegistry) -> None:
    name = fresh()
    digest = forms.push(either_registry.address, name, "latest", forms.make([unique()]))
    ref = f"{either_registry.address}/{name}"
    assert f"Status: Downloaded newer image for {ref}:latest" in engine.docker("pull", ref).stdout
    for client in (engine.docker, engine.scow):
        said = client("pull", ref).stdout.splitlines()
        assert said == [
            "Using default tag: latest",
            f"latest: Pulling from {name}",
            f"Digest: {digest}",
            f"Status: Image is up to date for {ref}:latest",
            f"{ref}:latest",
        ]


@pytest.mark.parametrize("client", ["docker", "scow"])
def test_all_tags(engine: Daemon, either_registry: AnyRegistry, client: str) -> None:
    name = fresh()
    for tag in ("one", "two", "three"):
        forms.push(either_registry.address, name, tag, forms.make([unique()]))
    ref = f"{either_registry.address}/{name}"
    getattr(engine, client)("pull", "-a", "-q", ref)
    listed = engine.docker("images", "--format", "{{.Tag}}", ref).stdout.split()
    assert sorted(listed) == ["one", "three", "two"]


def test_five_clients_at_once(engine: Daemon, registry: Registry) -> None:
    name = fresh()
    layers = [tar({f"f{number}": uuid.uuid4().bytes * 50_000}) for number in range(4)]
    digest = forms.push(registry.address, name, "latest", forms.make(layers, compression="none"))
    ref = f"{registry.address}/{name}"
    with ThreadPoolExecutor(5) as pool:
        clients = [engine.docker, engine.scow, engine.docker, engine.scow, engine.docker]
        said = [done.stdout for done in pool.map(lambda client: client("pull", ref), clients)]
    assert all(f"Digest: {digest}" in text for text in said)
    assert inspect(engine, ref)["RepoDigests"] == [f"{ref}@{digest}"]


def test_what_is_not_there(engine: Daemon, either_registry: AnyRegistry) -> None:
    ref = f"{either_registry.address}/{fresh()}"
    forms.push(either_registry.address, ref.partition("/")[2], "there", forms.make([unique()]))
    for client in (engine.docker, engine.scow):
        refused = client("pull", f"{ref}:absent", check=False)
        assert refused.returncode == 1
        assert f"manifest for {ref}:absent not found" in refused.stderr
    wrong = client("pull", f"{either_registry.address}/{fresh()}", check=False)
    assert wrong.returncode == 1
    assert "not found" in wrong.stderr or "does not exist" in wrong.stderr


def test_quiet_pulls_print_the_name_only(engine: Daemon, registry: Registry) -> None:
    name = fresh()
    forms.push(registry.address, name, "latest", forms.make([unique()]))
    for client in (engine.docker, engine.scow):
        done = client("pull", "-q", f"{registry.address}/{name}")
        assert done.stdout == f"{registry.address}/{name}:latest\n"


def test_progress_streams_as_json_lines(engine: Daemon, registry: Registry) -> None:
    name = fresh()
    forms.push(registry.address, name, "latest", forms.make([unique()]))
    status, data = engine.request("POST", f"/images/create?fromImage={registry.address}/{name}&tag=latest")
    lines = [json.loads(line) for line in data.splitlines()]
    assert status == 200
    assert [line["status"] for line in lines][
        -1
    ] == f"Status: Downloaded newer image for {registry.address}/{name}:latest"
