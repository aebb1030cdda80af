"""What crane, containerd, oras and regctl send, replayed: their requests, in their order, with their headers."""

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict

from .conftest import CONFIG, INDEX, LAYER, MANIFEST, Answer, Running, descriptor, digest_of

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
EMPTY = "application/vnd.oci.empty.v1+json"
BLOB, CONFIG_BYTES = bytes(range(256)) * 5_000, b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers"}}'


def manifest(**more: Any) -> bytes:
    layers = [descriptor(LAYER, digest_of(BLOB), len(BLOB))]
    config = descriptor(CONFIG, digest_of(CONFIG_BYTES), len(CONFIG_BYTES))
    return json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers, **more}).encode()


async def in_chunks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 100_000):
        yield data[start : start + 100_000]


class Replay:
    """A client: its headers go with every request, and a list of values is one header line each."""

    def __init__(self, session: aiohttp.ClientSession, url: str, **headers: "str | list[str]") -> None:
        self._session = session
        self.url = url
        self._headers = headers

    def accept(self, types: "str | list[str]") -> None:
        self._headers["Accept"] = types

    async def __call__(
        self, method: str, path: str, status: int, body: Any = None, **headers: "str | list[str]"
    ) -> Answer:
        lines: CIMultiDict[str] = CIMultiDict()
        for name, values in {**self._headers, **headers}.items():
            for value in [values] if isinstance(values, str) else values:
                lines.add(name.replace("_", "-"), value)
        request = self._session.request(
            method,
            self.url + path,
            data=body,
            headers=lines,
            allow_redirects=False,
            skip_auto_headers=["Accept", "Accept-Encoding", "Content-Type"],
        )
        async with request as reply:
            answer = Answer(reply.status, reply.headers, await reply.read())
        assert answer.status == status, (method, path, answer)
        location = answer.headers.get("Location")
        assert location is None or location.startswith("/v2/"), location
        return answer

    async def resolve(self, path: str, media_type: str, data: bytes) -> None:
        """HEAD, with all three headers that clients fail without."""
        head = await self("HEAD", path, 200)
        assert head.headers["Content-Type"] == media_type
        assert head.headers["Content-Length"] == str(len(data))
        assert head.headers["Docker-Content-Digest"] == digest_of(data)
        assert head.body == b""


def closing(location: str, digest: str) -> str:
    """Where to PUT an upload's end: the digest is added to whatever query there is, escaped as Go does."""
    return f"{location}{'&' if '?' in location else '?'}digest={digest.replace(':', '%3A')}"


def pushed(answer: Answer, digest: str) -> None:
    assert answer.headers["Docker-Content-Digest"] == digest
    assert answer.headers["Location"].endswith(digest)


@pytest.fixture
def crane(session: aiohttp.ClientSession, running: Running) -> Replay:
    return Replay(session, running.url, User_Agent="crane/0.21.0 go-containerregistry/0.21.0", Accept_Encoding="gzip")


@pytest.fixture
def containerd(session: aiohttp.ClientSession, running: Running) -> Replay:
    return Replay(session, running.url, User_Agent="containerd/2.1.0", Accept_Encoding="zstd;q=1.0, gzip;q=0.8")


@pytest.fixture
def oras(session: aiohttp.ClientSession, running: Running) -> Replay:
    return Replay(session, running.url, User_Agent="oras/1.3.3", Accept_Encoding="gzip")


@pytest.fixture
def regctl(session: aiohttp.ClientSession, running: Running) -> Replay:
    return Replay(session, running.url, User_Agent="regclient/regctl (v0.9.0)", Accept_Encoding="gzip")


async def push_as_crane(crane: Replay, repository: str = "lib/one", tag: str = "v1") -> bytes:
    """POST with a JSON type and no body, one chunked PATCH, an empty PUT; the manifest at last."""
    accepted = ",".join([DOCKER_MANIFEST, DOCKER_LIST, MANIFEST, INDEX])
    await crane("GET", "/v2/", 200)
    await crane("HEAD", f"/v2/{repository}/manifests/{tag}", 404, Accept=accepted)
    for data in (BLOB, CONFIG_BYTES):
        digest = digest_of(data)
        assert (await crane("HEAD", f"/v2/{repository}/blobs/{digest}", 404)).body == b""
        begun = await crane(
            "POST", f"/v2/{repository}/blobs/uploads/", 202, Content_Type="application/json", Content_Length="0"
        )
        sent = await crane("PATCH", begun.headers["Location"], 202, in_chunks(data))
        assert sent.headers["Range"] == f"0-{len(data) - 1}"
        location = sent.headers["Location"]
        closed = await crane("PUT", closing(location, digest), 201)
        pushed(closed, digest)
    data = manifest()
    pushed(await crane("PUT", f"/v2/{repository}/manifests/{tag}", 201, data, Content_Type=MANIFEST), digest_of(data))
    return data


