"""The conformance suite of the specification's development branch, case by case: its blob tables and error conditions.

Its name of a case is the parameter's; tests are named after the endpoint (`end-4b`) of the specification that they ask
for. Its sets of data go through push, list, pull, referrers and delete in test_conformance_content.py and, where they
are special, below.
"""

import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlencode

import pytest

from ..conftest import MANIFEST, Answer, Client, digest_of
from ..samples import ALGORITHMS, Document, Sample, push_document

REPO, OTHER = "conformance/repo1", "conformance/repo2"
BASE, UPLOADS = f"/v2/{REPO}", f"/v2/{REPO}/blobs/uploads/"
CHUNK = 1024
OCTETS = "application/octet-stream"

Push = Callable[[Client, bytes, str], Awaitable[Answer]]


@pytest.fixture(params=ALGORITHMS)
def algorithm(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def closing(location: str, digest: str) -> str:
    return f"{location}{'&' if '?' in location else '?'}{urlencode({'digest': digest})}"


async def begin(client: Client) -> str:
    answer = await client("POST", UPLOADS, Content_Length="0")
    assert answer.status == 202
    return answer.headers["Location"]


async def post_only(client: Client, data: bytes, digest: str) -> Answer:
    return await client("POST", f"{UPLOADS}?{urlencode({'digest': digest})}", data, Content_Type=OCTETS)


async def post_put(client: Client, data: bytes, digest: str) -> Answer:
    return await client("PUT", closing(await begin(client), digest), data, Content_Type=OCTETS)


async def stream(client: Client, data: bytes, digest: str) -> Answer:
    answer = await client("PATCH", await begin(client), data, Content_Type=OCTETS)
    assert answer.status == 202
    return await client("PUT", closing(answer.headers["Location"], digest), Content_Length="0")


def chunked(*, out_of_order: bool = False, put_last: bool = False) -> Push:
    async def push(client: Client, data: bytes, digest: str) -> Answer:
        location = await begin(client)
        size, sent = max(len(data) // 3 + 1, CHUNK), 0
        while True:
            if out_of_order:
                location = await refuse_out_of_order(client, location, data, digest, sent, size)
            piece = data[sent : sent + size]
            last = sent + size >= len(data)
            method, target = ("PUT", closing(location, digest)) if put_last and last else ("PATCH", location)
            stated = f"{sent}-{sent + len(piece) - 1}"
            answer = await client(method, target, piece, Content_Range=stated, Content_Type=OCTETS)
            if method == "PUT":
                return answer
            assert (answer.status, answer.headers["Range"]) == (202, f"0-{sent + len(piece) - 1}")
            location, sent = answer.headers["Location"], sent + len(piece)
            if last:
                return await client("PUT", closing(location, digest), Content_Length="0")

    async def refuse_out_of_order(client: Client, location: str, data: bytes, digest: str, sent: int, size: int) -> str:
        """Skip ahead, or go back to the beginning; then recover by asking where to go on."""
        start = sent + size if sent + size < len(data) else 0
        if sent == 0 and start == 0:
            return location
        end = min(start + size, len(data))
        closes = put_last and end == len(data)
        target = closing(location, digest) if closes else location
        stated = f"{start}-{end - 1}"
        answer = await client("PUT" if closes else "PATCH", target, data[start:end], Content_Range=stated)
        assert (answer.status, answer.codes) == (416, ["BLOB_UPLOAD_INVALID"])
        asked = await client("GET", answer.headers["Location"])
        assert (asked.status, asked.headers["Range"]) == (204, f"0-{max(sent - 1, 0)}")
        return asked.headers["Location"]

    return push


WAYS: dict[str, tuple[Push, int]] = {
    "post only": (post_only, 512),
    "post+put": (post_put, 512),
    "chunked single": (chunked(), 512),
    "stream": (stream, 512),
    "chunked multi": (chunked(), CHUNK * 3 - 5),
    "chunked multi and put chunk": (chunked(put_last=True), CHUNK * 3 - 5),
    "chunked out-of-order": (chunked(out_of_order=True), CHUNK * 3 - 5),
    "chunked out-of-order and put chunk": (chunked(out_of_order=True, put_last=True), CHUNK * 3 - 5),
}


async def check_blob(client: Client, data: bytes, digest: str, created: Answer, repository: str = REPO) -> None:
    """The answer to a finished push; HEAD and GET; then the delete, which is seen at once."""
    assert created.status == 201, created.body
    assert created.headers["Docker-Content-Digest"] == digest
    assert (await client("GET", created.headers["Location"])).body == data
    path = f"/v2/{repository}/blobs/{digest}"
    for method, body in (("HEAD", b""), ("GET", data)):
        answer = await client(method, path)
        assert (answer.status, answer.body, answer.headers["Content-Length"]) == (200, body, str(len(data)))
        assert answer.headers["Docker-Content-Digest"] == digest
    assert (await client("DELETE", path)).status == 202
    assert (await client("HEAD", path)).status == 404


@pytest.mark.parametrize("name", WAYS)
async def test_end_4_to_6_every_way_of_pushing_a_blob(client: Client, algorithm: str, name: str) -> None:
    push, size = WAYS[name]
    data = bytes(number % 251 for number in range(size))
    digest = digest_of(data, algorithm)
    assert (await client("GET", f"{BASE}/blobs/{digest}")).status == 404
    await check_blob(client, data, digest, await push(client, data, digest))


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("data", [b"", b"{}"], ids=["empty", "emptyJSON"])
async def test_end_4_to_6_well_known_content(client: Client, algorithm: str, name: str, data: bytes) -> None:
    if not data and "chunked" in name:
        name = "stream"  # no byte can be named by a range
    digest = digest_of(data, algorithm)
    await check_blob(client, data, digest, await WAYS[name][0](client, data, digest))


@pytest.mark.parametrize("name", ["post only", "post+put", "chunked multi", "chunked multi and put chunk", "stream"])
async def test_end_4_to_6_a_bad_digest(client: Client, algorithm: str, name: str) -> None:
    data = b"x" * (CHUNK * 3 - 5)
    digest = digest_of(data, algorithm)
    answer = await WAYS[name][0](client, data + b"oh no", digest)
    assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])
    assert (await client("HEAD", f"{BASE}/blobs/{digest}")).status == 404


