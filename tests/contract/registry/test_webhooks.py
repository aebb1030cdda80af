"""Notifications in docker's format: what is told, in which order, and what becomes of endpoints that don't listen."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from scow.registry.accounts import Account
from scow.registry.metrics import Metrics
from scow.registry.passwords import hash_password
from scow.registry.settings import Auth, Rule, Settings, SettingsInvalid, Webhook
from scow.registry.webhooks.webhooks import Webhooks

from .conftest import MANIFEST, Client, Running


class Endpoint:
    """Takes notifications, or refuses them."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.statuses: list[int] = []  # of the next answers; then 200
        self.stalls = False
        self.url = ""

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        self.requests.append((dict(request.headers), body))
        if self.stalls:
            await asyncio.sleep(600)
        status = self.statuses.pop(0) if self.statuses else 200
        if status < 400:
            self.events += json.loads(body)["events"]
        return web.Response(status=status)

    async def until(self, count: int) -> list[dict[str, Any]]:
        """The events, once there are so many."""
        async with asyncio.timeout(60):
            while len(self.events) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return self.events


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    made = Endpoint()
    runner = web.ServerRunner(web.Server(made.answer), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield made
    await runner.cleanup()


def hook(endpoint: Endpoint, **more: Any) -> Webhook:
    return Webhook(name="test", url=endpoint.url, **more)


async def test_pushes_pulls_mounts_and_deletes_are_told_in_order(
    serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession, endpoint: Endpoint
) -> None:
    running = await serve(settings, webhooks=[hook(endpoint, headers={"Authorization": "Bearer secret"})])
    client = Client(session, running.url)
    digest = await client.push_image("v1", seed="a")
    layer = (await client.image(seed="a"))["layers"][0]["digest"]
    await client("POST", f"/v2/other/repo/blobs/uploads/?mount={layer}&from=test/repo")
    await client("DELETE", "/v2/test/repo/manifests/v1")
    await client("DELETE", f"/v2/test/repo/manifests/{digest}")
    events = await endpoint.until(8)
    assert [event["action"] for event in events] == ["push"] * 5 + ["mount"] + ["delete"] * 2
    push, mount = events[2], events[5]
    data = (await client("GET", f"/v2/test/repo/blobs/{layer}")).body
    assert push["target"] == {
        "mediaType": MANIFEST,
        "size": push["target"]["length"],
        "length": push["target"]["length"],
        "digest": digest,
        "repository": "test/repo",
        "url": f"{running.url}/v2/test/repo/manifests/{digest}",
        "tag": "v1",
        "references": push["target"]["references"],
    }
    assert [each["digest"] for each in push["target"]["references"]][1] == layer
    assert push["request"]["method"] == "PUT"
    assert push["request"]["host"] == running.url.removeprefix("http://")
    assert push["request"]["addr"] == "127.0.0.1"
    assert push["source"]["addr"]
    assert push["actor"] == {}
    assert time.strptime(push["timestamp"][:19], "%Y-%m-%dT%H:%M:%S")
    assert mount["target"]["fromRepository"] == "test/repo"
    assert events[6]["target"] == {"repository": "test/repo", "tag": "v1"}
    assert events[7]["target"]["digest"] == digest
    pull = (await endpoint.until(9))[8]
    assert (pull["action"], pull["target"]["digest"], pull["target"]["size"]) == ("pull", layer, len(data))
    headers, _ = endpoint.requests[0]
    assert headers["Content-Type"] == "application/vnd.docker.distribution.events.v1+json"
    assert headers["Authorization"] == "Bearer secret"


async def test_a_large_manifest_is_told_of_like_a_small_one(
    serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession, endpoint: Endpoint
) -> None:
    running = await serve(settings, webhooks=[hook(endpoint, ignore_media_types=["application/octet-stream"])])
    client = Client(session, running.url)
    digest = await client.push_image("v1", annotations={"note": "x" * 1_000_000})
    data = (await client("GET", "/v2/test/repo/manifests/v1")).body
    push, pull = await endpoint.until(2)
    for event in (push, pull):
        assert (event["target"]["digest"], event["target"]["size"]) == (digest, len(data))
    assert len(push["target"]["references"]) == 2


async def test_the_actor_is_who_logged_in(
    serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession, endpoint: Endpoint
) -> None:
    auth = Auth(rules=[Rule(repositories=["**"], users=["*"], actions=["*"])])
    running = await serve(settings, auth=auth, webhooks=[hook(endpoint)])
    await running.registry.accounts.put("ann", Account(hash_password("pw")))
    client = Client(session, running.url)
    answer = await client("POST", "/v2/a/blobs/uploads/", Authorization=aiohttp.encode_basic_auth("ann", "pw"))
    await client(
        "PUT",
        f"{answer.headers['Location']}?digest=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        Authorization=aiohttp.encode_basic_auth("ann", "pw"),
    )
    assert (await endpoint.until(1))[0]["actor"] == {"name": "ann"}
    # What is refused has not happened.
    assert (await client("GET", "/v2/a/blobs/sha256:" + "0" * 64)).status == 401
    await client("GET", "/v2/a/blobs/sha256:" + "0" * 64, Authorization=aiohttp.encode_basic_auth("ann", "pw"))
    await asyncio.sleep(0.5)
    assert len(endpoint.events) == 1


async def test_an_endpoint_chooses_what_it_is_told(
    serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession, endpoint: Endpoint
) -> None:
    chosen = hook(endpoint, actions=["push"], repositories=["team/**"], ignore_media_types=["application/octet-stream"])
    client = Client(session, (await serve(settings, webhooks=[chosen])).url)
    await client.push_image("v1", "other/app")
    await client.push_image("v1", "team/app")
    await client("GET", "/v2/team/app/manifests/v1")
    await client.push_image("v2", "team/app")
    events = await endpoint.until(2)
    assert [(event["target"]["repository"], event["target"]["tag"]) for event in events] == [
        ("team/app", "v1"),
        ("team/app", "v2"),
    ]


async def test_what_is_not_taken_is_sent_again_and_nothing_overtakes_it(
    serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession, endpoint: Endpoint
) -> None:
    endpoint.statuses = [500, 400]
    client = Client(session, (await serve(settings, webhooks=[hook(endpoint, retry_s=0.1, actions=["push"])])).url)
    digests = [await client.push_blob(bytes([number])) for number in range(3)]
    events = await endpoint.until(3)
    assert [event["target"]["digest"] for event in events] == digests
    assert len({json.loads(body)["events"][0]["id"] for _, body in endpoint.requests[:3]}) == 1


async def test_an_endpoint_that_is_dead_holds_up_nobody_and_hears_it_after_a_restart(
    serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession, endpoint: Endpoint
) -> None:
    endpoint.stalls = True
    other = Endpoint()
    other.url = "http://127.0.0.1:1/none"
    hooks = [hook(endpoint, actions=["push"]), Webhook(name="gone", url=other.url)]
    running = await serve(settings, webhooks=hooks)
    client = Client(session, running.url)
    async with asyncio.timeout(60):  # each of its answers takes longer
        digests = [await client.push_blob(bytes([number])) for number in range(10)]
    await running.server.aclose()
    await running.registry.aclose()
    endpoint.stalls = False
    await serve(settings, webhooks=[hook(endpoint, batch=100)])
    events = await endpoint.until(10)
    assert [event["target"]["digest"] for event in events] == digests


async def test_a_full_queue_drops_the_oldest(
    serve: Callable[..., Any], settings: Settings, session: aiohttp.ClientSession, endpoint: Endpoint
) -> None:
    endpoint.statuses = [503] * 10_000
    running = await serve(settings, webhooks=[hook(endpoint, queue=3, retry_s=0.1, actions=["push"], batch=9)])
    client = Client(session, running.url)
    digests = [await client.push_blob(bytes([number])) for number in range(8)]
    endpoint.statuses.clear()
    events = await endpoint.until(3)
    assert [event["target"]["digest"] for event in events][-1] == digests[-1]
    assert running.registry.metrics.value("webhook_events_dropped") >= 4


def test_endpoints_that_make_no_sense_are_refused(running: Running) -> None:
    registry = running.registry
    for addresses in (["ftp://x"], ["http://x", "http://y"]):
        hooks = [Webhook(name="a", url=address) for address in addresses]
        with pytest.raises(SettingsInvalid):
            Webhooks(hooks, registry.notices, registry.jobs, registry.metadata, Metrics())
