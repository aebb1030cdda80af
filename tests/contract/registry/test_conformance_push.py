"""The conformance suite's ways of pushing a blob, and of failing to, in each algorithm."""

import pytest

from .conftest import Answer, Client, digest_of
from .samples import ALGORITHMS

REPO = "/v2/test/repo"
UPLOADS = f"{REPO}/blobs/uploads/"
DATA = bytes(range(256)) * 40
HALF = len(DATA) // 2

pytestmark = pytest.mark.parametrize("algorithm", ALGORITHMS)


def check_created(answer: Answer, digest: str, repository: str = "test/repo") -> None:
    assert answer.status == 201, answer.body
    assert answer.headers["Location"] == f"/v2/{repository}/blobs/{digest}"
    assert answer.headers["Docker-Content-Digest"] == digest


async def begin(client: Client, algorithm: str, announced: bool) -> str:
    return await client.begin(query=f"?digest-algorithm={algorithm}" if announced else "")


def closing(location: str, digest: str) -> str:
    """Clients add their parameter to whatever the location holds already."""
    return f"{location}{'&' if '?' in location else '?'}digest={digest}"


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("data", [DATA, b"", b"\0"], ids=["data", "empty", "byte"])
class TestWays:
    async def test_post_then_put(self, client: Client, algorithm: str, announced: bool, data: bytes) -> None:
        digest = digest_of(data, algorithm)
        location = await begin(client, algorithm, announced)
        check_created(await client("PUT", closing(location, digest), data), digest)
        assert (await client("GET", f"{REPO}/blobs/{digest}")).body == data

    async def test_a_single_post(self, client: Client, algorithm: str, announced: bool, data: bytes) -> None:
        digest = digest_of(data, algorithm)
        extra = f"&digest-algorithm={algorithm}" if announced else ""
        check_created(await client("POST", f"{UPLOADS}?digest={digest}{extra}", data), digest)
        assert (await client("GET", f"{REPO}/blobs/{digest}")).body == data

    async def test_a_stream(self, client: Client, algorithm: str, announced: bool, data: bytes) -> None:
        digest = digest_of(data, algorithm)
        location = await begin(client, algorithm, announced)
        answer = await client("PATCH", location, data)
        assert (answer.status, answer.headers["Range"]) == (202, f"0-{max(len(data) - 1, 0)}")
        check_created(await client("PUT", closing(answer.headers["Location"], digest)), digest)
        assert (await client("GET", f"{REPO}/blobs/{digest}")).body == data


@pytest.mark.parametrize("last_in_put", [True, False])
async def test_chunks_in_order_with_a_retry_out_of_order_in_between(
    client: Client, algorithm: str, last_in_put: bool
) -> None:
    digest = digest_of(DATA, algorithm)
    location = await begin(client, algorithm, True)
    second = f"{HALF}-{len(DATA) - 1}"
    for path, method in ((location, "PATCH"), (closing(location, digest), "PUT")):
        answer = await client(method, path, DATA[HALF:], Content_Range=second)
        assert (answer.status, answer.headers["Range"]) == (416, "0-0")
    answer = await client("PATCH", location, DATA[:HALF], Content_Range=f"0-{HALF - 1}")
    assert (answer.status, answer.headers["Range"]) == (202, f"0-{HALF - 1}")
    location = answer.headers["Location"]
    again = await client("PATCH", location, DATA[:HALF], Content_Range=f"0-{HALF - 1}")
    assert (again.status, again.headers["Range"]) == (416, f"0-{HALF - 1}")
    stale = await client("GET", location)
    assert (stale.status, stale.headers["Range"], stale.headers["Location"]) == (204, f"0-{HALF - 1}", location)
    if last_in_put:
        answer = await client("PUT", closing(location, digest), DATA[HALF:], Content_Range=second)
    else:
        answer = await client("PATCH", location, DATA[HALF:], Content_Range=second)
        assert (answer.status, answer.headers["Range"]) == (202, f"0-{len(DATA) - 1}")
        answer = await client("PUT", closing(answer.headers["Location"], digest))
    check_created(answer, digest)
    assert (await client("GET", f"{REPO}/blobs/{digest}")).body == DATA