@pytest.mark.parametrize("source", [OTHER, None], ids=["mount", "mount anonymous"])
async def test_end_11_a_mount(client: Client, algorithm: str, source: str | None) -> None:
    data = b"mounted"
    digest = await client.push_blob(data, OTHER, algorithm)
    query = {"mount": digest} | ({"from": source} if source else {})
    await check_blob(client, data, digest, await client("POST", f"{UPLOADS}?{urlencode(query)}"))
    await check_blob(client, data, digest, await post_only_at(client, OTHER, data, digest), OTHER)


async def post_only_at(client: Client, repository: str, data: bytes, digest: str) -> Answer:
    return await client("POST", f"/v2/{repository}/blobs/uploads/?digest={digest}", data)


async def test_end_11_mount_missing(client: Client, algorithm: str) -> None:
    data = b"not there yet"
    digest = digest_of(data, algorithm)
    answer = await client("POST", f"{UPLOADS}?{urlencode({'mount': digest, 'from': OTHER})}")
    assert answer.status == 202
    created = await client("PUT", closing(answer.headers["Location"], digest), data)
    await check_blob(client, data, digest, created)


async def test_end_14_post_cancel(client: Client) -> None:
    location = await begin(client)
    assert (await client("DELETE", location, Content_Length="0")).status == 204
    assert (await client("GET", location)).status == 404


@pytest.mark.parametrize(
    ("wanted", "status", "part", "content_range"),
    [
        ("bytes=500-1499", 206, slice(500, 1500), "bytes 500-1499/2048"),
        ("bytes=500-", 206, slice(500, None), "bytes 500-2047/2048"),
        ("bytes=-500", 206, slice(-500, None), "bytes 1548-2047/2048"),
        ("bytes=2000-5000", 206, slice(2000, None), "bytes 2000-2047/2048"),
        ("bytes=500-0", 416, None, "bytes */2048"),
        ("bytes=5000-10000", 416, None, "bytes */2048"),
    ],
)
async def test_end_2_range_requests(
    client: Client, algorithm: str, wanted: str, status: int, part: slice | None, content_range: str
) -> None:
    data = bytes(number % 253 for number in range(2048))
    digest = await client.push_blob(data, REPO, algorithm)
    answer = await client("GET", f"{BASE}/blobs/{digest}", Range=wanted)
    assert (answer.status, answer.headers["Content-Range"]) == (status, content_range)
    if part is not None:
        assert answer.body == data[part]
        assert answer.headers["Content-Length"] == str(len(data[part]))


async def test_end_1_the_ping(client: Client) -> None:
    assert (await client("GET", "/v2/")).status == 200


async def test_end_8_and_12_an_empty_repository(client: Client) -> None:
    answer = await client("GET", f"{BASE}/tags/list")
    assert (answer.status, answer.codes) == (404, ["NAME_UNKNOWN"])
    answer = await client("GET", f"{BASE}/referrers/{digest_of(b'any')}")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/vnd.oci.image.index.v1+json")
    assert answer.json == {"schemaVersion": 2, "mediaType": answer.headers["Content-Type"], "manifests": []}


