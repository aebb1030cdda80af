"""Bad input of every kind gets the specification's error, and nothing is written."""

import asyncio
import json
import os
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from scow.registry import replies
from scow.registry.server import LINE_LIMIT
from scow.registry.settings import Settings
from scow.registry.uploads import HELD_LIMIT, SMALL_BATCH_SIZE

from .conftest import CONFIG, INDEX, LAYER, MANIFEST, Client, Running, descriptor, digest_of

SHA = "sha256:" + "0" * 64
GOOD = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}).encode()

NAMES = [
    "Upper",
    "a//b",
    "-a",
    "a-",
    "a.",
    "a..b",
    "a___b",
    ".git",
    "a/.b",
    "a%00b",
    "a b",
    "%C3%A4",
    "a/%252e%252e/b",
    "a" * 256,
]


def written(settings: Settings) -> list[Path]:
    return [path for path in Path(settings.storage).rglob("*") if path.is_file() and "registry.db" not in path.name]


@pytest.mark.parametrize("name", NAMES)
async def test_a_malformed_repository_name(client: Client, settings: Settings, name: str) -> None:
    for method, path in (
        ("GET", f"/v2/{name}/tags/list"),
        ("GET", f"/v2/{name}/manifests/latest"),
        ("PUT", f"/v2/{name}/manifests/latest"),
        ("GET", f"/v2/{name}/blobs/{SHA}"),
        ("POST", f"/v2/{name}/blobs/uploads/"),
        ("GET", f"/v2/{name}/referrers/{SHA}"),
    ):
        answer = await client(method, path, b"" if method == "PUT" else None)
        assert (answer.status, answer.codes) == (400, ["NAME_INVALID"])
    assert written(settings) == []


@pytest.mark.parametrize("tag", [".a", "-a", "a" * 129, "a b", "a%00", "%C3%A4", "a+b"])
async def test_a_malformed_tag(client: Client, tag: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        answer = await client(method, f"/v2/test/repo/manifests/{tag}", GOOD if method == "PUT" else None)
        assert (answer.status, answer.codes) == (400, ["TAG_INVALID"])


@pytest.mark.parametrize(
    "digest",
    [
        "sha256:",
        "sha256:0",
        "sha256:" + "0" * 63,
        "sha256:" + "0" * 65,
        "sha256:" + "G" * 64,
        "sha256:" + "A" * 64,
        "sha512:" + "0" * 64,
        "md5:" + "0" * 32,
        ":" + "0" * 64,
        "sha256:" + "0" * 62 + "..",
        "x:y:z",
    ],
)
async def test_a_malformed_digest(client: Client, digest: str, settings: Settings) -> None:
    for method in ("GET", "PUT", "DELETE"):
        answer = await client(method, f"/v2/test/repo/manifests/{digest}", GOOD if method == "PUT" else None)
        assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])
    for method in ("GET", "DELETE"):
        assert (await client(method, f"/v2/test/repo/blobs/{digest}")).codes == ["DIGEST_INVALID"]
    answer = await client("POST", f"/v2/test/repo/blobs/uploads/?digest={digest}", b"data")
    assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])
    assert written(settings) == []
    location = await client.begin()
    answer = await client("PUT", f"{location}?digest={digest}", b"data")
    assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])


@pytest.mark.parametrize("name", ["md5", "SHA256", "sha1", "x" * 5000])
async def test_an_unsupported_algorithm(client: Client, name: str) -> None:
    answer = await client("POST", f"/v2/test/repo/blobs/uploads/?digest-algorithm={name}")
    assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])


@pytest.mark.parametrize(
    "name", ["x", "..%2F..%2Fregistry.db", "00000000-0000-0000-0000-000000000000", "a%00b", "x" * 3000]
)
@pytest.mark.parametrize("method", ["GET", "PATCH", "PUT", "DELETE"])
async def test_an_upload_that_was_never_begun(client: Client, name: str, method: str) -> None:
    answer = await client(method, f"/v2/test/repo/blobs/uploads/{name.replace('%', '%25')}?digest={SHA}")
    assert (answer.status, answer.codes) == (404, ["BLOB_UPLOAD_UNKNOWN"])