async def test_a_closing_chunk_out_of_order_leaves_the_upload_open(client: Client, algorithm: str) -> None:
    digest = digest_of(DATA, algorithm)
    location = await begin(client, algorithm, True)
    await client("PATCH", location, DATA[:HALF], Content_Range=f"0-{HALF - 1}")
    for start in (0, HALF - 1, HALF + 1, len(DATA)):
        wrong = f"{start}-{start + HALF - 1}"
        answer = await client("PUT", closing(location, digest), DATA[HALF:], Content_Range=wrong)
        assert (answer.status, answer.codes) == (416, ["BLOB_UPLOAD_INVALID"])
        assert (answer.headers["Range"], answer.headers["Location"]) == (f"0-{HALF - 1}", location)
    assert (await client("HEAD", f"{REPO}/blobs/{digest}")).status == 404
    right = f"{HALF}-{len(DATA) - 1}"
    check_created(await client("PUT", closing(location, digest), DATA[HALF:], Content_Range=right), digest)


async def test_wrong_content_is_refused_in_every_way(client: Client, algorithm: str) -> None:
    wrong = digest_of(b"other", algorithm)
    answer = await client("POST", f"{UPLOADS}?digest={wrong}", DATA)
    assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])
    location = await client.begin()
    assert (await client("PUT", closing(location, wrong), DATA)).codes == ["DIGEST_INVALID"]
    location = await client.begin()
    await client("PATCH", location, DATA)
    assert (await client("PUT", closing(location, wrong))).codes == ["DIGEST_INVALID"]
    assert (await client("HEAD", f"{REPO}/blobs/{wrong}")).status == 404


async def test_a_cancelled_upload_is_gone(client: Client, algorithm: str) -> None:
    location = await begin(client, algorithm, True)
    await client("PATCH", location, DATA)
    assert (await client("DELETE", location)).status == 204
    assert (await client("GET", location)).status == 404
    assert (await client("PUT", closing(location, digest_of(DATA, algorithm)))).status == 404
    assert (await client("DELETE", location)).status == 404


async def test_a_mount_and_one_without_a_source(client: Client, algorithm: str) -> None:
    digest = await client.push_blob(DATA, "first/repo", algorithm)
    check_created(await client("POST", f"{UPLOADS}?mount={digest}&from=first/repo"), digest)
    check_created(await client("POST", f"/v2/second/repo/blobs/uploads/?mount={digest}"), digest, "second/repo")
    absent = digest_of(b"absent", algorithm)
    for query in (f"mount={absent}", f"mount={absent}&from=first/repo"):
        answer = await client("POST", f"/v2/third/repo/blobs/uploads/?{query}")
        assert answer.status == 202
        wanted = digest_of(b"instead", algorithm)
        answer = await client("PUT", closing(answer.headers["Location"], wanted), b"instead")
        check_created(answer, wanted, "third/repo")


async def test_a_blob_deleted_in_one_repository_stays_in_the_other(client: Client, algorithm: str) -> None:
    digest = await client.push_blob(DATA, "first/repo", algorithm)
    await client("POST", f"{UPLOADS}?mount={digest}&from=first/repo")
    assert (await client("DELETE", f"/v2/first/repo/blobs/{digest}")).status == 202
    assert (await client("GET", f"/v2/first/repo/blobs/{digest}")).status == 404
    assert (await client("GET", f"{REPO}/blobs/{digest}")).body == DATA
    assert (await client("POST", f"/v2/first/repo/blobs/uploads/?mount={digest}&from=test/repo")).status == 201


@pytest.mark.parametrize(
    ("wanted", "expected"), [("bytes=0-99", DATA[:100]), ("bytes=-100", DATA[-100:]), ("bytes=100-", DATA[100:])]
)
async def test_a_part_of_a_blob(client: Client, algorithm: str, wanted: str, expected: bytes) -> None:
    digest = await client.push_blob(DATA, algorithm=algorithm)
    answer = await client("GET", f"{REPO}/blobs/{digest}", Range=wanted)
    assert (answer.status, answer.body) == (206, expected)
    assert (await client("GET", f"{REPO}/blobs/{digest}", Range=f"bytes={len(DATA)}-")).status == 416


async def test_the_digest_names_the_algorithm_whatever_was_announced(client: Client, algorithm: str) -> None:
    other = next(name for name in ALGORITHMS if name != algorithm)
    digest = digest_of(DATA, algorithm)
    location = await client.begin(query=f"?digest-algorithm={other}")
    await client("PATCH", location, DATA[:HALF])
    check_created(await client("PUT", closing(location, digest), DATA[HALF:]), digest)
