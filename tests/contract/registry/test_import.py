"""Taking over the storage folder of docker's registry."""

import asyncio
import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from scow.oci.digest import parse_digest
from scow.registry.folder import Folder
from scow.registry.imports.distribution import DistributionImporter
from scow.registry.objects import object_name
from scow.registry.settings import Settings

from .conftest import CONFIG, INDEX, LAYER, MANIFEST, Client, Running, descriptor, digest_of


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
    summary = "imported 2 repositories: 5 manifests, 5 tags, 6 blobs (57 bytes), 0 blobs were here; 0 problems\n"
    assert done.stdout.endswith(f"\n{summary}")
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
    again = take_over(old, settings, "--quiet").stdout
    assert again == "imported 1 repositories: 2 manifests, 2 tags, 2 blobs (19 bytes), 2 blobs were here; 0 problems\n"


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
    assert (
        "imported 2 repositories: 1 manifests, 1 tags, 3 blobs (31 bytes), 0 blobs were here; 4 problems" in done.stdout
    )


def test_nothing_is_followed_out_of_the_folder_and_nothing_waited_for(
    old: Distribution, settings: Settings, tmp_path: Path
) -> None:
    """A folder from somebody else: its links must not make our files blobs that everybody may pull."""
    old.image("app", "1", "v1", "piped", "endless", "gone")
    secret = tmp_path / "secret"
    secret.write_text("secret")
    linked, piped = old.blob("app", b"linked"), old.blob("app", b"piped")
    old.blob_path(linked).unlink()
    old.blob_path(linked).symlink_to(secret)
    old.blob_path(piped).unlink()
    os.mkfifo(old.blob_path(piped))
    tags = old.root / "repositories" / "app" / "_manifests" / "tags"
    for tag in ("piped", "endless"):
        (tags / tag / "current" / "link").unlink()
    os.mkfifo(tags / "piped" / "current" / "link")
    (tags / "endless" / "current" / "link").symlink_to("/dev/zero")
    (tags / "gone" / "current" / "link").write_text(digest_of(b"gone"))
    done = take_over(old, settings, "--no-verify")
    assert done.returncode == 1
    repositories = old.root / "repositories"
    for line in (
        f"app: blob {linked}: {old.blob_path(linked)} is no file of {old.root / 'blobs'}",
        f"app: blob {piped}: {old.blob_path(piped)} is no file of {old.root / 'blobs'}",
        f"app:piped: {tags}/piped/current/link: {tags}/piped/current/link is no file of {repositories}",
        f"app:endless: {tags}/endless/current/link: {tags}/endless/current/link is no file of {repositories}",
        f"app:gone: its manifest {digest_of(b'gone')} is not there",
    ):
        assert f"left out: {line}\n" in done.stderr
    assert "1 manifests, 1 tags, 2 blobs" in done.stdout
    assert secret.stat().st_nlink == 1