async def test_end_7_a_large_manifest(client: Client) -> None:
    sample = Sample("sha256")
    sample.image("large", annotations={f"large-annotation-{number}": "A" * 10_000 for number in range(390)})
    await sample.push(client, REPO)
    await push_document(client, sample.top, "large-manifest", REPO)
    answer = await client("GET", f"{BASE}/manifests/large-manifest")
    assert (answer.status, answer.body) == (200, sample.top.data)
    assert (await client("DELETE", f"{BASE}/manifests/{sample.top.digest}")).status == 202


async def test_end_7_tag_parameters(client: Client, algorithm: str) -> None:
    sample = Sample(algorithm)
    children = [sample.image("amd64"), sample.image("arm64")]
    sample.document("application/vnd.oci.image.index.v1+json", manifests=children)
    for digest, data in sample.blobs.items():
        assert await client.push_blob(data, REPO, algorithm) == digest
    for number, document in enumerate(sample.documents):
        tags = [f"tag-param-{algorithm}-{number}"]
        if document is sample.top:
            tags.append(f"tag-param-{algorithm}")
        await push_document(client, document, repository=REPO, tags=tags)
        for tag in tags:
            answer = await client("HEAD", f"{BASE}/manifests/{tag}")
            assert (answer.status, answer.headers["Docker-Content-Digest"]) == (200, document.digest)


async def test_end_8_the_list_begins_behind_last(client: Client) -> None:
    names = ["image", "index", "index-of-index", "no-layers", "tagged-artifact1"]
    for name in names:
        await client.push_image(name, REPO, name)
    assert (await client("GET", f"{BASE}/tags/list")).json == {"name": REPO, "tags": names}
    assert (await client("GET", f"{BASE}/tags/list?last={names[1]}")).json["tags"] == names[2:]


async def test_end_7_a_manifest_of_another_digest(client: Client, algorithm: str) -> None:
    sample = Sample(algorithm)
    sample.image("bad")
    for data in sample.blobs.values():
        await client.push_blob(data, REPO, algorithm)
    path = f"{BASE}/manifests/{sample.top.digest}"
    answer = await client("PUT", path, sample.top.data + b"  ", Content_Type=MANIFEST)
    assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])
    assert (await client("GET", path)).status == 404


@pytest.mark.parametrize("reference", ["missing-tag", digest_of(b"missing"), digest_of(b"missing", "sha512")])
async def test_end_3_a_missing_manifest(client: Client, reference: str) -> None:
    await client.push_image("here", REPO)
    answer = await client("GET", f"{BASE}/manifests/{reference}", Accept=MANIFEST)
    assert (answer.status, answer.codes) == (404, ["MANIFEST_UNKNOWN"])


async def test_end_3_and_7_an_invalid_digest_format(client: Client) -> None:
    document: Any = await client.image(REPO)
    for method, body in (("PUT", json.dumps(document).encode()), ("GET", None)):
        answer = await client(method, f"{BASE}/manifests/sha256:baddigeststring", body, Content_Type=MANIFEST)
        assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])


@pytest.mark.parametrize("order", ["subject first", "subject last", "subject missing"])
async def test_end_12_referrers(client: Client, order: str) -> None:
    sample = Sample("sha256")
    subject = sample.image("subject")
    notes = {"org.opencontainers.conformance": "hello conformance test"}
    for kind in ("v1", "v2"):
        sample.image(kind, subject=subject, artifactType=f"application/vnd.example.oci.{kind}", annotations=notes)
    sample.image("plain", subject=subject)
    target, *pointing = sample.documents
    for data in sample.blobs.values():
        await client.push_blob(data, REPO)
    wanted: list[Document] = [*pointing]
    if order == "subject first":
        wanted.insert(0, target)
    elif order == "subject last":
        wanted.append(target)
    for document in wanted:
        await push_document(client, document, repository=REPO)
    listed = (await client("GET", f"{BASE}/referrers/{target.digest}")).json["manifests"]
    assert {entry["digest"] for entry in listed} == {document.digest for document in pointing}
    for document in pointing:
        assert document.artifact_type is not None
        query = urlencode({"artifactType": document.artifact_type})
        answer = await client("GET", f"{BASE}/referrers/{target.digest}?{query}")
        assert answer.headers["OCI-Filters-Applied"] == "artifactType"
        (entry,) = answer.json["manifests"]
        assert (entry["digest"], entry["mediaType"]) == (document.digest, MANIFEST)
        assert (entry["size"], entry["artifactType"]) == (len(document.data), document.artifact_type)
        assert entry.get("annotations") == document.annotations
