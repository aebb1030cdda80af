"""Several registries on one storage: what one of them is told, all of them say."""

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec
import pytest

from scow.registry.settings import Gc, Settings
from support.postgres import Postgres

from .conftest import Client, Running, digest_of

REPO = "/v2/test/repo"

both = pytest.mark.parametrize("kind_of_storage", ["folder", "cluster"], indirect=True)


@pytest.fixture
async def other(serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession) -> Client:
    """A client of a second registry on the storage of the first."""
    return Client(session, (await serve(settings)).url)


@both
async def test_a_tag_is_the_same_at_all_replicas_at_once(client: Client, other: Client) -> None:
    first = await client.push_image("latest", seed="1")
    for replica in (client, other):
        assert (await replica("HEAD", f"{REPO}/manifests/latest")).headers["Docker-Content-Digest"] == first
    for round in range(10):
        writer, reader = (client, other) if round % 2 else (other, client)
        digest = await writer.push_image("latest", seed=f"again {round}")
        assert (await reader("GET", f"{REPO}/manifests/latest")).headers["Docker-Content-Digest"] == digest
    assert (await other("DELETE", f"{REPO}/manifests/latest")).status == 202
    assert (await client("GET", f"{REPO}/manifests/latest")).status == 404


@both
async def test_any_replica_goes_on_with_an_upload(client: Client, other: Client) -> None:
    data = [bytes([number]) * 100_000 for number in range(6)]
    location = await client.begin()
    for number, part in enumerate(data):
        replica = (other, client)[number % 2]
        answer = await replica("PATCH", location, part)
        assert answer.status == 202
        assert answer.headers["Range"] == f"0-{(number + 1) * 100_000 - 1}"
    digest = digest_of(b"".join(data))
    assert (await other("PUT", f"{location}?digest={digest}")).status == 201
    assert (await client("GET", f"{REPO}/blobs/{digest}")).body == b"".join(data)


@both
async def test_what_is_deleted_at_one_replica_is_soon_unknown_to_the_others(client: Client, other: Client) -> None:
    digest = await client.push_image("latest")
    assert (await other("GET", f"{REPO}/manifests/{digest}")).status == 200
    assert (await client("DELETE", f"{REPO}/manifests/{digest}")).status == 202
    async with asyncio.timeout(60):
        while (await other("GET", f"{REPO}/manifests/{digest}")).status != 404:
            pass


@both
async def test_collectors_of_two_replicas_share_the_work(
    serve: Callable[..., Any], settings: Settings, running: Running, client: Client
) -> None:
    hasty = msgspec.structs.replace(settings, gc=Gc(interval_s=0, grace_s=0))
    one, two = await serve(hasty), await serve(hasty)
    client.url = one.url
    for number in range(20):
        await client.push_blob(b"nobody's %d" % number)
    kept = await client.push_image("latest")
    done = await asyncio.gather(*(each.registry.collector.collect() for each in (one, two)))
    assert sum(each.blobs for each in done) == 20
    assert [each async for each in two.registry.collector.damaged()] == []
    assert (await client("GET", f"{REPO}/manifests/latest")).headers["Docker-Content-Digest"] == kept


@pytest.mark.parametrize("kind_of_storage", ["postgres"], indirect=True)
async def test_a_database_that_was_away_is_connected_to_again(client: Client, postgres: Postgres) -> None:
    digest = await client.push_image("latest")
    await asyncio.to_thread(postgres.pause)
    try:
        answer = await client("GET", f"{REPO}/manifests/latest")
        assert (answer.status, answer.codes) == (503, ["UNAVAILABLE"])
        assert str(postgres.folder).encode() not in answer.body
        assert answer.headers["Retry-After"] == "1"
        assert (await client("GET", "/readyz")).status == 503
        assert (await client("GET", "/healthz")).status == 200
    finally:
        await asyncio.to_thread(postgres.resume)
    assert (await client("GET", f"{REPO}/manifests/latest")).headers["Docker-Content-Digest"] == digest
    await client.push_image("again")
