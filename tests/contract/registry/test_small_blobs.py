"""Blobs that lie in the database: from the first request to collection, beside those that have to go to storage."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from scow.oci.digest import parse_digest
from scow.registry import upload_requests
from scow.registry.settings import Gc, Names, Settings
from scow.registry.uploads import read_few

from .conftest import Client, Running, digest_of

REPO = "/v2/test/repo"
LIMIT = Names().blob_size


def stored(settings: Settings) -> list[str]:
    """Files that uploads and blobs of a folder have."""
    root = Path(settings.storage)
    return [path.name for folder in ("blobs", "uploads") for path in (root / folder).rglob("*") if path.is_file()]


async def as_stream(data: bytes, pieces: int = 2) -> AsyncIterator[bytes]:
    for start in range(0, len(data), -(-len(data) // pieces) or 1):
        yield data[start : start + -(-len(data) // pieces)]


async def put_whole(client: Client, data: bytes, digest: str) -> int:
    return (await client("PUT", f"{await client.begin()}?digest={digest}", data)).status


async def post_whole(client: Client, data: bytes, digest: str) -> int:
    return (await client("POST", f"{REPO}/blobs/uploads/?digest={digest}", data)).status


async def stream(client: Client, data: bytes, digest: str) -> int:
    location = await client.begin()
    assert (await client("PATCH", location, as_stream(data))).status == 202
    return (await client("PUT", f"{location}?digest={digest}")).status


async def send_chunks(client: Client, data: bytes, digest: str) -> int:
    """In four chunks with ranges, the last one with the end."""
    location, size = await client.begin(), -(-len(data) // 4)
    *chunks, last = [(start, data[start : start + size]) for start in range(0, len(data), size)]
    for start, chunk in chunks:
        answer = await client("PATCH", location, chunk, Content_Range=f"{start}-{start + len(chunk) - 1}")
        assert (answer.status, answer.headers["Range"]) == (202, f"0-{start + len(chunk) - 1}")
        assert (await client("GET", location)).headers["Range"] == f"0-{start + len(chunk) - 1}"
    start, chunk = last
    stated = f"{start}-{start + len(chunk) - 1}"
    return (await client("PUT", f"{location}?digest={digest}", chunk, Content_Range=stated)).status


WAYS = (put_whole, post_whole, stream, send_chunks)


@pytest.mark.parametrize("size", [5, LIMIT, LIMIT + 1, 4 * LIMIT + 3])
@pytest.mark.parametrize("push", WAYS)
async def test_what_is_pushed_is_pulled_wherever_it_lies(
    push: Callable[..., Any], size: int, client: Client, settings: Settings
) -> None:
    data = os.urandom(size)
    digest = digest_of(data)
    assert await push(client, data, digest) == 201
    assert (await client("GET", f"{REPO}/blobs/{digest}")).body == data
    assert (await client("HEAD", f"{REPO}/blobs/{digest}")).headers["Content-Length"] == str(size)
    part = await client("GET", f"{REPO}/blobs/{digest}", Range="bytes=2-3")
    assert (part.status, part.body) == (206, data[2:4])
    if size <= LIMIT:
        assert stored(settings) == []
    else:
        assert [name.partition(".")[0] for name in stored(settings)] == [digest.partition(":")[2]]


async def test_the_empty_blob(client: Client, settings: Settings) -> None:
    digest = digest_of(b"")
    assert await put_whole(client, b"", digest) == 201
    answer = await client("GET", f"{REPO}/blobs/{digest}")
    assert (answer.status, answer.body) == (200, b"")
    assert stored(settings) == []


@pytest.mark.parametrize("push", [put_whole, stream, send_chunks])
async def test_wrong_bytes_end_the_upload(push: Callable[..., Any], client: Client, settings: Settings) -> None:
    assert await push(client, b"some bytes", digest_of(b"others")) == 400
    assert (await client("GET", f"{REPO}/blobs/{digest_of(b'some bytes')}")).status == 404
    assert stored(settings) == []


async def test_sha512_that_nobody_announced(client: Client) -> None:
    digest = digest_of(b"sixty-four", "sha512")
    assert await stream(client, b"sixty-four", digest) == 201
    assert (await client("GET", f"{REPO}/blobs/{digest}")).body == b"sixty-four"


ENDINGS = {
    "finished": lambda client, location: client("PUT", f"{location}?digest={digest_of(b'bytes')}", b"bytes"),
    "cancelled": lambda client, location: client("DELETE", location),
    "wrong": lambda client, location: client("PUT", f"{location}?digest={digest_of(b'other')}", b"bytes"),
}


@pytest.mark.parametrize("begun", [False, True], ids=["at once", "after a chunk"])
@pytest.mark.parametrize("ending", ENDINGS)
async def test_what_has_ended_stays_ended(ending: str, begun: bool, client: Client, running: Running) -> None:
    location = await client.begin()
    if begun:
        await client("PATCH", location, b"")
    await ENDINGS[ending](client, location)
    await running.registry.collector.collect()
    digest = digest_of(b"late")
    for method, query, body in (
        ("GET", "", None),
        ("PATCH", "", b"late"),
        ("PATCH", "", bytes(2 * LIMIT)),
        ("PUT", f"?digest={digest}", b"late"),
        ("DELETE", "", None),
    ):
        assert (await client(method, location + query, body)).codes == ["BLOB_UPLOAD_UNKNOWN"], method
    assert (await client("GET", f"{REPO}/blobs/{digest}")).status == 404


@pytest.mark.parametrize("kind_of_storage", ["folder", "postgres"], indirect=True)
async def test_an_upload_that_was_begun_goes_on_at_another_server(
    serve: Callable[..., Any], settings: Settings, client: Client, running: Running
) -> None:
    """On the same storage, each knowing nothing of the other: few bytes, more of them, too many to be few."""
    other = Client(client._session, (await serve(settings)).url)
    location = await client.begin()
    data = b""
    for number, chunk in enumerate((b"some", b" bytes", b"x" * LIMIT, b" and the last")):
        one = (client, other)[number % 2]
        assert (await one("GET", location)).headers["Range"] == f"0-{max(len(data) - 1, 0)}"
        answer = await one("PATCH", location, chunk, Content_Range=f"{len(data)}-{len(data) + len(chunk) - 1}")
        assert answer.status == 202
        data += chunk
    assert (await client("PUT", f"{location}?digest={digest_of(data)}")).status == 201
    assert (await other("GET", f"{REPO}/blobs/{digest_of(data)}")).body == data


@pytest.mark.parametrize("kind_of_storage", ["folder", "postgres"], indirect=True)
async def test_a_chunk_out_of_order_changes_nothing(client: Client) -> None:
    location = await client.begin()
    for stated, status in (("3-5", 416), ("0-2", 202), ("0-2", 416), ("4-6", 416), ("3-5", 202)):
        answer = await client("PATCH", location, b"abc", Content_Range=stated)
        assert answer.status == status
        assert answer.headers["Location"] == location
    late = await client("PUT", f"{location}?digest={digest_of(b'abcabcabc')}", b"abc", Content_Range="3-5")
    assert (late.status, late.headers["Range"]) == (416, "0-5")
    assert (await client("PATCH", location, b"abc", Content_Range="6-9")).codes == ["SIZE_INVALID"]
    assert (await client("PUT", f"{location}?digest={digest_of(b'abcabc')}")).status == 201


async def test_a_cut_chunk_keeps_what_has_come(
    client: Client, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = asyncio.Event()

    async def told(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for data in body:
            yield data
            read.set()

    monkeypatch.setattr(upload_requests, "read_few", lambda body, limit: read_few(told(body), limit))
    location = await client.begin()
    _, writer = await asyncio.open_connection(*running.url.removeprefix("http://").split(":"))
    writer.write(f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n0123456789".encode())
    async with asyncio.timeout(60):
        await read.wait()  # bytes of a closed connection that wait are lost
        writer.close()
        await writer.wait_closed()
        while (answer := await client("GET", location)).headers["Range"] == "0-0":
            pass
    assert answer.headers["Range"] == "0-9"
    assert (await client("PUT", f"{location}?digest={digest_of(b'0123456789abc')}", b"abc")).status == 201


@pytest.mark.parametrize("kind_of_storage", ["folder", "postgres"], indirect=True)
async def test_what_comes_while_an_upload_moves_to_a_stage_is_not_lost(
    client: Client, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads, location, sizes = running.registry.uploads, await client.begin(), []
    await client("PATCH", location, b"abc")
    late = uploads.objects.open_stage

    async def open_stage(upload_id: str, *, create: bool = False) -> Any:
        stage = await late(upload_id, create=create)
        if create and not sizes:
            sizes.append(await uploads.append_small("test/repo", upload_id, 3, b"def"))
        return stage

    monkeypatch.setattr(uploads.objects, "open_stage", open_stage)
    many = bytes(LIMIT)
    answer = await client("PATCH", location, many, Content_Range=f"3-{LIMIT + 2}")
    assert sizes == [6]
    assert (answer.status, answer.headers["Range"]) == (416, "0-5")
    assert (await client("PATCH", location, many, Content_Range=f"6-{LIMIT + 5}")).status == 202
    assert (await client("PUT", f"{location}?digest={digest_of(b'abcdef' + many)}")).status == 201


async def test_of_two_that_end_an_upload_at_once_one_does(client: Client) -> None:
    location, bodies = await client.begin(), [b"one", b"two", b"three", b"four"]
    ends = [client("PUT", f"{location}?digest={digest_of(body)}", body) for body in bodies]
    answers = await asyncio.gather(*ends)
    assert sorted(answer.status for answer in answers) == [201, 404, 404, 404]


@pytest.mark.parametrize("kind_of_storage", ["folder", "postgres"], indirect=True)
async def test_one_object_serves_all_repositories(client: Client, running: Running) -> None:
    digest = await client.push_blob(b"shared", "one")
    first = await running.registry.metadata.blob("one", parse_digest(digest))
    assert (await client("GET", f"/v2/two/blobs/{digest}")).status == 404
    await client.push_blob(b"shared", "two")
    answer = await client("POST", f"/v2/three/blobs/uploads/?mount={digest}&from=two")
    assert answer.status == 201
    for name in ("two", "three"):
        again = await running.registry.metadata.blob(name, parse_digest(digest))
        assert first is not None
        assert again is not None
        assert again.object == first.object
    assert (await client("GET", f"/v2/three/blobs/{digest}")).body == b"shared"


@pytest.mark.parametrize("kind_of_storage", ["folder", "postgres"], indirect=True)
class TestCollection:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return msgspec.structs.replace(settings, gc=Gc(interval_s=0, grace_s=0))

    async def test_what_nobody_refers_to_goes_and_comes_again(self, client: Client, running: Running) -> None:
        await client.push_image("latest")
        for _ in range(2):
            unused = await client.push_blob(b"unused")
            assert (await client("GET", f"{REPO}/blobs/{unused}")).body == b"unused"
            assert (await running.registry.collector.collect()).blobs == 1
            assert (await client("GET", f"{REPO}/blobs/{unused}")).status == 404
        rows = await running.registry._database.rows("SELECT name FROM small_object")
        assert len(rows) == 2
        assert (await client("GET", f"{REPO}/manifests/latest")).status == 200

    async def test_bytes_of_an_upload_that_nobody_goes_on_with_expire(
        self, client: Client, serve: Callable[..., Any], settings: Settings
    ) -> None:
        hasty = await serve(msgspec.structs.replace(settings, gc=Gc(interval_s=0, grace_s=60, upload_expiry_s=-1)))
        location = await client.begin()
        await client("PATCH", location, b"half")
        assert (await hasty.registry.collector.collect()).uploads == 1
        assert (await client("GET", location)).codes == ["BLOB_UPLOAD_UNKNOWN"]


async def test_damage_is_found(client: Client, running: Running) -> None:
    good, bad = [await client.push_blob(data) for data in (b"good", b"bad")]
    await running.registry._database.write(
        lambda session: session.run("UPDATE small_object SET data = ? WHERE name LIKE ?", b"BAD", f"{bad}%")
    )
    assert [digest async for digest in running.registry.collector.damaged()] == [bad]
    assert good != bad


@pytest.mark.parametrize("statement", ["UPDATE small_object SET data = x'00'", "DELETE FROM small_object"])
@pytest.mark.parametrize("staged", [False, True])
async def test_what_has_rotted_is_not_served_and_is_good_again_once_it_is_pushed(
    client: Client, running: Running, statement: str, staged: bool
) -> None:
    digest = await client.push_blob(b"good")
    await running.registry._database.write(lambda session: session.run(statement))
    for method, status in (("HEAD", 404), ("GET", 500)):
        assert (await client(method, f"{REPO}/blobs/{digest}")).status == status
    assert (await client("POST", f"/v2/other/blobs/uploads/?mount={digest}&from=test/repo")).status == 202
    if staged:
        running.registry.uploads._small_limit = 0  # as of another server, which keeps no small blobs
    await client.push_blob(b"good")
    assert (await client("HEAD", f"{REPO}/blobs/{digest}")).status == 200
    assert (await client("GET", f"{REPO}/blobs/{digest}")).body == b"good"
    assert [each async for each in running.registry.collector.damaged()] == []
    assert (await client("POST", f"/v2/other/blobs/uploads/?mount={digest}&from=test/repo")).status == 201


async def test_what_is_gone_is_there_again_once_it_is_pushed(client: Client, running: Running) -> None:
    digest = await client.push_blob(b"small")
    await running.registry._database.write(lambda session: session.run("DELETE FROM small_object"))
    assert (await client("GET", f"{REPO}/blobs/{digest}")).status == 500
    await client.push_blob(b"small")
    assert (await client("GET", f"{REPO}/blobs/{digest}")).body == b"small"


async def test_what_lies_in_the_database_is_read_when_no_more_of_it_is_wanted(
    client: Client, serve: Callable[..., Any], settings: Settings
) -> None:
    digest = await client.push_blob(b"early")
    none = msgspec.structs.replace(settings.database, blob_size=0)
    client.url = (await serve(msgspec.structs.replace(settings, database=none))).url
    assert (await client("GET", f"{REPO}/blobs/{digest}")).body == b"early"
    assert await client.push_blob(b"early", "other") == digest
    assert (await client("GET", f"/v2/other/blobs/{digest}")).body == b"early"
