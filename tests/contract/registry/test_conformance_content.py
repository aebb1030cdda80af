"""Each kind of content, in each algorithm, through its whole life: push, pull, list, refer, delete.

What the specification's conformance suite does with its sets of data, requirement by requirement.
"""

from collections.abc import Callable

import pytest

from .conftest import INDEX, Client, digest_of
from .samples import ALGORITHMS, SAMPLES, Sample, push_document

REPO = "/v2/test/repo"


@pytest.fixture(params=ALGORITHMS)
def algorithm(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=SAMPLES, ids=lambda make: make.__name__)
def sample(request: pytest.FixtureRequest, algorithm: str) -> Sample:
    made = Sample(algorithm)
    make: Callable[[Sample], None] = request.param
    make(made)
    return made


async def test_content_through_its_whole_life(client: Client, sample: Sample) -> None:
    for digest in sample.blobs:
        for method in ("HEAD", "GET"):
            assert (await client(method, f"{REPO}/blobs/{digest}")).status == 404
    for document in sample.documents:
        for method in ("HEAD", "GET"):
            assert (await client(method, f"{REPO}/manifests/{document.digest}")).status == 404
    await sample.push(client)
    top = sample.top
    await push_document(client, top, "by-tag")
    await push_document(client, top, tags=["one", "two"])

    for digest, data in sample.blobs.items():
        answer = await client("GET", f"{REPO}/blobs/{digest}")
        assert (answer.status, answer.body, answer.headers["Docker-Content-Digest"]) == (200, data, digest)
        head = await client("HEAD", f"{REPO}/blobs/{digest}")
        assert (head.status, head.headers["Content-Length"]) == (200, str(len(data)))
    by_tag = digest_of(top.data)
    wanted = {document.digest: (document, document.digest) for document in sample.documents}
    wanted |= {"one": (top, top.digest), "two": (top, top.digest), "by-tag": (top, by_tag)}
    for reference, (document, digest) in wanted.items():
        answer = await client("GET", f"{REPO}/manifests/{reference}")
        assert (answer.status, answer.body) == (200, document.data)
        head = await client("HEAD", f"{REPO}/manifests/{reference}")
        assert (head.status, head.body) == (200, b"")
        for seen in (answer.headers, head.headers):
            assert seen["Content-Type"] == document.media_type
            assert seen["Docker-Content-Digest"] == digest
            assert seen["Content-Length"] == str(len(document.data))
    assert (await client("GET", f"{REPO}/tags/list")).json["tags"] == ["by-tag", "one", "two"]

    for subject in {document.subject for document in sample.documents if document.subject}:
        answer = await client("GET", f"{REPO}/referrers/{subject}")
        assert (answer.status, answer.headers["Content-Type"]) == (200, INDEX)
        found = {entry["digest"]: entry for entry in answer.json["manifests"]}
        for document in sample.documents:
            if document.subject != subject:
                continue
            entry = found[document.digest]
            assert (entry["mediaType"], entry["size"]) == (document.media_type, len(document.data))
            assert entry.get("artifactType") == document.artifact_type
            assert entry.get("annotations") == document.annotations
            only = await client("GET", f"{REPO}/referrers/{subject}?artifactType={document.artifact_type}")
            assert only.headers["OCI-Filters-Applied"] == "artifactType"
            assert document.digest in {entry["digest"] for entry in only.json["manifests"]}
            assert {entry["artifactType"] for entry in only.json["manifests"]} == {document.artifact_type}

    assert (await client("DELETE", f"{REPO}/manifests/one")).status == 202
    assert (await client("GET", f"{REPO}/manifests/one")).status == 404
    assert (await client("GET", f"{REPO}/tags/list")).json["tags"] == ["by-tag", "two"]
    for digest in {by_tag, *(document.digest for document in sample.documents)}:
        assert (await client("DELETE", f"{REPO}/manifests/{digest}")).status == 202
        for method in ("GET", "HEAD"):
            assert (await client(method, f"{REPO}/manifests/{digest}")).status == 404
    assert (await client("GET", f"{REPO}/tags/list")).json["tags"] == []
    for subject in {document.subject for document in sample.documents if document.subject}:
        assert (await client("GET", f"{REPO}/referrers/{subject}")).json["manifests"] == []
    for digest in sample.blobs:
        assert (await client("DELETE", f"{REPO}/blobs/{digest}")).status == 202
        for method in ("GET", "HEAD", "DELETE"):
            assert (await client(method, f"{REPO}/blobs/{digest}")).status == 404


async def test_referrers_are_listed_before_their_subject_is_pushed(client: Client, algorithm: str) -> None:
    sample = Sample(algorithm)
    subject = sample.image("late")
    sample.image("early", subject=subject)
    late, early = sample.documents
    for data in sample.blobs.values():
        await client.push_blob(data, algorithm=algorithm)
    await push_document(client, early)
    answer = await client("GET", f"{REPO}/referrers/{late.digest}")
    assert [entry["digest"] for entry in answer.json["manifests"]] == [early.digest]
    await push_document(client, late)
    assert (await client("GET", f"{REPO}/referrers/{late.digest}")).json == answer.json


async def test_the_same_bytes_under_both_algorithms_are_two_manifests(client: Client) -> None:
    sample = Sample("sha512")
    sample.image()
    await sample.push(client)
    await push_document(client, sample.top, "tagged")
    short = digest_of(sample.top.data)
    assert (await client("DELETE", f"{REPO}/manifests/{short}")).status == 202
    assert (await client("GET", f"{REPO}/manifests/tagged")).status == 404
    assert (await client("GET", f"{REPO}/manifests/{sample.top.digest}")).body == sample.top.data
