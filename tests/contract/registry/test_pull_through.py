"""Repositories of other registries: fetched when they are pulled, kept, and served when the upstream can't be."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from scow.registry.accounts import Account
from scow.registry.passwords import hash_password
from scow.registry.settings import Auth, Policy, Proxy, Rule, Settings, SettingsInvalid, Token
from scow.registry.upstream.places import Places

from .conftest import INDEX, Client, Running, digest_of
from .faulty import FaultyRegistry

LAYER = os.urandom(3 << 20)


@pytest.fixture
async def upstream() -> AsyncIterator[FaultyRegistry]:
    async with FaultyRegistry().served() as faulty:
        yield faulty


@pytest.fixture
async def proxied(serve: Callable[..., Any], settings: Settings, upstream: FaultyRegistry) -> Running:
    result: Running = await serve(settings, proxy=[Proxy(namespace="hub", upstream=upstream.url, ns=["docker.io"])])
    return result


@pytest.fixture
async def client(proxied: Running, session: aiohttp.ClientSession) -> Client:
    return Client(session, proxied.url)


async def test_an_image_is_fetched_once_and_then_served_from_here(client: Client, upstream: FaultyRegistry) -> None:
    digest = upstream.add_image("team/app", "v1", LAYER)
    for _ in range(2):
        answer = await client("GET", "/v2/hub/team/app/manifests/v1")
        assert (answer.status, answer.headers["Docker-Content-Digest"]) == (200, digest)
        assert digest_of(answer.body) == digest
        for descriptor in (answer.json["config"], *answer.json["layers"]):
            blob = await client("GET", f"/v2/hub/team/app/blobs/{descriptor['digest']}")
            assert blob.body == upstream.blobs[descriptor["digest"]]
            assert int(blob.headers["Content-Length"]) == descriptor["size"]
    assert upstream.asked_for("GET manifests") == 1
    assert upstream.asked_for("GET blobs") == 2
    assert upstream.asked_for("HEAD manifests v1") == 2


async def test_a_large_manifest_comes_through(client: Client, upstream: FaultyRegistry) -> None:
    document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "annotations": {"note": "x" * 1_000_000}}
    digest = upstream.add_manifest("app", "large", document, INDEX)
    for reference in ("large", digest) * 2:
        answer = await client("GET", f"/v2/hub/app/manifests/{reference}")
        assert (answer.status, digest_of(answer.body)) == (200, digest)
    head = await client("HEAD", "/v2/hub/app/manifests/large")
    assert head.headers["Content-Length"] == str(len(answer.body))
    assert upstream.asked_for("GET manifests") == 1


async def test_a_tag_that_has_moved_is_fetched_anew(client: Client, upstream: FaultyRegistry) -> None:
    upstream.add_image("app", "latest", b"one")
    await client("GET", "/v2/hub/app/manifests/latest")
    digest = upstream.add_image("app", "latest", b"two")
    answer = await client("GET", "/v2/hub/app/manifests/latest")
    assert answer.headers["Docker-Content-Digest"] == digest


async def test_a_tag_is_not_asked_about_again_within_its_time_to_live(
    serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession, upstream: FaultyRegistry
) -> None:
    running = await serve(settings, proxy=[Proxy(namespace="hub", upstream=upstream.url, ttl_s=60)])
    client = Client(session, running.url)
    upstream.add_image("app", "latest")
    for _ in range(3):
        assert (await client("GET", "/v2/hub/app/manifests/latest")).status == 200
    assert upstream.asked_for("HEAD manifests") == 1


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_what_is_here_is_served_while_the_upstream_refuses(
    client: Client, upstream: FaultyRegistry, status: int
) -> None:
    digest = upstream.add_image("app", "latest", LAYER)
    await client("GET", "/v2/hub/app/manifests/latest")
    await client("GET", f"/v2/hub/app/blobs/{digest_of(LAYER)}")
    upstream.status = status
    answer = await client("GET", "/v2/hub/app/manifests/latest")
    assert (answer.status, answer.headers["Docker-Content-Digest"]) == (200, digest)
    assert answer.headers["Warning"].startswith("299 - ")
    assert (await client("GET", f"/v2/hub/app/blobs/{digest_of(LAYER)}")).body == LAYER


async def test_what_is_here_is_served_while_the_upstream_is_gone(
    serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession
) -> None:
    faulty = FaultyRegistry()
    digest = faulty.add_image("app", "latest")
    async with faulty.served():
        running = await serve(settings, proxy=[Proxy(namespace="hub", upstream=faulty.url)])
        client = Client(session, running.url)
        await client("GET", "/v2/hub/app/manifests/latest")
    answer = await client("GET", "/v2/hub/app/manifests/latest")
    assert answer.headers["Docker-Content-Digest"] == digest
    missing = await client("GET", "/v2/hub/app/manifests/other")
    assert (missing.status, missing.codes) == (503, ["UNAVAILABLE"])
    assert (await client("GET", "/v2/hub/app/tags/list")).json["tags"] == ["latest"]


async def test_an_upstream_that_limits_us_is_left_alone_for_as_long_as_it_says(
    client: Client, upstream: FaultyRegistry
) -> None:
    upstream.add_image("app", "latest")
    upstream.status, upstream.headers = 429, {"Retry-After": "100"}
    answers = [await client("GET", f"/v2/hub/app/manifests/{tag}") for tag in ("latest", "latest", "other")]
    assert [answer.codes for answer in answers] == [["TOOMANYREQUESTS"]] * 3
    assert all(90 < int(answer.headers["Retry-After"]) <= 100 for answer in answers)
    assert sum(upstream.asked.values()) == 1


async def test_a_tag_that_has_gone_upstream_is_gone_here(client: Client, upstream: FaultyRegistry) -> None:
    upstream.add_image("app", "latest")
    await client("GET", "/v2/hub/app/manifests/latest")
    del upstream.tags["app", "latest"]
    assert (await client("GET", "/v2/hub/app/manifests/latest")).codes == ["MANIFEST_UNKNOWN"]


async def test_many_clients_share_one_fetch_and_one_that_hangs_up_ends_it_for_nobody(
    client: Client, upstream: FaultyRegistry, session: aiohttp.ClientSession
) -> None:
    upstream.add_image("app", "latest", LAYER)
    upstream.gate = asyncio.Event()
    url = f"{client.url}/v2/hub/app/blobs/{digest_of(LAYER)}"
    first = await session.get(url)
    assert len(await first.content.readexactly(1 << 20)) == 1 << 20  # it streams: the upstream has sent a half
    others = [asyncio.create_task(client("GET", f"/v2/hub/app/blobs/{digest_of(LAYER)}")) for _ in range(8)]
    part = asyncio.create_task(client("GET", f"/v2/hub/app/blobs/{digest_of(LAYER)}", Range="bytes=100-199"))
    first.close()
    assert (await part).body == LAYER[100:200]
    upstream.gate.set()
    assert all(answer.body == LAYER for answer in await asyncio.gather(*others))
    assert upstream.asked_for("GET blobs") == 1


async def test_a_fetch_goes_on_when_its_only_client_has_gone(
    client: Client, upstream: FaultyRegistry, session: aiohttp.ClientSession, proxied: Running
) -> None:
    upstream.add_image("app", "latest", LAYER)
    upstream.gate = asyncio.Event()
    first = await session.get(f"{client.url}/v2/hub/app/blobs/{digest_of(LAYER)}")
    first.close()
    upstream.gate.set()
    async with asyncio.timeout(60):
        while await proxied.registry.metadata.blob("hub/app", digest_of(LAYER)) is None:  # type: ignore[arg-type]  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("ignores_ranges", [False, True])
async def test_a_download_goes_on_where_the_upstream_broke_off(
    client: Client, upstream: FaultyRegistry, ignores_ranges: bool
) -> None:
    upstream.add_image("app", "latest", LAYER)
    upstream.cut_at, upstream.ignores_ranges = [1 << 20, 900_000], ignores_ranges
    answer = await client("GET", f"/v2/hub/app/blobs/{digest_of(LAYER)}")
    assert answer.body == LAYER
    assert upstream.asked_for("GET blobs") == 3


async def test_wrong_bytes_are_neither_kept_nor_given_away_whole(
    client: Client, upstream: FaultyRegistry, proxied: Running
) -> None:
    upstream.add_image("app", "latest", LAYER)
    upstream.lies = True
    with pytest.raises(aiohttp.ClientPayloadError):
        await client("GET", f"/v2/hub/app/blobs/{digest_of(LAYER)}")
    assert await proxied.registry.metadata.blob("hub/app", digest_of(LAYER)) is None  # type: ignore[arg-type]
    upstream.lies = False
    assert (await client("GET", f"/v2/hub/app/blobs/{digest_of(LAYER)}")).body == LAYER


async def test_a_manifest_with_another_digest_than_was_asked_for_is_refused(
    client: Client, upstream: FaultyRegistry
) -> None:
    digest = upstream.add_image("app", "latest")
    upstream.manifests["app", digest] = (upstream.manifests["app", digest][0], b'{"schemaVersion": 2}')
    assert (await client("GET", f"/v2/hub/app/manifests/{digest}")).status == 503


async def test_a_blob_whose_size_the_upstream_does_not_say_comes_too(client: Client, upstream: FaultyRegistry) -> None:
    upstream.add_image("app", "latest", LAYER)
    upstream.says_no_size = True
    assert (await client("GET", f"/v2/hub/app/blobs/{digest_of(LAYER)}")).body == LAYER


async def test_an_index_comes_without_the_platforms_that_nobody_pulls(client: Client, upstream: FaultyRegistry) -> None:
    images = [upstream.add_image("app", f"of{number}", f"layer {number}".encode()) for number in range(3)]
    digest = upstream.add_index("app", "latest", *images)
    assert (await client("GET", "/v2/hub/app/manifests/latest")).headers["Docker-Content-Digest"] == digest
    assert (await client("GET", f"/v2/hub/app/manifests/{images[1]}")).status == 200
    assert upstream.asked_for("GET manifests") == 2


async def test_the_page_says_what_is_a_copy_and_what_of_it_is_not_here(
    client: Client, upstream: FaultyRegistry
) -> None:
    images = [upstream.add_image("app", f"of{number}", f"layer {number}".encode()) for number in range(2)]
    upstream.add_index("app", "latest", *images)
    await client("GET", "/v2/hub/app/manifests/latest")
    await client("GET", f"/v2/hub/app/manifests/{images[0]}")
    text = (await client("GET", "/-/repositories/hub/app")).body.decode()
    assert f"A copy of {upstream.url.removeprefix('http://')}/app" in text
    assert (await client("GET", "/-/images/hub/app/latest")).body.decode().count("not here") == 1


async def test_head_costs_the_upstream_no_get_and_what_follows_by_digest_gets_the_tag(
    client: Client, upstream: FaultyRegistry
) -> None:
    digest = upstream.add_image("app", "latest")
    answer = await client("HEAD", "/v2/hub/app/manifests/latest")
    assert answer.headers["Docker-Content-Digest"] == digest
    assert int(answer.headers["Content-Length"]) == len(upstream.manifests["app", digest][1])
    assert upstream.asked_for("GET manifests") == 0
    await client("GET", f"/v2/hub/app/manifests/{digest}")
    upstream.status = 503
    assert (await client("GET", "/v2/hub/app/manifests/latest")).headers["Docker-Content-Digest"] == digest


async def test_containerd_finds_a_proxy_by_the_registry_that_it_names(client: Client, upstream: FaultyRegistry) -> None:
    digest = upstream.add_image("team/app", "latest")
    answer = await client("GET", "/v2/team/app/manifests/latest?ns=docker.io")
    assert (answer.status, answer.headers["OCI-Namespace"]) == (200, "docker.io")
    assert answer.headers["Docker-Content-Digest"] == digest
    blob = await client("GET", f"/v2/team/app/blobs/{answer.json['layers'][0]['digest']}?ns=docker.io")
    assert (blob.status, blob.headers["OCI-Namespace"]) == (200, "docker.io")
    # A name that is not configured is nobody whom we would ask.
    answer = await client("GET", f"/v2/team/app/manifests/latest?ns={upstream.url.removeprefix('http://')[:-1]}0")
    assert (answer.status, answer.codes) == (404, ["NAME_UNKNOWN"])


async def test_pushes_are_refused_and_copies_can_be_deleted(client: Client, upstream: FaultyRegistry) -> None:
    digest = upstream.add_image("app", "latest")
    answer = await client("POST", "/v2/hub/app/blobs/uploads/")
    assert (answer.status, answer.codes) == (405, ["UNSUPPORTED"])
    assert "takes no pushes" in answer.json["errors"][0]["message"]
    assert (await client("PUT", "/v2/hub/app/manifests/latest", b"{}")).status == 405
    await client("GET", "/v2/hub/app/manifests/latest")
    assert (await client("DELETE", f"/v2/hub/app/manifests/{digest}")).status == 202
    assert (await client.push_image("latest", "own/app")).startswith("sha256:")


async def test_copies_obey_the_rules_of_access(
    serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession, upstream: FaultyRegistry
) -> None:
    upstream.add_image("open/app", "latest")
    upstream.add_image("secret/app", "latest")
    auth = Auth(rules=[Rule(repositories=["hub/open/**"], actions=["pull"], anonymous=True)])
    running = await serve(settings, auth=auth, proxy=[Proxy(namespace="hub", upstream=upstream.url, ns=["docker.io"])])
    client = Client(session, running.url)
    assert (await client("GET", "/v2/hub/open/app/manifests/latest")).status == 200
    for path in ("/v2/hub/secret/app/manifests/latest", "/v2/secret/app/manifests/latest?ns=docker.io"):
        assert (await client("GET", path)).status == 401
    assert not any("secret" in line for line in upstream.asked)


async def test_credentials_go_to_the_upstream_and_a_wrong_one_is_denied(
    serve: Callable[..., Any],
    settings: Settings,
    session: aiohttp.ClientSession,
    upstream: FaultyRegistry,
    tmp_path: Path,
) -> None:
    upstream.password = "pw"
    upstream.add_image("app", "latest")
    file = tmp_path / "password"
    file.write_text("wrong\n")
    proxy = Proxy(namespace="hub", upstream=upstream.url, username="ann", password_file=str(file))
    client = Client(session, (await serve(settings, proxy=[proxy])).url)
    assert (await client("GET", "/v2/hub/app/manifests/latest")).codes == ["DENIED"]
    file.write_text("pw\n")
    assert (await client("GET", "/v2/hub/app/manifests/latest")).status == 200


async def test_only_repositories_of_the_patterns_are_fetched(
    serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession, upstream: FaultyRegistry
) -> None:
    upstream.add_image("library/app", "latest")
    upstream.add_image("evil/app", "latest")
    proxy = Proxy(namespace="hub", upstream=upstream.url, repositories=["library/*"])
    client = Client(session, (await serve(settings, proxy=[proxy])).url)
    assert (await client("GET", "/v2/hub/library/app/manifests/latest")).status == 200
    assert (await client("GET", "/v2/hub/evil/app/manifests/latest")).codes == ["DENIED"]


async def test_a_full_quota_does_not_end_pulls(
    serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession, upstream: FaultyRegistry
) -> None:
    upstream.add_image("app", "latest", LAYER)
    policies = [Policy(repositories=["hub/**"], namespace_quota_size=1 << 20)]
    running = await serve(settings, policies=policies, proxy=[Proxy(namespace="hub", upstream=upstream.url)])
    client = Client(session, running.url)
    for _ in range(2):
        assert (await client("GET", f"/v2/hub/app/blobs/{digest_of(LAYER)}")).body == LAYER
    assert await running.registry.metadata.blob("hub/app", digest_of(LAYER)) is None


async def test_a_quota_that_turns_out_to_be_full_does_not_end_a_pull_either(
    serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession, upstream: FaultyRegistry
) -> None:
    upstream.add_image("app", "latest", LAYER)
    upstream.says_no_size = True
    policies = [Policy(repositories=["hub/**"], quota_size=1 << 20)]
    running = await serve(settings, policies=policies, proxy=[Proxy(namespace="hub", upstream=upstream.url)])
    upstream.gate = asyncio.Event()
    client = Client(session, running.url)
    pull = asyncio.create_task(client("GET", f"/v2/hub/app/blobs/{digest_of(LAYER)}"))
    upstream.gate.set()
    assert (await pull).body == LAYER


async def test_an_upstream_with_a_token_server_is_asked_with_a_token(
    serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    auth = Auth(token=Token(), rules=[Rule(repositories=["team/**"], users=["ann"], actions=["*"])])
    there = await serve(settings, storage=str(tmp_path / "theirs"), auth=auth)
    await there.registry.accounts.put("ann", Account(hash_password("pw")))
    manifest = b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}'
    ann = aiohttp.encode_basic_auth("ann", "pw")
    pushing = Client(session, there.url)
    assert (await pushing("PUT", "/v2/team/app/manifests/v1", manifest, Authorization=ann)).status == 201
    statuses = []
    for username in ("ann", ""):
        proxy = Proxy(namespace="hub", upstream=there.url, username=username, password="pw" if username else "")
        storage = str(tmp_path / f"of {username}")
        client = Client(session, (await serve(settings, storage=storage, proxy=[proxy])).url)
        statuses.append((await client("GET", "/v2/hub/team/app/manifests/v1")).status)
    assert statuses == [200, 403]


async def test_a_whole_registry_can_be_a_mirror_and_lists_the_upstreams_tags(
    serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession, upstream: FaultyRegistry
) -> None:
    for tag in ("b", "a"):
        upstream.add_image("library/app", tag)
    client = Client(session, (await serve(settings, proxy=[Proxy(upstream=upstream.url)])).url)
    assert (await client("GET", "/v2/library/app/manifests/a")).status == 200
    answer = await client("GET", "/v2/library/app/tags/list")
    assert answer.json == {"name": "library/app", "tags": ["a", "b"]}
    assert (await client("GET", "/v2/library/app/referrers/" + "sha256:" + "0" * 64)).status == 404


async def test_what_is_in_another_repository_here_that_the_caller_may_read_is_not_fetched(
    client: Client, upstream: FaultyRegistry
) -> None:
    upstream.add_image("app", "latest", LAYER)
    await client.push_blob(LAYER, "own/app")
    assert (await client("GET", f"/v2/hub/app/blobs/{digest_of(LAYER)}")).body == LAYER
    assert upstream.asked_for("GET blobs") == 0


@pytest.mark.parametrize(
    ("proxies", "why"),
    [
        ([{"upstream": "https://ann:pw@host"}], "credentials belong"),
        ([{"upstream": "ftp://host"}], "neither a host nor a URL"),
        ([{"upstream": "host", "namespace": "a/"}], "without a slash"),
        ([{"upstream": "host"}, {"upstream": "other"}], "there twice"),
        ([{"upstream": "host", "password": "pw"}], "password without a username"),
        ([{"upstream": "host", "username": "u", "password": "pw", "password_env": "PW"}], "only one of"),
    ],
)
def test_a_proxy_that_makes_no_sense_is_refused_at_the_start(proxies: list[dict[str, Any]], why: str) -> None:
    with pytest.raises(SettingsInvalid, match=why):
        Places([Proxy(**proxy) for proxy in proxies])


def test_official_images_of_docker_hub_need_no_namespace() -> None:
    places = Places([Proxy(namespace="hub", upstream="docker.io"), Proxy(namespace="hub/other", upstream="quay.io")])
    found = [places.place(name) for name in ("hub/alpine", "hub/a/b", "hub/other/c")]
    assert [(place.remote, place.proxy.upstream) for place in found if place] == [
        ("library/alpine", "docker.io"),
        ("a/b", "docker.io"),
        ("c", "quay.io"),
    ]
    assert places.place("hub") is None
    assert places.named("index.docker.io", "library/alpine", "") == "hub/library/alpine"
    assert places.named("gcr.io", "x", "") is None
