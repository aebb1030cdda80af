"""distribution-spec spec.md#pull."""

import json

import aiohttp
import pytest
from multidict import CIMultiDict

from .conftest import INDEX, MANIFEST, Client, digest_of

REPO = "/v2/test/repo"


async def test_the_root_says_that_the_specification_is_implemented(client: Client) -> None:
    answer = await client("GET", "/v2/")
    assert (answer.status, answer.json, answer.headers["Content-Type"]) == (200, {}, "application/json")


async def test_a_manifest_is_served_bit_for_bit_by_tag_and_digest(client: Client) -> None:
    image = await client.image()
    # Odd blanks, key order and an escape: a registry that writes JSON anew would change them.
    data = b'{ "layers":[],\n\t"mediaType":"' + MANIFEST.encode() + b'", "schemaVersion":2,"x":"\\u00e9", "config":'
    data += str(image["config"]).replace("'", '"').encode() + b"}\n"
    digest, answer = await client.push_manifest(data, "odd")
    assert answer.status == 201, answer.body
    for reference in ("odd", digest):
        answer = await client("GET", f"{REPO}/manifests/{reference}")
        assert (answer.status, answer.body) == (200, data)
        assert answer.headers["Content-Type"] == MANIFEST
        assert answer.headers["Docker-Content-Digest"] == digest
        head = await client("HEAD", f"{REPO}/manifests/{reference}")
        assert (head.status, head.body) == (200, b"")
        for name in ("Content-Type", "Docker-Content-Digest", "Content-Length", "ETag"):
            assert head.headers[name] == answer.headers[name]


async def test_a_large_manifest_is_served_like_a_small_one(client: Client) -> None:
    image = await client.image(annotations={"fill": "é" * 500_000})
    data = json.dumps(image, ensure_ascii=False).encode()
    digest, answer = await client.push_manifest(data, "large")
    assert answer.status == 201, answer.body
    for reference in ("large", digest) * 2:
        answer = await client("GET", f"{REPO}/manifests/{reference}")
        assert (answer.status, answer.body) == (200, data)
        assert (answer.headers["Content-Type"], answer.headers["Docker-Content-Digest"]) == (MANIFEST, digest)
        head = await client("HEAD", f"{REPO}/manifests/{reference}")
        assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(data)))
        unchanged = await client("GET", f"{REPO}/manifests/{reference}", If_None_Match=f'"{digest}"')
        assert unchanged.status == 304
    assert (await client("DELETE", f"{REPO}/manifests/{digest}")).status == 202
    assert (await client("GET", f"{REPO}/manifests/{digest}")).status == 404


@pytest.mark.parametrize("accept", ["", "*/*", INDEX, "application/vnd.docker.distribution.manifest.v1+json"])
async def test_what_was_pushed_is_served_whatever_accept_says(client: Client, accept: str) -> None:
    await client.push_image("latest")
    answer = await client("GET", f"{REPO}/manifests/latest", Accept=accept)
    assert (answer.status, answer.headers["Content-Type"]) == (200, MANIFEST)


@pytest.mark.parametrize("reference", ["nothing", "sha256:" + "0" * 64])
@pytest.mark.parametrize("repository", ["test/repo", "never/heard-of"])
async def test_an_absent_manifest_is_unknown(client: Client, repository: str, reference: str) -> None:
    await client.push_image("latest")
    answer = await client("GET", f"/v2/{repository}/manifests/{reference}")
    assert (answer.status, answer.codes) == (404, ["MANIFEST_UNKNOWN"])
    head = await client("HEAD", f"/v2/{repository}/manifests/{reference}")
    assert (head.status, head.body) == (404, b"")


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 5000], ids=["empty", "one", "large"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_a_blob_is_served_with_its_size_and_digest(client: Client, data: bytes, algorithm: str) -> None:
    digest = await client.push_blob(data, algorithm=algorithm)
    answer = await client("GET", f"{REPO}/blobs/{digest}", Accept_Encoding="gzip, zstd")
    assert (answer.status, answer.body) == (200, data)
    assert answer.headers["Docker-Content-Digest"] == digest
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert "Content-Encoding" not in answer.headers
    head = await client("HEAD", f"{REPO}/blobs/{digest}")
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(data)))
    assert head.headers["Docker-Content-Digest"] == digest


async def test_an_absent_blob_is_unknown(client: Client) -> None:
    await client.push_blob(b"present")
    path = f"{REPO}/blobs/{digest_of(b'absent')}"
    assert (await client("GET", path)).codes == ["BLOB_UNKNOWN"]
    head = await client("HEAD", path)
    assert (head.status, head.body) == (404, b"")


