"""Behind a proxy: whose address counts, and the URLs that clients are sent to."""

from collections.abc import Callable
from typing import Any

from scow.registry.settings import Auth, Limits, Settings, Token

from .conftest import Client, digest_of

UPLOADS = "/v2/test/repo/blobs/uploads/"


async def test_each_client_behind_a_proxy_has_limits_of_its_own(
    serve: Callable[..., Any], settings: Settings, client: Client
) -> None:
    limits = Limits(requests_per_s=0.01, burst=2)
    client.url = (await serve(settings, limits=limits, proxies=["127.0.0.0/8"])).url
    for address in ("203.0.113.5", "203.0.113.6"):
        answers = [await client("GET", "/v2/", X_Forwarded_For=address) for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]


async def test_without_trust_the_header_is_anybodys_word(
    serve: Callable[..., Any], settings: Settings, client: Client
) -> None:
    limits = Limits(requests_per_s=0.01, burst=2)
    client.url = (await serve(settings, limits=limits, proxies=["192.0.2.1"])).url
    answers = [await client("GET", "/v2/", X_Forwarded_For=f"203.0.113.{number}") for number in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]


async def test_tokens_are_asked_for_where_the_proxy_is_reached(
    serve: Callable[..., Any], settings: Settings, client: Client
) -> None:
    client.url = (await serve(settings, auth=Auth(token=Token()), proxies=["127.0.0.1"])).url
    answer = await client("GET", "/v2/", X_Forwarded_Proto="https", X_Forwarded_Host="hub.example")
    assert 'realm="https://hub.example/token"' in answer.headers["WWW-Authenticate"]


async def test_locations_are_whole_urls_if_so_configured(
    serve: Callable[..., Any], settings: Settings, client: Client
) -> None:
    client.url = (await serve(settings, absolute_urls=True)).url
    location = (await client("POST", UPLOADS)).headers["Location"]
    assert location.startswith(f"{client.url}{UPLOADS}")
    client.url = (await serve(settings, absolute_urls=True, url="https://hub.example/")).url
    answer = await client("POST", f"{UPLOADS}?digest={digest_of(b'x')}", b"x")
    assert answer.headers["Location"] == f"https://hub.example/v2/test/repo/blobs/{digest_of(b'x')}"
