"""`scow manifest create`, `annotate`, `push` and `rm`: images of a registry under one name, for several platforms."""

import http.client
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support import images
from support.daemon import Daemon, Registry, run_client

LIST = "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.index.v1+json"


@pytest.fixture(scope="module")
def arm(registry: Registry) -> str:
    """An image for arm64, in a repository of its own."""
    built = images.build([images.tar({"x": b"x"})], architecture="arm64")
    images.push(registry.address, "other/arm", built)
    return f"{registry.address}/other/arm"


@pytest.fixture
def scow(engine: Daemon, tmp_path: Path) -> Callable[..., Any]:
    """Our client with a configuration folder of its own."""

    def run(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {**engine.environment(), "DOCKER_CONFIG": str(tmp_path)}
        return run_client(str(Path(sys.executable).with_name("scow")), words, environment, b"", check)

    return run


def get_list(registry: Registry, repository: str, tag: str) -> dict[str, Any]:
    connection = http.client.HTTPConnection(registry.address, timeout=10)
    connection.request("GET", f"/v2/{repository}/manifests/{tag}", headers={"Accept": LIST})
    reply: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    return reply


def test_a_list_is_made_annotated_and_pushed(scow: Callable[..., Any], registry: Registry, arm: str) -> None:
    name, box = f"{registry.address}/multi/box:1", f"{registry.address}/library/busybox"
    assert scow("manifest", "create", name, box, arm).stdout == f"Created manifest list {name}\n"
    scow("manifest", "annotate", "--variant", "v8", name, arm)
    shown = json.loads(scow("manifest", "inspect", name).stdout)
    pushed = scow("manifest", "push", "--purge", name).stdout.splitlines()
    assert [line.split("@")[0] for line in pushed[:-1]] == [f"Pushed ref {registry.address}/multi/box"] * 2
    found = get_list(registry, "multi/box", "1")
    assert found == shown
    assert sorted(each["platform"].get("variant", each["platform"]["architecture"]) for each in found["manifests"]) == [
        "amd64",
        "v8",
    ]
    assert scow("manifest", "rm", name, check=False).stderr == f"No such manifest: {name}\n"
    # What was mounted from the other repositories is there: it can be pulled.
    scow("pull", "-q", "--platform", "linux/arm64", name)
    scow("rmi", name)


def test_a_list_is_not_made_of_what_is_no_image_of_the_registry(
    scow: Callable[..., Any], registry: Registry, arm: str
) -> None:
    name = f"{registry.address}/multi/box:2"
    for words, said in (
        (("create", name, f"{registry.address}/library/nope"), "no such manifest"),
        (("create", name, f"{registry.address}/library/hello-world"), "is a manifest list"),
        (("annotate", name, arm, "--arch", "arm"), "does not exist in"),
        (("push", name), "No such manifest"),
    ):
        refused = scow("manifest", *words, check=False)
        assert (refused.returncode, said in refused.stderr) == (1, True), refused.stderr
    scow("manifest", "create", name, arm)
    for words, said in (
        (("create", name, arm), "refusing to amend an existing manifest list with no --amend flag"),
        (("annotate", name, arm, "--os", "dos"), "unsupported os/arch combination: dos/arm64"),
    ):
        assert said in scow("manifest", *words, check=False).stderr
    scow("manifest", "create", "elsewhere:1", arm)
    assert "different registry than the target image" in scow("manifest", "push", "elsewhere:1", check=False).stderr


def test_only_lists_of_named_sources_are_pushed(engine: Daemon, registry: Registry) -> None:
    def put(body: Any) -> tuple[int, str]:
        status, data = engine.request("PUT", f"/scow/distribution/{registry.address}/multi/x:1/manifest", body)
        return status, json.loads(data)["message"]

    assert put({"schemaVersion": 2, "config": {}, "layers": []})[0] == 400
    digest = "sha256:" + "a" * 64
    entry = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 5}
    status, words = put({"schemaVersion": 2, "manifests": [entry]})
    assert (status, words) == (400, f"no source is named for {digest}")
