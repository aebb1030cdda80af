"""Taking over the storage folder of docker's registry."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scow.oci.digest import parse_digest
from scow.registry.objects import object_name
from scow.registry.settings import Settings

from .conftest import CONFIG, INDEX, LAYER, MANIFEST, Client, descriptor, digest_of


class Distribution:
    """Writes what docker's registry would have written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "docker" / "registry" / "v2"

    def blob_path(self, digest: str) -> Path:
        algorithm, digits = digest.split(":")
        return self.root / "blobs" / algorithm / digits[:2] / digits / "data"

    def blob(self, repository: str, data: bytes) -> str:
        digest = self._store(data)
        self._link(repository, "_layers", digest)
        return digest

    def manifest(self, repository: str, document: dict[str, Any], *tags: str) -> str:
        digest = self._store(json.dumps(document).encode())
        self._link(repository, "_manifests/revisions", digest)
        for tag in tags:
            link = self.root / "repositories" / repository / "_manifests/tags" / tag / "current/link"
            link.parent.mkdir(parents=True)
            link.write_text(digest)
        return digest

    def image(self, repository: str, seed: str, *tags: str) -> str:
        config, layer = f'{{"seed":"{seed}"}}'.encode(), f"layer {seed}".encode()
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, self.blob(repository, config), len(config)),
            "layers": [descriptor(LAYER, self.blob(repository, layer), len(layer))],
        }
        return self.manifest(repository, document, *tags)

    def _store(self, data: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        path = self.blob_path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return digest

    def _link(self, repository: str, kind: str, digest: str) -> None:
        link = self.root / "repositories" / repository / kind / digest.replace(":", "/") / "link"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.write_text(digest)


@pytest.fixture
def old(tmp_path: Path) -> Distribution:
    return Distribution(tmp_path / "old")


def same_file(one: Path, other: Path) -> bool:
    return os.path.samefile(one, other)


def take_over(old: Distribution, settings: Settings, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scow.registry", "import", str(old.folder), "--storage", settings.storage]
    return subprocess.run([*command, *flags], capture_output=True, text=True, timeout=60)


async def test_images_indexes_and_tags_are_taken_over_by_links(
    old: Distribution, settings: Settings, serve: Callable[..., Any], client: Client
) -> None:
    first = old.image("library/app", "1", "v1", "latest")
    second = old.image("library/app", "2")
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(MANIFEST, d) for d in (first, second)]}
    # Sorted before its children or behind them: both orders have to work.
    multi = old.manifest("library/app", index, "multi")
    outer = old.manifest(
        "library/app", {"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(INDEX, multi)]}, "outer"
    )
    old.image("deep/er/still", "1", "x")
    done = take_over(old, settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "imported 2 repositories: 5 manifests, 5 tags, 6 blobs; 0 problems\n"
    client.url = (await serve(settings)).url
    for tag, digest in (("v1", first), ("latest", first), ("multi", multi), ("outer", outer)):
        answer = await client("GET", f"/v2/library/app/manifests/{tag}")
        assert (answer.status, answer.headers["Docker-Content-Digest"]) == (200, digest)
    layer = digest_of(b"layer 1")
    assert (await client("GET", f"/v2/deep/er/still/blobs/{layer}")).body == b"layer 1"
    (ours,) = (Path(settings.storage) / "blobs" / "sha256" / layer[7:9]).glob(f"{layer[7:]}*")
    assert same_file(ours, old.blob_path(layer))
    assert (await client("GET", "/v2/_catalog")).json == {"repositories": ["deep/er/still", "library/app"]}


def test_a_second_import_takes_only_what_is_new(old: Distribution, settings: Settings) -> None:
    old.image("app", "1", "v1")
    take_over(old, settings)
    old.image("app", "2", "v2")
    assert "2 manifests, 2 tags, 2 blobs; 0 problems" in take_over(old, settings).stdout


def test_what_is_damaged_is_named_and_left_out(old: Distribution, settings: Settings) -> None:
    old.image("good", "1", "v1")
    bad = old.image("bad", "2", "v1")
    layer = digest_of(b"layer 2")
    old.blob_path(layer).write_bytes(b"damaged")
    schema1 = old.manifest("bad", {"schemaVersion": 1, "name": "bad", "tag": "x", "fsLayers": []}, "old")
    (old.root / "repositories" / "BAD" / "_layers").mkdir(parents=True)
    done = take_over(old, settings)
    assert done.returncode == 1
    assert f"left out: bad: blob {layer}: the content is not that of its digest\n" in done.stderr
    assert f"left out: bad@{bad}: lacks {layer}\n" in done.stderr
    assert f"left out: bad@{schema1}: manifest invalid: docker schema 1 is not supported" in done.stderr
    assert "left out: BAD: invalid repository name\n" in done.stderr
    assert "imported 2 repositories: 1 manifests, 1 tags, 3 blobs; 4 problems" in done.stdout


def test_another_folder_is_refused(tmp_path: Path, settings: Settings, old: Distribution) -> None:
    old.folder.mkdir()
    done = take_over(old, settings)
    assert done.returncode == 1
    assert done.stderr.startswith(f"scow registry: {old.folder} is not a storage folder of docker's registry: ")


async def test_blobs_are_copied_where_links_cannot_be_made(
    old: Distribution, settings: Settings, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = old.blob("app", b"copied")
    running = await serve(settings)
    link = os.link

    def refuse(source: Any, target: Any) -> None:
        if str(source).startswith(str(old.folder)):
            raise OSError(18, "Invalid cross-device link")
        link(source, target)

    monkeypatch.setattr("os.link", refuse)
    name = object_name(parse_digest(digest), "import")
    assert await running.registry.objects.adopt(old.blob_path(digest), name, verify=True) == 6
    ours = running.registry.objects.path(name)
    assert ours.read_bytes() == b"copied"  # a test's own look
    assert not same_file(ours, old.blob_path(digest))
    assert not list((Path(settings.storage) / "uploads").iterdir())