MANIFESTS: dict[str, Any] = {
    "empty": b"",
    "no JSON": b"hello",
    "an array": b"[]",
    "a string": b'"x"',
    "null": b"null",
    "half": GOOD[:-1],
    "not UTF-8": GOOD[:-1] + b',"x":"\xff"}',
    "deep": b'{"schemaVersion":2,"manifests":[],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "schema 1": {"schemaVersion": 1, "name": "x", "tag": "y", "fsLayers": []},
    "no version": {"mediaType": MANIFEST, "config": descriptor(CONFIG, SHA), "layers": []},
    "version as text": {"schemaVersion": "2", "config": descriptor(CONFIG, SHA), "layers": []},
    "no config": {"schemaVersion": 2, "layers": []},
    "no layers": {"schemaVersion": 2, "config": descriptor(CONFIG, SHA)},
    "both shapes": {"schemaVersion": 2, "config": descriptor(CONFIG, SHA), "layers": [], "manifests": []},
    "layers no list": {"schemaVersion": 2, "config": descriptor(CONFIG, SHA), "layers": {}},
    "layer no object": {"schemaVersion": 2, "config": descriptor(CONFIG, SHA), "layers": ["x"]},
    "digest malformed": {"schemaVersion": 2, "config": descriptor(CONFIG, "sha256:x"), "layers": []},
    "digest a path": {"schemaVersion": 2, "config": descriptor(CONFIG, "sha256:../../x"), "layers": []},
    "digest missing": {"schemaVersion": 2, "config": {"mediaType": CONFIG, "size": 2}, "layers": []},
    "size negative": {"schemaVersion": 2, "config": descriptor(CONFIG, SHA, -1), "layers": []},
    "size fractional": {"schemaVersion": 2, "config": {**descriptor(CONFIG, SHA), "size": 1.5}, "layers": []},
    "size enormous": {"schemaVersion": 2, "config": descriptor(CONFIG, SHA, 1 << 64), "layers": []},
    "subject malformed": {
        "schemaVersion": 2,
        "config": descriptor(CONFIG, SHA),
        "layers": [descriptor(LAYER, SHA)],
        "subject": descriptor(MANIFEST, "x"),
    },
    "annotations no text": {
        "schemaVersion": 2,
        "config": descriptor(CONFIG, SHA),
        "layers": [],
        "annotations": {"a": 1},
    },
    "another type than announced": {"schemaVersion": 2, "mediaType": INDEX, "manifests": []},
}


@pytest.mark.parametrize("document", MANIFESTS.values(), ids=MANIFESTS)
async def test_a_malformed_manifest(client: Client, document: Any, settings: Settings) -> None:
    digest, answer = await client.push_manifest(document, "v1")
    assert (answer.status, answer.codes) == (400, ["MANIFEST_INVALID"])
    (error,) = answer.json["errors"]
    assert error["message"] == f"manifest invalid: {error['detail']}"  # clients show the message alone
    for reference in (digest, "v1"):
        assert (await client("GET", f"/v2/test/repo/manifests/{reference}")).status == 404
    assert (await client("GET", "/v2/_catalog")).json == {"repositories": []}


async def test_a_media_type_cannot_smuggle_headers(client: Client) -> None:
    document = {"schemaVersion": 2, "mediaType": "a/b\r\nX-Evil: 1", "manifests": []}
    _, answer = await client.push_manifest(document, "v1", media_type="application/json")
    assert (answer.status, answer.codes) == (400, ["MANIFEST_INVALID"])


