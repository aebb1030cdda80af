"""Copies of another registry's images by rule: what is chosen, what is not done twice, what is deleted."""

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from scow.registry.metrics import Metrics
from scow.registry.settings import Policy, Proxy, Settings, SettingsInvalid, Sync
from scow.registry.upstream.copier import Counts
from scow.registry.upstream.sync import Syncs
from support.ports import free_port

from .conftest import INDEX, MANIFEST, Client, Running, descriptor, digest_of
from .faulty import FaultyRegistry


@pytest.fixture
async def there(
    serve: Callable[..., Any], tmp_path: Path, settings: Settings, session: aiohttp.ClientSession
) -> Client:
    """The upstream: another registry of ours."""
    return Client(session, (await serve(settings, storage=str(tmp_path / "upstream"))).url)


@pytest.fixture
async def here(client: Client) -> Client:
    return client


async def run(running: Running, rule: Sync, *, dry_run: bool = False) -> tuple[Counts, list[str]]:
    registry, said = running.registry, []
    syncs = Syncs([rule], registry.metadata, registry.uploads, Metrics(), registry.jobs)
    counts = await syncs.run(syncs.rules[rule.name], said.append, dry_run=dry_run)
    return counts, said


def rule(there: Client, **more: Any) -> Sync:
    return Sync(name="test", upstream=there.url, **{"repositories": ["team/app"], "namespace": "copy", **more})


async def test_what_is_copied_is_whole_and_a_second_run_copies_nothing(
    here: Client, there: Client, running: Running
) -> None:
    digests = {tag: await there.push_image(tag, "team/app", seed=tag) for tag in ("1.0", "2.0")}
    subject = descriptor(MANIFEST, digests["1.0"], 2)
    signature, _ = await there.push_manifest(
        await there.image("team/app", seed="signature", subject=subject), "", "team/app"
    )
    counts, _ = await run(running, rule(there))
    assert (counts.tags, counts.unchanged, counts.problems) == (2, 0, [])
    for tag, digest in digests.items():
        answer = await here("GET", f"/v2/copy/team/app/manifests/{tag}")
        assert answer.headers["Docker-Content-Digest"] == digest
        assert (await here("GET", f"/v2/copy/team/app/blobs/{answer.json['layers'][0]['digest']}")).status == 200
    referrers = (await here("GET", f"/v2/copy/team/app/referrers/{digests['1.0']}")).json["manifests"]
    assert [each["digest"] for each in referrers] == [signature]
    again, _ = await run(running, rule(there))
    assert (again.tags, again.unchanged, again.blobs, again.manifests) == (0, 2, 0, 0)


async def test_a_dry_run_tells_and_changes_nothing(here: Client, there: Client, running: Running) -> None:
    await there.push_image("1.0", "team/app")
    await here.push_image("old", "copy/team/app")
    counts, said = await run(running, rule(there, delete=True), dry_run=True)
    assert (counts.tags, counts.deleted) == (1, 1)
    assert said[0].startswith("copy/team/app:1.0 would be copied: sha256:")
    assert said[1] == "copy/team/app:old would be deleted"
    assert (await here("GET", "/v2/copy/team/app/tags/list")).json["tags"] == ["old"]


async def test_tags_that_are_not_meant_go_only_if_the_rule_says_so(
    here: Client, there: Client, serve: Callable[..., Any], settings: Settings, running: Running
) -> None:
    for tag in ("1.0", "1.1"):
        await there.push_image(tag, "team/app", seed=tag)
    await run(running, rule(there))
    await run(running, rule(there, tags=["1.1"]))
    assert (await here("GET", "/v2/copy/team/app/tags/list")).json["tags"] == ["1.0", "1.1"]
    counts, _ = await run(running, rule(there, tags=["1.1"], delete=True))
    assert counts.deleted == 1
    assert (await here("GET", "/v2/copy/team/app/tags/list")).json["tags"] == ["1.1"]
    # An upstream that has lost a repository takes nothing from here.
    counts, _ = await run(running, rule(there, repositories=["team/gone"], namespace="", delete=True))
    assert counts.deleted == 0
    assert len(counts.problems) == 1


async def test_patterns_find_repositories_and_blobs_of_the_rules_other_copies_are_mounted(
    here: Client, there: Client, running: Running
) -> None:
    for name in ("team/a", "team/b", "other/c"):
        await there.push_image("1", name, seed="same")
    counts, _ = await run(running, rule(there, repositories=["team/*"]))
    assert (counts.tags, counts.blobs, counts.mounted) == (2, 2, 2)
    names = (await here("GET", "/v2/_catalog")).json["repositories"]
    assert names == ["copy/team/a", "copy/team/b"]


async def test_blobs_are_not_taken_from_repositories_that_others_may_not_read(
    here: Client, there: Client, running: Running
) -> None:
    await there.push_image("1", "team/app", seed="same")
    await here.push_image("1", "private/app", seed="same")
    counts, _ = await run(running, rule(there))
    assert (counts.blobs, counts.mounted) == (2, 0)