async def test_crane_pushes_mounts_and_validates(crane: Replay) -> None:
    data = await push_as_crane(crane)
    await crane.resolve("/v2/lib/one/manifests/v1", MANIFEST, data)
    for each in (BLOB, CONFIG_BYTES):
        query = f"?from=lib%2Fone&mount={digest_of(each).replace(':', '%3A')}&origin=127.0.0.1"
        pushed(
            await crane("POST", f"/v2/lib/two/blobs/uploads/{query}", 201, Content_Type="application/json"),
            digest_of(each),
        )
    pushed(await crane("PUT", "/v2/lib/two/manifests/v1", 201, data, Content_Type=MANIFEST), digest_of(data))
    # A source that there isn't is an ordinary upload, which crane then goes on with.
    query = f"?from=no%2Fone&mount={digest_of(b'other')}&origin=127.0.0.1"
    begun = await crane("POST", f"/v2/lib/two/blobs/uploads/{query}", 202, Content_Type="application/json")
    location = begun.headers["Location"]
    await crane("PATCH", location, 202, in_chunks(b"other"))
    assert (await crane("GET", "/v2/lib/two/tags/list?n=1000", 200)).json == {"name": "lib/two", "tags": ["v1"]}


async def test_containerd_resolves_by_head_and_resumes_a_blob(crane: Replay, containerd: Replay) -> None:
    data = await push_as_crane(crane)
    accepted = f"{DOCKER_MANIFEST}, {DOCKER_LIST}, {MANIFEST}, {INDEX}, */*"
    containerd.accept(accepted)
    await containerd.resolve("/v2/lib/one/manifests/v1?ns=docker.io", MANIFEST, data)
    digest = digest_of(data)
    got = await containerd("GET", f"/v2/lib/one/manifests/{digest}?ns=docker.io", 200)
    assert (got.body, got.headers["Content-Type"]) == (data, MANIFEST)
    blob = f"/v2/lib/one/blobs/{digest_of(BLOB)}?ns=docker.io"
    whole = await containerd("GET", blob, 200, Accept=f"{LAYER}, */*")
    assert (whole.body, whole.headers["Content-Length"]) == (BLOB, str(len(BLOB)))
    assert "Content-Encoding" not in whole.headers
    rest = await containerd("GET", blob, 206, Range="bytes=700000-")
    assert rest.headers["Content-Range"] == f"bytes 700000-{len(BLOB) - 1}/{len(BLOB)}"
    assert rest.body == BLOB[700_000:]
    await containerd("GET", blob, 416, Range=f"bytes={len(BLOB)}-")


async def test_containerd_pushes_a_blob_by_post_and_one_put(containerd: Replay) -> None:
    for data in (BLOB, CONFIG_BYTES):
        digest = digest_of(data)
        await containerd("HEAD", f"/v2/lib/one/blobs/{digest}", 404, Accept=f"{LAYER}, */*")
        mount = f"?mount={digest}&from=lib%2Fnone"
        begun = await containerd("POST", f"/v2/lib/one/blobs/uploads/{mount}", 202)
        location = begun.headers["Location"]
        joined = closing(location, digest)
        pushed(await containerd("PUT", joined, 201, in_chunks(data), Content_Type="application/octet-stream"), digest)
    data = manifest()
    await containerd("HEAD", "/v2/lib/one/manifests/v1", 404, Accept=f"{MANIFEST}, */*")
    pushed(await containerd("PUT", "/v2/lib/one/manifests/v1", 201, data, Content_Type=MANIFEST), digest_of(data))