@pytest.mark.parametrize(
    "path", ["/-/", "/v1/", "/v2/x", "/v2/x/y/z", "/v2//manifests/x", "/v2/tags/list", "/favicon.ico"]
)
async def test_a_path_of_no_endpoint(client: Client, path: str) -> None:
    answer = await client("GET", path)
    assert answer.status == 404
    assert answer.codes == ["UNSUPPORTED"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/"),
        ("DELETE", "/v2/_catalog"),
        ("POST", "/v2/a/tags/list"),
        ("POST", "/v2/a/manifests/x"),
        ("PUT", f"/v2/a/blobs/{SHA}"),
        ("GET", "/v2/a/blobs/uploads/"),
        ("DELETE", f"/v2/a/referrers/{SHA}"),
        ("PATCH", "/v2/a/manifests/x"),
    ],
)
async def test_a_method_that_the_endpoint_lacks(client: Client, method: str, path: str) -> None:
    answer = await client(method, path)
    assert (answer.status, answer.codes) == (405, ["UNSUPPORTED"])
    assert method not in answer.headers["Allow"].split(", ")


class TestConnections:
    async def exchange(self, running: Running, data: bytes, *, until: bytes = b"") -> bytes:
        """Send bytes as they are; what comes back until the server closes or `until` has come."""
        reader, writer = await asyncio.open_connection(*running.url.removeprefix("http://").split(":"))
        writer.write(data)
        answer = b""
        async with asyncio.timeout(60):
            while (part := await reader.read(65536)) and not (until and until in (answer := answer + part)):
                answer = answer if until else answer + part
        writer.close()
        return answer

    async def test_a_tls_hello_on_the_plain_port_fails_at_once(self, running: Running) -> None:
        context = ssl.create_default_context()
        host, port = running.url.removeprefix("http://").split(":")
        async with asyncio.timeout(60):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection(host, port, ssl=context)

    @pytest.mark.parametrize("data", [b"hello\r\n\r\n", b"GET\r\n\r\n", b"\x00" * 100 + b"\r\n\r\n"])
    async def test_what_is_no_http_gets_400_and_the_end(self, running: Running, data: bytes) -> None:
        assert (await self.exchange(running, data)).startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))

    @pytest.mark.parametrize(
        "head",
        [
            "Content-Length: 4\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 4",
            "Content-Length: 4\r\nContent-Length: 4",
            "Content-Length: 4, 4",
            "Content-Length : 4",
            "Content-Length: +4",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding:\r\n chunked",
            "X: a\r\n b\r\nContent-Length: 4",
            "Content-Length: 4\nX: y",
            "Host: y\r\nContent-Length: 4",
            "X: a\0b\r\nContent-Length: 4",
        ],
    )
    async def test_what_others_might_read_in_another_way_is_refused_and_ends_the_connection(
        self, running: Running, client: Client, head: str
    ) -> None:
        location = await client.begin()
        smuggled = "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n"
        answer = await self.exchange(
            running, f"PATCH {location} HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n0\r\n\r\n{smuggled}".encode()
        )
        said, _, body = answer.partition(b"\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"Docker-Distribution-Api-Version: registry/2.0" in said
        assert b"\r\nServer:" not in said
        (error,) = json.loads(body)["errors"]  # one document and no second answer
        assert (error["code"], error["message"][:19]) == ("UNSUPPORTED", "malformed request: ")
        assert (await client("GET", location)).headers["Range"] == "0-0"

    async def test_a_body_that_is_compressed_for_its_transfer_is_refused(
        self, running: Running, client: Client
    ) -> None:
        location = await client.begin()
        head = f"PATCH {location} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\nConnection: close\r\n\r\n"
        answer = await self.exchange(running, head.encode() + b"4\r\ndata\r\n0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 501 Not Implemented\r\n")
        assert (await client("GET", location)).headers["Range"] == "0-0"

    @pytest.mark.parametrize("line", ["GET /v2/{}", "GET /v2/ HTTP/1.1\r\nX: {}"])
    async def test_a_line_that_is_too_long_is_named_and_not_repeated(self, running: Running, line: str) -> None:
        answer = await self.exchange(running, f"{line.format('x' * (LINE_LIMIT + 100))} HTTP/1.1\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert b"xxx" not in answer

    async def test_an_old_client_is_not_told_to_go_on(self, running: Running, client: Client) -> None:
        location = await client.begin()
        head = f"PATCH {location} HTTP/1.0\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\ndata"
        answer = await self.exchange(running, head.encode())
        assert answer.startswith(b"HTTP/1.1 202 Accepted\r\n")
        assert b"\r\nConnection: close\r\n" in answer

    async def test_a_connection_serves_several_requests(self, running: Running) -> None:
        request = b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n"
        last = b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        answer = await self.exchange(running, request * 3 + last)
        assert answer.count(b"HTTP/1.1 200 OK") == 4

    async def test_the_client_is_told_to_go_on_before_it_sends(self, running: Running, client: Client) -> None:
        location = await client.begin()
        head = f"PUT {location}?digest={digest_of(b'data')} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
        reader, writer = await asyncio.open_connection(*running.url.removeprefix("http://").split(":"))
        writer.write(head.encode() + b"Expect: 100-continue\r\n\r\n")
        async with asyncio.timeout(60):
            assert (await reader.readuntil(b"\r\n\r\n")) == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"data")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 201 Created\r\n")
        writer.close()

    async def test_a_refusal_comes_before_the_body_was_asked_for(self, running: Running) -> None:
        head = "PUT /v2/NOPE/manifests/x HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        answer = await self.exchange(running, head.encode(), until=b"NAME_INVALID")
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")

    async def test_a_broken_chunked_body_stores_no_blob(self, running: Running, client: Client) -> None:
        location = await client.begin()
        head = f"PATCH {location} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ndata\r\nXYZ\r\n"
        answer = await self.exchange(running, head.encode())
        assert b" 400 " in answer.split(b"\r\n", 1)[0]
        assert (await client("GET", "/v2/")).status == 200

    async def test_head_has_no_body_even_when_refused(self, running: Running) -> None:
        answer = await self.exchange(
            running, b"HEAD /v2/x/manifests/y HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        assert answer.startswith(b"HTTP/1.1 404")
        assert answer.endswith(b"\r\n\r\n")


async def test_a_vanished_reader_leaves_nothing_open(client: Client, running: Running) -> None:
    data = bytes(20_000_000)
    digest = await client.push_blob(data)
    reader, writer = await asyncio.open_connection(*running.url.removeprefix("http://").split(":"))
    writer.write(f"GET /v2/test/repo/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    writer.transport.abort()
    async with asyncio.timeout(60):
        await running.server.aclose()
    await running.registry.objects.aclose()
    targets = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)]
    assert not [target for target in targets if digest[7:] in target]


def _is_open(fd: str) -> bool:
    return os.path.islink(f"/proc/self/fd/{fd}")


async def test_a_download_in_flight_ends_well_when_the_server_drains(client: Client, running: Running) -> None:
    data = bytes(30_000_000)
    digest = await client.push_blob(data)
    reader, writer = await asyncio.open_connection(*running.url.removeprefix("http://").split(":"))
    writer.write(f"GET /v2/test/repo/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    closing = asyncio.create_task(running.server.aclose())
    async with asyncio.timeout(60):
        assert len(await reader.readexactly(len(data))) == len(data)
        await closing
    writer.close()


async def test_an_upload_in_flight_ends_well_when_the_server_drains(client: Client, running: Running) -> None:
    location = await client.begin()
    reader, writer = await asyncio.open_connection(*running.url.removeprefix("http://").split(":"))
    head = f"PUT {location}?digest={digest_of(b'0123456789')} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n"
    writer.write(head.encode() + b"Expect: 100-continue\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    closing = asyncio.create_task(running.server.aclose())
    await asyncio.sleep(0)
    writer.write(b"0123456789")
    async with asyncio.timeout(60):
        answer = await reader.readuntil(b"\r\n\r\n")
        await closing
    assert answer.startswith(b"HTTP/1.1 201")
    assert b"Connection: close" in answer
    writer.close()


async def test_uploads_that_stall_hold_little_in_memory(running: Running, client: Client, settings: Settings) -> None:
    uploads, writers = running.registry.uploads, []
    sent = 60 * 900_000  # of each less than is usually written at once
    for _ in range(60):
        location = await client.begin()
        _, writer = await asyncio.open_connection(*running.url.removeprefix("http://").split(":"))
        writer.write(f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n".encode())
        writer.write(bytes(900_000))
        writers.append(writer)
    folder = Path(settings.storage) / "uploads"
    async with asyncio.timeout(60):
        while (staged := sum(path.stat().st_size for path in folder.iterdir())) + uploads.held_size < sent:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        assert uploads.held_size <= HELD_LIMIT + 60 * SMALL_BATCH_SIZE
        assert staged > 0
        for writer in writers:
            writer.transport.abort()
        while uploads.held_size:  # noqa: ASYNC110  # nothing else tells
            await asyncio.sleep(0.05)
    assert sum(path.stat().st_size for path in folder.iterdir()) == sent  # to go on from


async def test_answers_that_nobody_reads_are_not_made(running: Running, client: Client) -> None:
    await client.push_image("v1", annotations={"note": "x" * 50_000})
    _, writer = await asyncio.open_connection(*running.url.removeprefix("http://").split(":"), limit=1)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(b"GET /v2/test/repo/manifests/v1 HTTP/1.1\r\nHost: x\r\n\r\n" * 2000)
    await asyncio.sleep(1)
    answered = running.registry.metrics.value("sent_bytes")
    assert answered < 30_000_000  # as much as the kernel's buffers take, of 100 MB
    writer.transport.abort()


async def test_a_client_that_stops_reading_is_cut_off(
    running: Running, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replies, "PIECE_TIMEOUT_S", 0.2)
    await client.push_image("v1", annotations={"note": "x" * 250_000})
    reader, writer = await asyncio.open_connection(*running.url.removeprefix("http://").split(":"), limit=1)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(b"GET /v2/test/repo/manifests/v1 HTTP/1.1\r\nHost: x\r\n\r\n" * 200)
    metrics = running.registry.metrics
    async with asyncio.timeout(60):
        await asyncio.sleep(0.5)
        while metrics.value("requests_in_flight"):  # noqa: ASYNC110  # nothing else tells
            await asyncio.sleep(0.05)
    assert metrics.value("sent_bytes") < 40_000_000
    writer.transport.resume_reading()  # type: ignore[attr-defined]
    async with asyncio.timeout(60):
        with suppress(ConnectionError):
            await reader.read()
    writer.close()


async def test_a_flood_of_query_parameters_is_refused(client: Client) -> None:
    answer = await client("GET", "/v2/test/repo/tags/list?" + "n=1&" * 300)
    assert (answer.status, answer.codes) == (400, ["UNSUPPORTED"])


async def test_a_client_that_vanishes_fills_no_log(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    host, port = running.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    target = f"POST /v2/test/repo/blobs/uploads/?digest={SHA} HTTP/1.1"
    writer.write(f"{target}\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc".encode())
    in_flight = running.registry.metrics.value
    async with asyncio.timeout(60):
        while not in_flight("requests_in_flight"):  # noqa: ASYNC110  # nothing else tells
            await asyncio.sleep(0.01)
        writer.transport.abort()
        while in_flight("requests_in_flight"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert not caplog.records


async def test_what_is_no_http_fills_no_log(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    port = int(running.url.rsplit(":", 1)[1])
    for data in (
        b"BREW /v2/ HTTP/1.1\r\n\r\n",
        "GET /v2/é HTTP/1.1\r\n\r\n".encode(),
        b"GET / HTTP/1.1\r\n: x\r\n\r\n",
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        assert (await reader.read()).startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))
        writer.close()
        await writer.wait_closed()
    assert not caplog.records