async def test_a_blob_can_be_read_only_where_the_repository_has_it(client: Client) -> None:
    digest = await client.push_blob(b"private", "mine")
    await client.push_blob(b"other", "theirs")
    for method in ("GET", "HEAD", "DELETE"):
        assert (await client(method, f"/v2/theirs/blobs/{digest}")).status == 404
    assert (await client("GET", f"/v2/mine/blobs/{digest}")).body == b"private"


@pytest.mark.parametrize(
    ("wanted", "content_range", "body"),
    [
        ("bytes=0-0", "bytes 0-0/10", b"0"),
        ("bytes=2-4", "bytes 2-4/10", b"234"),
        ("bytes=7-", "bytes 7-9/10", b"789"),
        ("bytes=5-99", "bytes 5-9/10", b"56789"),
        ("bytes=-3", "bytes 7-9/10", b"789"),
        ("bytes=-99", "bytes 0-9/10", b"0123456789"),
    ],
)
async def test_a_range_gets_that_part(client: Client, wanted: str, content_range: str, body: bytes) -> None:
    digest = await client.push_blob(b"0123456789")
    answer = await client("GET", f"{REPO}/blobs/{digest}", Range=wanted)
    assert (answer.status, answer.headers["Content-Range"], answer.body) == (206, content_range, body)
    assert answer.headers["Content-Length"] == str(len(body))


@pytest.mark.parametrize("wanted", ["bytes=a-b", "lines=1-2", "bytes=0-1,3-4", "bytes=-", "1-2", "bytes=1--2"])
async def test_a_range_that_is_not_understood_gets_the_whole(client: Client, wanted: str) -> None:
    digest = await client.push_blob(b"0123456789")
    answer = await client("GET", f"{REPO}/blobs/{digest}", Range=wanted)
    assert (answer.status, answer.body) == (200, b"0123456789")


@pytest.mark.parametrize("wanted", ["bytes=10-", "bytes=10-12", "bytes=4-2", "bytes=-0", "bytes=99999999999999999-"])
async def test_a_range_behind_the_end_is_refused_with_the_size(client: Client, wanted: str) -> None:
    digest = await client.push_blob(b"0123456789")
    answer = await client("GET", f"{REPO}/blobs/{digest}", Range=wanted)
    assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */10")
    assert answer.codes == ["SIZE_INVALID"]


async def test_a_range_counts_only_if_the_content_is_still_the_same(client: Client) -> None:
    digest = await client.push_blob(b"0123456789")
    path = f"{REPO}/blobs/{digest}"
    assert (await client("GET", path, Range="bytes=1-2", If_Range=f'"{digest}"')).status == 206
    assert (await client("GET", path, Range="bytes=1-2", If_Range='"other"')).status == 200


@pytest.mark.parametrize("form", ['"{}"', 'W/"{}"', "{}", '"x", "{}"', "*"])
async def test_known_content_is_not_sent_again(client: Client, form: str) -> None:
    digest = await client.push_image("latest")
    blob = await client.push_blob(b"data")
    for path, known in ((f"{REPO}/manifests/latest", digest), (f"{REPO}/blobs/{blob}", blob)):
        answer = await client("GET", path, If_None_Match=form.format(known))
        assert (answer.status, answer.body) == (304, b"")
        assert answer.headers["ETag"] == f'"{known}"'
        assert (await client("GET", path, If_None_Match='"sha256:other"')).status == 200


async def test_tags_of_content_may_come_in_several_lines(client: Client, session: aiohttp.ClientSession) -> None:
    digest = await client.push_blob(b"data")
    lines = CIMultiDict([("If-None-Match", '"x"'), ("If-None-Match", f'"y", "{digest}"')])
    async with session.get(f"{client.url}{REPO}/blobs/{digest}", headers=lines) as answer:
        assert answer.status == 304


async def test_a_star_in_quotation_marks_is_no_star(client: Client) -> None:
    digest = await client.push_blob(b"data")
    assert (await client("GET", f"{REPO}/blobs/{digest}", If_None_Match='"*"')).status == 200
    assert (await client("GET", f"{REPO}/blobs/{digest}", If_Match='"*"')).status == 412


async def test_a_manifest_is_no_page_of_ours_for_a_browser(client: Client) -> None:
    document = {"schemaVersion": 2, "mediaType": "text/html", "annotations": {"<script>alert(1)</script>": ""}}
    _, answer = await client.push_manifest(document, "page", media_type="text/html")
    assert answer.status == 201
    answer = await client("GET", f"{REPO}/manifests/page")
    assert answer.headers["Content-Type"] == "text/html"
    assert answer.headers["Content-Security-Policy"] == "sandbox"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_moved_tag_is_seen_at_once(client: Client) -> None:
    await client.push_image("latest", seed="1")
    await client("GET", f"{REPO}/manifests/latest")
    moved = await client.push_image("latest", seed="2")
    assert (await client("GET", f"{REPO}/manifests/latest")).headers["Docker-Content-Digest"] == moved