async def test_only_the_platforms_of_the_rule_are_copied(here: Client, there: Client, running: Running) -> None:
    children = []
    for architecture in ("amd64", "arm64"):
        digest, _ = await there.push_manifest(await there.image("team/app", architecture), "", "team/app")
        platform = {"os": "linux", "architecture": architecture}
        size = len((await there("GET", f"/v2/team/app/manifests/{digest}")).body)
        children.append(descriptor(MANIFEST, digest, size, platform=platform))
    attested, _ = await there.push_manifest(await there.image("team/app", "attested"), "", "team/app")
    unknown = {"os": "unknown", "architecture": "unknown"}
    note = {"vnd.docker.reference.digest": children[1]["digest"]}
    size = len((await there("GET", f"/v2/team/app/manifests/{attested}")).body)
    children.append(descriptor(MANIFEST, attested, size, platform=unknown, annotations=note))
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": children}
    digest, answer = await there.push_manifest(index, "1", "team/app", INDEX)
    assert answer.status == 201
    counts, _ = await run(running, rule(there, platforms=["linux/arm64"]))
    assert counts.problems == []
    assert (await here("GET", "/v2/copy/team/app/manifests/1")).headers["Docker-Content-Digest"] == digest
    statuses = [(await here("GET", f"/v2/copy/team/app/manifests/{child['digest']}")).status for child in children]
    assert statuses == [404, 200, 200]


async def test_one_tag_that_fails_does_not_keep_the_others_from_being_copied(
    here: Client, running: Running, serve: Callable[..., Any], settings: Settings
) -> None:
    async with FaultyRegistry().served() as faulty:
        faulty.add_image("team/app", "1", b"one")
        broken = faulty.add_image("team/app", "2", b"two")
        del faulty.manifests["team/app", broken]
        faulty.cut_at = [3]
        sync = Sync(name="test", upstream=faulty.url, repositories=["team/app"])
        counts, _ = await run(running, sync)
    assert counts.tags == 1
    assert [problem.split(":")[1] for problem in counts.problems] == ["2"]
    assert (await here("GET", "/v2/team/app/manifests/1")).status == 200


async def test_an_upstream_that_limits_us_is_waited_for(here: Client, running: Running) -> None:
    async with FaultyRegistry().served() as faulty:
        faulty.add_image("team/app", "1")
        faulty.status, faulty.headers = 429, {"Retry-After": "1"}
        sync = Sync(name="test", upstream=faulty.url, repositories=["team/app"])
        copying = asyncio.create_task(run(running, sync))
        async with asyncio.timeout(60):
            while not faulty.asked:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        faulty.status = 0
        counts, _ = await copying
    assert (counts.tags, counts.problems) == (1, [])


async def test_immutable_tags_stay_as_they_are(
    there: Client, serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession
) -> None:
    running = await serve(settings, policies=[Policy(repositories=["copy/**"], immutable_tags=["1"])])
    await there.push_image("1", "team/app", seed="one")
    await run(running, rule(there))
    await there.push_image("1", "team/app", seed="two")
    counts, _ = await run(running, rule(there))
    assert counts.problems == ["copy/team/app:1: tag 1 is immutable"]


async def test_the_server_runs_rules_by_their_schedule(
    there: Client, serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession
) -> None:
    await there.push_image("1", "team/app")
    running = await serve(settings, sync=[rule(there, schedule="every 1s")])
    client = Client(session, running.url)
    async with asyncio.timeout(60):
        while (await client("GET", "/v2/copy/team/app/manifests/1")).status != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


def test_rules_that_make_no_sense_are_refused(running: Running) -> None:
    registry = running.registry
    parts = (registry.metadata, registry.uploads, Metrics(), registry.jobs)
    sane = Sync(name="a", upstream="host", repositories=["x"])
    for change in ({"platforms": ["nonsense/"]}, {"namespace": "A"}, {"schedule": "often"}, {"upstream": "ftp://x"}):
        with pytest.raises(SettingsInvalid):
            Syncs([msgspec.structs.replace(sane, **change)], *parts)
    with pytest.raises(SettingsInvalid, match="name of its own"):
        Syncs([sane, sane], *parts)


@pytest.fixture
def docker_registry(tmp_path: Path) -> Iterator[str]:
    """Debian's docker-registry, on a free port."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("needs docker-registry")
    port = free_port()
    config = tmp_path / "docker-registry.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path / 'theirs'}}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\nlog: {{level: error}}\n"
    )
    with (tmp_path / "docker-registry.log").open("wb") as log:
        process = subprocess.Popen([program, "serve", config], stdout=log, stderr=log)
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(60)


class DockersClient(Client):
    """Pushes to docker's registry, whose locations are whole URLs with a query."""

    async def push_blob(self, data: bytes, repository: str = "test/repo", algorithm: str = "sha256") -> str:
        location = (await self.begin(repository)).removeprefix(self.url)
        answer = await self("PUT", f"{location}&digest={digest_of(data)}", data)
        assert answer.status == 201, answer.body
        return digest_of(data)


async def test_dockers_own_registry_is_copied_and_pulled_through(
    docker_registry: str,
    serve: Callable[..., Any],
    settings: Settings,
    session: aiohttp.ClientSession,
) -> None:
    there = DockersClient(session, docker_registry)
    digest = await there.push_image("v1", "team/app")
    running = await serve(settings, proxy=[Proxy(namespace="hub", upstream=docker_registry)])
    here = Client(session, running.url)
    answer = await here("GET", "/v2/hub/team/app/manifests/v1")
    assert answer.headers["Docker-Content-Digest"] == digest
    assert (await here("GET", f"/v2/hub/team/app/blobs/{answer.json['layers'][0]['digest']}")).body == b"layer "
    assert (await here("GET", "/v2/hub/team/app/tags/list")).json["tags"] == ["v1"]
    counts, _ = await run(running, rule(there, repositories=["team/*"]))
    assert (counts.tags, counts.problems) == (1, [])
