"""The conformance suite released with the specification's version 1.1, by its four workflows."""

from ..conftest import MANIFEST, Client, digest_of
from ..samples import Sample, push_document

REPO = "conformance/released"
BASE, UPLOADS = f"/v2/{REPO}", f"/v2/{REPO}/blobs/uploads/"
DUMMY = digest_of(b"hello world")


async def test_pull(client: Client) -> None:
    sample = Sample("sha256")
    sample.image("pull")
    await sample.push(client, REPO)
    await push_document(client, sample.top, "tagtest0", REPO)
    assert (await client("GET", "/v2/")).status == 200
    blob, data = next(iter(sample.blobs.items()))
    for method in ("HEAD", "GET"):
        assert (await client(method, f"{BASE}/blobs/{DUMMY}")).status == 404
        answer = await client(method, f"{BASE}/blobs/{blob}")
        assert (answer.status, answer.headers["Docker-Content-Digest"]) == (200, blob)
        assert answer.headers["Content-Length"] == str(len(data))
        for reference in (".INVALID_MANIFEST_NAME", DUMMY, "nonexistent"):
            assert (await client(method, f"{BASE}/manifests/{reference}", Accept=MANIFEST)).status in (400, 404)
        for reference in (sample.top.digest, "tagtest0"):
            answer = await client(method, f"{BASE}/manifests/{reference}", Accept=MANIFEST)
            assert (answer.status, answer.headers["Docker-Content-Digest"]) == (200, sample.top.digest)
    answer = await client("PUT", f"{BASE}/manifests/sha256:totallywrong", b"{}", Content_Type=MANIFEST)
    assert answer.status == 400
    assert answer.codes[0] in {"DIGEST_INVALID", "MANIFEST_INVALID", "NAME_INVALID"}


async def test_push_a_stream_and_chunks(client: Client) -> None:
    data = b"NBA Jam on my NBA toaster" * 3
    digest = digest_of(data)
    location = (await client("POST", UPLOADS)).headers["Location"]
    answer = await client("PATCH", location, data)
    assert answer.status == 202
    assert (await client("PUT", f"{answer.headers['Location']}?digest={digest}")).status == 201

    location = (await client("POST", UPLOADS, Content_Length="0")).headers["Location"]
    first, second = data[:3], data[3:]
    beyond = f"3-{len(data) - 1}"
    assert (await client("PATCH", location, second, Content_Range=beyond)).status == 416
    answer = await client("PATCH", location, first, Content_Range="0-2")
    assert (answer.status, answer.headers["Range"]) == (202, "0-2")
    # A chunk sent again is refused, the status tells where to go on, and so does the refusal.
    assert (await client("PATCH", location, first, Content_Range="0-2")).status == 416
    status = await client("GET", answer.headers["Location"])
    assert (status.status, status.headers["Range"]) == (204, "0-2")
    answer = await client("PATCH", status.headers["Location"], second, Content_Range=beyond)
    assert answer.status == 202
    answer = await client("PUT", f"{answer.headers['Location']}?digest={digest}", Content_Length="0")
    assert (answer.status, answer.headers["Location"]) == (201, f"{BASE}/blobs/{digest}")


async def test_push_whole_blobs_mounts_and_manifests(client: Client) -> None:
    sample = Sample("sha256")
    sample.document(MANIFEST, config=sample.blob("application/vnd.oci.image.config.v1+json", b"{}"), layers=[])
    (digest,) = sample.blobs
    assert (await client("GET", f"{BASE}/blobs/{DUMMY}")).status == 404
    assert (await client("POST", f"{UPLOADS}?digest={digest}", b"{}")).status == 201
    location = (await client("POST", UPLOADS)).headers["Location"]
    assert (await client("PUT", f"{location}?digest={digest}", b"{}")).status == 201
    other = "/v2/conformance/mounted/blobs"
    assert (await client("POST", f"{other}/uploads/?mount={DUMMY}&from={REPO}")).status == 202
    answer = await client("POST", f"{other}/uploads/?mount={digest}&from={REPO}")
    assert (answer.status, answer.headers["Location"]) == (201, f"{other}/{digest}")
    for number in range(4):
        await push_document(client, sample.top, f"test{number}", REPO)
    assert (await client("GET", f"{BASE}/manifests/{sample.top.digest}")).status == 200
    missing = Sample("sha256")
    missing.image("never pushed")
    path = f"{BASE}/manifests/{missing.top.digest}"
    answer = await client("PUT", path, missing.top.data, Content_Type=MANIFEST)
    assert answer.status in (400, 404)
    assert set(answer.codes) == {"MANIFEST_BLOB_UNKNOWN"}


async def test_discovery_of_tags(client: Client) -> None:
    for number in range(4):
        await client.push_image(f"test{number}", REPO)
    tags = (await client("GET", f"{BASE}/tags/list")).json["tags"]
    assert tags == ["test0", "test1", "test2", "test3"]
    answer = await client("GET", f"{BASE}/tags/list?n=2")
    assert answer.json["tags"] == tags[:2]
    assert (await client("GET", f"{BASE}/tags/list?n=2&last=test1")).json["tags"] == tags[2:]


async def test_management(client: Client) -> None:
    sample = Sample("sha256")
    sample.image("managed")
    await sample.push(client, REPO)
    await push_document(client, sample.top, "tagtest0", REPO)
    await push_document(client, sample.top, "tagtest1", REPO)
    assert (await client("DELETE", f"{BASE}/manifests/tagtest0")).status == 202
    assert (await client("GET", f"{BASE}/tags/list")).json["tags"] == ["tagtest1"]
    assert (await client("DELETE", f"{BASE}/manifests/{sample.top.digest}")).status == 202
    assert (await client("GET", f"{BASE}/manifests/{sample.top.digest}")).status == 404
    assert (await client("GET", f"{BASE}/manifests/tagtest1")).status == 404
    assert (await client("GET", f"{BASE}/tags/list")).json["tags"] == []
    for digest in sample.blobs:
        assert (await client("DELETE", f"{BASE}/blobs/{digest}")).status == 202
        assert (await client("GET", f"{BASE}/blobs/{digest}")).status == 404