async def test_what_cannot_be_read_is_named(
    old: Distribution, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another user than docker's registry ran as, for instance: to miss it in silence would lose it."""
    old.image("closed/app", "1", "v1")
    old.image("open/app", "2", "v1")
    (old.root / "repositories" / "open" / "app" / "_manifests" / "tags" / "v1" / "current" / "link").unlink()
    (old.root / "repositories" / "open" / "app" / "_manifests" / "tags" / "v1" / "current" / "link").mkdir()
    closed = old.root / "repositories" / "closed"
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if str(path) == str(closed):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    registry = running.registry
    importer = DistributionImporter(old.folder, registry.objects, registry.metadata, lambda _: None)
    done = await importer.run()
    tags = old.root / "repositories/open/app/_manifests/tags"
    assert done.problems == [
        f"{closed}: Permission denied",
        f"open/app:v1: {tags}/v1/current/link: {tags}/v1/current/link is no file of {old.root}/repositories",
    ]
    assert (done.repositories, done.manifests, done.tags) == (1, 1, 0)


def test_another_folder_is_refused(tmp_path: Path, settings: Settings, old: Distribution) -> None:
    old.folder.mkdir()
    done = take_over(old, settings)
    assert done.returncode == 1
    assert done.stderr.startswith(f"scow registry: {old.folder} is neither a storage folder of docker's registry")


def test_only_repositories_of_the_patterns_are_taken_over(old: Distribution, settings: Settings) -> None:
    for name in ("team/a", "team/b", "other"):
        old.image(name, name, "v1")
    done = take_over(old, settings, "--only", "team/*", "--namespace", "old")
    assert "imported 2 repositories" in done.stdout
    assert done.stdout.startswith("old/team/a: 1 manifests, 2 blobs")


def test_an_import_that_was_killed_goes_on(old: Distribution, settings: Settings) -> None:
    for number in range(40):
        old.image(f"app{number:02}", str(number), "v1")
    command = [sys.executable, "-m", "scow.registry", "import", str(old.folder), "--storage", settings.storage]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(5):
            process.stdout.readline()
        process.kill()
    done = take_over(old, settings)
    assert "imported 40 repositories: 40 manifests, 40 tags" in done.stdout
    assert int(done.stdout.rpartition("bytes), ")[2].split()[0]) >= 10  # blobs that were here
    check = [sys.executable, "-m", "scow.registry", "check", "--storage", settings.storage]
    assert (
        subprocess.run(check, capture_output=True, text=True, timeout=60).stdout
        == "all blobs and manifests are sound\n"
    )


async def test_blobs_are_copied_where_links_cannot_be_made(
    old: Distribution, settings: Settings, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = old.blob("app", b"copied")
    running = await serve(settings)
    link = os.link

    def refuse(source: Any, target: Any, **directories: int) -> None:
        if str(source).startswith(str(old.folder)):
            raise OSError(18, "Invalid cross-device link")
        link(source, target, **directories)

    monkeypatch.setattr("os.link", refuse)
    name = object_name(parse_digest(digest), "import")
    assert await running.registry.objects.adopt(old.blob_path(digest), name, verify=True) == 6
    ours = Folder(Path(settings.storage)).path(name)
    assert ours.read_bytes() == b"copied"  # a test's own look
    assert not same_file(ours, old.blob_path(digest))
    assert not list((Path(settings.storage) / "uploads").iterdir())


class Layout:
    """Writes an OCI layout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "blobs" / "sha256").mkdir(parents=True)
        self._entries: list[dict[str, Any]] = []

    def blob(self, data: bytes) -> str:
        digest = digest_of(data)
        self.path(digest).write_bytes(data)
        return digest

    def path(self, digest: str) -> Path:
        return self.folder / "blobs" / digest.replace(":", "/")

    def image(self, seed: str, **annotations: str) -> str:
        config, layer = f'{{"seed":"{seed}"}}'.encode(), f"layer {seed}".encode()
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, self.blob(config), len(config)),
            "layers": [descriptor(LAYER, self.blob(layer), len(layer))],
        }
        return self.add(document, MANIFEST, **annotations)

    def add(self, document: dict[str, Any], media_type: str, **annotations: str) -> str:
        data = json.dumps(document).encode()
        digest = self.blob(data)
        if annotations:
            names = {"ref": "org.opencontainers.image.ref.name", "image": "io.containerd.image.name"}
            notes = {names[key]: value for key, value in annotations.items()}
            self._entries.append(descriptor(media_type, digest, len(data), annotations=notes))
        (self.folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": self._entries}))
        return digest


async def test_an_oci_layout_is_taken_over_by_the_names_in_it(
    tmp_path: Path, settings: Settings, serve: Callable[..., Any], client: Client
) -> None:
    layout = Layout(tmp_path / "layout")
    single = layout.image("1", ref="v1", image="docker.io/library/app:v1")
    children = [layout.image("2"), layout.image("3")]
    listed = [descriptor(MANIFEST, child) for child in children]
    index = layout.add(
        {"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}, INDEX, ref="registry.example.com/team/app:multi"
    )
    layout.image("4", ref="nameless")
    command = [sys.executable, "-m", "scow.registry", "import", str(layout.folder), "--storage", settings.storage]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "index.json does not say which repository it belongs to" in done.stderr
    assert "imported 2 repositories: 4 manifests, 2 tags, 6 blobs" in done.stdout
    command += ["--repository", "all"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    client.url = (await serve(settings)).url
    for path, digest in (("library/app/manifests/v1", single), ("team/app/manifests/multi", index)):
        assert (await client("GET", f"/v2/{path}")).headers["Docker-Content-Digest"] == digest
    assert (await client("GET", f"/v2/team/app/manifests/{children[1]}")).status == 200
    assert (await client("GET", "/v2/all/tags/list")).json["tags"] == ["multi", "nameless", "v1"]
    layer = digest_of(b"layer 1")
    (ours,) = (Path(settings.storage) / "blobs" / "sha256" / layer[7:9]).glob(f"{layer[7:]}*")
    assert same_file(ours, layout.path(layer))
    layout.path(single).unlink()
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
    missing = f"all@{single}: {layout.path(single)}: No such file or directory"
    assert (done.returncode, set(done.stderr.splitlines())) == (1, {f"left out: {missing}"})


async def test_a_running_registry_is_taken_over(
    tmp_path: Path, settings: Settings, serve: Callable[..., Any], client: Client
) -> None:
    there = msgspec.structs.replace(settings, storage=str(tmp_path / "theirs"))
    client.url = (await serve(there)).url
    for name, tag in (("team/a", "v1"), ("team/a", "v2"), ("b", "v1")):
        await client.push_image(tag, name, seed=name + tag)
    command = [sys.executable, "-m", "scow.registry", "import", client.url, "--storage", settings.storage]
    for tags, unchanged in ((3, 0), (0, 3)):
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        assert process.returncode == 0
        assert f"imported {tags} tags copied, {unchanged} unchanged".encode() in output