async def test_oras_attaches_and_discovers(crane: Replay, oras: Replay) -> None:
    data = await push_as_crane(crane)
    accepted = ", ".join(
        [DOCKER_MANIFEST, DOCKER_LIST, MANIFEST, INDEX, "application/vnd.oci.artifact.manifest.v1+json"]
    )
    oras.accept(accepted)
    await oras.resolve("/v2/lib/one/manifests/v1", MANIFEST, data)
    for each in (b"{}", b"signature"):
        begun = await oras("POST", "/v2/lib/one/blobs/uploads/", 202, Content_Length="0")
        location = begun.headers["Location"]
        await oras(
            "PUT",
            closing(location, digest_of(each)),
            201,
            each,
            Content_Type="application/octet-stream",
        )
    attached = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": "application/vnd.example.signature",
            "config": descriptor(EMPTY, digest_of(b"{}"), 2, data="e30="),
            "layers": [descriptor("text/plain", digest_of(b"signature"), 9)],
            "subject": descriptor(MANIFEST, digest_of(data), len(data)),
            "annotations": {"org.opencontainers.image.created": "2026-01-02T03:04:05Z"},
        }
    ).encode()
    digest = digest_of(attached)
    put = await oras("PUT", f"/v2/lib/one/manifests/{digest}", 201, attached, Content_Type=MANIFEST)
    assert put.headers["OCI-Subject"] == digest_of(data)
    asked = "?artifactType=application%2Fvnd.example.signature"
    for query in ("", asked):
        found = await oras("GET", f"/v2/lib/one/referrers/{digest_of(data)}{query}", 200, Accept=INDEX)
        assert found.headers["Content-Type"] == INDEX
        assert found.headers.get("OCI-Filters-Applied") == ("artifactType" if query else None)
        (one,) = found.json["manifests"]
        assert (one["digest"], one["artifactType"]) == (digest, "application/vnd.example.signature")
        assert one["annotations"] == {"org.opencontainers.image.created": "2026-01-02T03:04:05Z"}
    # Before it sends anything again, and when it deletes.
    await oras("HEAD", f"/v2/lib/one/blobs/{digest_of(b'signature')}", 200)
    await oras("DELETE", f"/v2/lib/one/manifests/{digest}", 202)
    left = await oras("GET", f"/v2/lib/one/referrers/{digest_of(data)}", 200, Accept=INDEX)
    assert left.json["manifests"] == []


async def test_regctl_pushes_in_chunks_copies_and_deletes_tags(regctl: Replay) -> None:
    accepted = [INDEX, DOCKER_LIST, MANIFEST, DOCKER_MANIFEST, "application/vnd.oci.artifact.manifest.v1+json"]
    regctl.accept(accepted)
    step = 500_000
    for data in (BLOB, CONFIG_BYTES):
        begun = await regctl("POST", "/v2/lib/one/blobs/uploads/", 202, Content_Length="0")
        location = begun.headers["Location"]
        for start in range(0, len(data), step):
            part = data[start : start + step]
            ends = start + len(part) - 1
            kind = {"Content_Type": "application/octet-stream", "Content_Range": f"{start}-{ends}"}
            answer = await regctl("PATCH", location, 202, part, **kind)
            assert answer.headers["Range"] == f"0-{ends}"
            location = answer.headers["Location"]
        # A part that is sent again after an answer was lost: the registry says where it is.
        if len(data) > step:
            lost = await regctl("PATCH", location, 416, data[:step], Content_Range=f"0-{step - 1}")
            assert lost.headers["Range"] == f"0-{len(data) - 1}"
            assert (await regctl("GET", location, 204)).headers["Range"] == f"0-{len(data) - 1}"
        joined = closing(location, digest_of(data))
        pushed(await regctl("PUT", joined, 201, Content_Length="0"), digest_of(data))
        mount = f"?from=lib%2Fone&mount={digest_of(data).replace(':', '%3A')}"
        pushed(await regctl("POST", f"/v2/lib/copy/blobs/uploads/{mount}", 201, Content_Length="0"), digest_of(data))
    data = manifest()
    for place in ("one/manifests/v1", "one/manifests/v2", "copy/manifests/v1"):
        put = await regctl("PUT", f"/v2/lib/{place}", 201, data, Content_Type=MANIFEST)
        assert put.headers["Docker-Content-Digest"] == digest_of(data)
    await regctl.resolve("/v2/lib/copy/manifests/v1", MANIFEST, data)
    await regctl("DELETE", "/v2/lib/one/manifests/v1", 202)
    await regctl("HEAD", "/v2/lib/one/manifests/v1", 404)
    await regctl.resolve("/v2/lib/one/manifests/v2", MANIFEST, data)
    await regctl.resolve(f"/v2/lib/one/manifests/{digest_of(data)}", MANIFEST, data)
    assert (await regctl("GET", "/v2/lib/one/tags/list", 200, Accept="application/json")).json["tags"] == ["v2"]


@pytest.mark.parametrize("accept", ["", "application/json", DOCKER_LIST, f"{MANIFEST};q=0.1, text/html"])
async def test_whatever_a_client_accepts_is_what_was_pushed(crane: Replay, accept: str) -> None:
    data = await push_as_crane(crane)
    got = await crane("GET", "/v2/lib/one/manifests/v1", 200, **({"Accept": accept} if accept else {}))
    assert (got.body, got.headers["Content-Type"]) == (data, MANIFEST)
    again = await crane("GET", "/v2/lib/one/manifests/v1", 304, If_None_Match=got.headers["ETag"])
    assert again.body == b""
