"""distribution-spec spec.md#push."""

import asyncio
import hashlib
import json
import re
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from scow.oci.digest import parse_digest
from scow.registry.errors import UploadBusy, UploadUnknown
from scow.registry.objects import object_name
from scow.registry.settings import Settings

from .conftest import CONFIG, INDEX, LAYER, MANIFEST, Client, Running, descriptor, digest_of

REPO = "/v2/test/repo"
UPLOADS = f"{REPO}/blobs/uploads/"
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    """A body of unknown length: aiohttp sends it chunked."""
    for part in parts:
        yield part


@pytest.mark.parametrize("slash", ["/", ""])
async def test_an_upload_begins_at_a_relative_location_with_a_uuid(client: Client, slash: str) -> None:
    answer = await client("POST", f"{REPO}/blobs/uploads{slash}", Content_Type="application/json")
    assert answer.status == 202
    location = answer.headers["Location"]
    assert location.startswith(UPLOADS)
    assert UUID.search(location)
    assert (answer.headers["Range"], answer.headers["Docker-Upload-UUID"]) == ("0-0", location.rpartition("/")[2])


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("chunked", [False, True], ids=["sized", "chunked"])
async def test_post_then_put(client: Client, algorithm: str, chunked: bool) -> None:
    data = b"monolithic" * 200_000
    digest = digest_of(data, algorithm)
    location = await client.begin()
    answer = await client("PUT", f"{location}?digest={digest}", pieces(data[:7], data[7:]) if chunked else data)
    assert (answer.status, answer.headers["Docker-Content-Digest"]) == (201, digest)
    assert (await client("GET", answer.headers["Location"])).body == data
    assert (await client("GET", location)).codes == ["BLOB_UPLOAD_UNKNOWN"]


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("data", [b"", b"single post"])
async def test_a_single_post(client: Client, data: bytes, algorithm: str) -> None:
    digest = digest_of(data, algorithm)
    answer = await client("POST", f"{UPLOADS}?digest={digest}", data)
    assert (answer.status, answer.headers["Location"]) == (201, f"{REPO}/blobs/{digest}")
    assert (await client("GET", answer.headers["Location"])).body == data


async def test_a_post_with_digest_and_without_body_begins_an_upload(client: Client) -> None:
    answer = await client("POST", f"{UPLOADS}?digest={digest_of(b'later')}")
    assert answer.status == 202
    answer = await client("PUT", f"{answer.headers['Location']}?digest={digest_of(b'later')}", b"later")
    assert answer.status == 201


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("announced", [True, False])
async def test_chunks_in_order(client: Client, algorithm: str, announced: bool) -> None:
    location = await client.begin(query=f"?digest-algorithm={algorithm}" if announced else "")
    answer = await client("PATCH", location, b"01234", Content_Range="0-4")
    assert (answer.status, answer.headers["Range"]) == (202, "0-4")
    answer = await client("PATCH", answer.headers["Location"], b"567", Content_Range="5-7")
    assert (answer.status, answer.headers["Range"]) == (202, "0-7")
    digest = digest_of(b"0123456789", algorithm)
    answer = await client("PUT", f"{answer.headers['Location']}?digest={digest}", b"89", Content_Range="8-9")
    assert answer.status == 201
    assert (await client("GET", answer.headers["Location"])).body == b"0123456789"


async def test_a_patch_without_range_appends(client: Client) -> None:
    location = await client.begin()
    answer = await client("PATCH", location, pieces(b"one", b"two"))
    assert (answer.status, answer.headers["Range"]) == (202, "0-5")
    answer = await client("PATCH", location, b"three")
    assert answer.headers["Range"] == "0-10"
    assert (await client("PUT", f"{location}?digest={digest_of(b'onetwothree')}")).status == 201


async def test_the_status_of_an_upload(client: Client) -> None:
    location = await client.begin()
    answer = await client("GET", location)
    assert (answer.status, answer.headers["Range"], answer.body) == (204, "0-0", b"")
    await client("PATCH", location, b"0123")
    answer = await client("GET", location)
    assert (answer.status, answer.headers["Range"], answer.headers["Location"]) == (204, "0-3", location)
    assert "Content-Length" not in answer.headers


@pytest.mark.parametrize("stated", ["0-2", "1-3", "5-7", "9-11"])
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_a_chunk_out_of_order_is_refused_with_where_to_go_on(client: Client, method: str, stated: str) -> None:
    location = await client.begin()
    await client("PATCH", location, b"0123", Content_Range="0-3")
    digest = digest_of(b"0123456")
    query = f"?digest={digest}" if method == "PUT" else ""
    answer = await client(method, location + query, b"456", Content_Range=stated)
    assert (answer.status, answer.headers["Range"], answer.headers["Location"]) == (416, "0-3", location)
    assert answer.codes == ["BLOB_UPLOAD_INVALID"]
    answer = await client("PUT", f"{location}?digest={digest}", b"456", Content_Range="4-6")
    assert answer.status == 201


async def test_the_first_chunk_begins_with_zero(client: Client) -> None:
    location = await client.begin()
    assert (await client("PATCH", location, b"456", Content_Range="4-6")).status == 416


@pytest.mark.parametrize("stated", ["0-1", "0-9", "3-0"])
@pytest.mark.parametrize("chunked", [False, True], ids=["sized", "chunked"])
async def test_a_chunk_that_is_not_its_range_is_refused_and_leaves_nothing(
    client: Client, stated: str, chunked: bool
) -> None:
    location = await client.begin()
    answer = await client("PATCH", location, pieces(b"01", b"234") if chunked else b"01234", Content_Range=stated)
    assert answer.status in (400, 416)
    assert answer.codes == (["SIZE_INVALID"] if answer.status == 400 else ["BLOB_UPLOAD_INVALID"])
    assert (await client("GET", location)).headers["Range"] == "0-0"
    assert (await client("PUT", f"{location}?digest={digest_of(b'right')}", b"right")).status == 201


@pytest.mark.parametrize("stated", ["bytes", "a-b", "1", "-", "0-", "-5", "0-4-5", "0x1-5"])
async def test_a_malformed_content_range_is_refused(client: Client, stated: str) -> None:
    location = await client.begin()
    answer = await client("PATCH", location, b"01234", Content_Range=stated)
    assert (answer.status, answer.codes) == (400, ["BLOB_UPLOAD_INVALID"])


async def test_content_of_another_digest_is_refused_and_not_stored(client: Client) -> None:
    wanted = digest_of(b"something else")
    location = await client.begin()
    answer = await client("PUT", f"{location}?digest={wanted}", b"data")
    assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])
    assert (await client("HEAD", f"{REPO}/blobs/{wanted}")).status == 404
    answer = await client("POST", f"{UPLOADS}?digest={wanted}", b"data")
    assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])
    assert (await client("HEAD", f"{REPO}/blobs/{digest_of(b'data')}")).status == 404


async def test_closing_needs_a_digest(client: Client) -> None:
    location = await client.begin()
    assert (await client("PUT", location, b"data")).codes == ["DIGEST_INVALID"]
    assert (await client("PUT", f"{location}?digest={digest_of(b'data')}", b"data")).status == 201


async def test_a_cancelled_upload_is_unknown(client: Client) -> None:
    location = await client.begin()
    await client("PATCH", location, b"data")
    answer = await client("DELETE", location)
    assert (answer.status, answer.body) == (204, b"")
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        query = f"?digest={digest_of(b'data')}" if method == "PUT" else ""
        assert (await client(method, location + query)).codes == ["BLOB_UPLOAD_UNKNOWN"]


async def test_an_upload_belongs_to_its_repository(client: Client) -> None:
    location = await client.begin("mine")
    other = location.replace("/v2/mine/", "/v2/theirs/")
    assert (await client("PATCH", other, b"data")).codes == ["BLOB_UPLOAD_UNKNOWN"]
    assert (await client("DELETE", other)).codes == ["BLOB_UPLOAD_UNKNOWN"]


async def held(running: Running, location: str) -> None:
    """Return as soon as a request has the upload in its hands."""
    while True:
        try:
            stage = await running.registry.objects.open_stage(location.rpartition("/")[2])
        except UploadBusy:
            return
        except UploadUnknown:
            pass  # it has none yet
        else:
            await stage.close()
        await asyncio.sleep(0.01)


@pytest.mark.in_storage
async def test_two_writers_of_one_upload_do_not_mix(client: Client, running: Running) -> None:
    location = await client.begin()
    release = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"first"
        await release.wait()
        yield b"last"

    slow = asyncio.create_task(client("PATCH", location, slowly()))
    async with asyncio.timeout(60):
        await held(running, location)
    answer = await client("PATCH", location, b"intruder")
    assert (answer.status, answer.codes) == (409, ["BLOB_UPLOAD_INVALID"])
    release.set()
    assert (await slow).headers["Range"] == "0-8"


@pytest.mark.in_storage
async def test_an_upload_that_is_cancelled_while_it_is_closed_is_unknown(
    client: Client, running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    location, release = await client.begin(), asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"first"
        await release.wait()
        yield b"last"

    digest = digest_of(b"firstlast")
    closing = asyncio.create_task(client("PUT", f"{location}?digest={digest}", slowly()))
    async with asyncio.timeout(60):
        await held(running, location)
    assert (await client("DELETE", location)).status == 204
    release.set()
    answer = await closing
    assert (answer.status, answer.codes) == (404, ["BLOB_UPLOAD_UNKNOWN"])
    assert (await client("HEAD", f"{REPO}/blobs/{digest}")).status == 404
    assert not caplog.records
    await client.push_blob(b"firstlast")


@pytest.mark.in_storage
async def test_a_cut_upload_goes_on_where_it_was(client: Client, running: Running) -> None:
    location = await client.begin()
    _, writer = await asyncio.open_connection(*running.url.removeprefix("http://").split(":"))
    head = f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\nContent-Range: 0-999\r\n\r\n"
    writer.write(head.encode() + b"0123456789")
    await writer.drain()
    async with asyncio.timeout(60):  # until it has read them: bytes of a closed connection that wait are lost
        while running.registry.uploads.held_size < 10:  # noqa: ASYNC110  # nothing else tells
            await asyncio.sleep(0.01)
    writer.close()
    await writer.wait_closed()
    async with asyncio.timeout(60):  # until the server has seen the cut
        while (answer := await client("GET", location)).headers["Range"] == "0-0":
            pass
    assert answer.headers["Range"] == "0-9"
    assert (await client("PATCH", location, b"abc", Content_Range="10-12")).status == 202
    digest = digest_of(b"0123456789abc")
    assert (await client("PUT", f"{location}?digest={digest}")).status == 201


async def test_an_upload_goes_on_after_a_restart(
    serve: Callable[..., Any], settings: Settings, running: Running, client: Client
) -> None:
    location = await client.begin()
    await client("PATCH", location, b"before ")
    await running.server.aclose()
    client.url = (await serve(settings)).url
    assert (await client("GET", location)).headers["Range"] == "0-6"
    await client("PATCH", location, b"after", Content_Range="7-11")
    digest = digest_of(b"before after")
    assert (await client("PUT", f"{location}?digest={digest}")).status == 201
    assert (await client("GET", f"{REPO}/blobs/{digest}")).body == b"before after"


async def test_another_process_can_go_on_with_an_upload(
    serve: Callable[..., Any], settings: Settings, client: Client
) -> None:
    """Nothing that matters is in memory: two servers on one folder, the requests alternating."""
    urls = [client.url, (await serve(settings)).url]
    location = await client.begin()
    for number in range(6):
        client.url = urls[number % 2]
        assert (await client("PATCH", location, b"%d" % number)).headers["Range"] == f"0-{number}"
    digest = digest_of(b"012345")
    assert (await client("PUT", f"{location}?digest={digest}")).status == 201
    client.url = urls[0]
    assert (await client("GET", f"{REPO}/blobs/{digest}")).body == b"012345"
    pushed = await client.push_image("latest")
    client.url = urls[1]
    assert (await client("GET", f"{REPO}/manifests/latest")).headers["Docker-Content-Digest"] == pushed
    moved = await client.push_image("latest", seed="2")
    client.url = urls[0]
    assert (await client("GET", f"{REPO}/manifests/latest")).headers["Docker-Content-Digest"] == moved


async def test_the_same_blob_pushed_by_many_at_once(client: Client) -> None:
    data = b"popular" * 100_000
    digests = await asyncio.gather(*(client.push_blob(data, f"user{number}") for number in range(8)))
    assert set(digests) == {digest_of(data)}
    for number in range(8):
        assert (await client("GET", f"/v2/user{number}/blobs/{digests[0]}")).body == data


async def test_what_was_published_takes_no_more_bytes(running: Running) -> None:
    objects, digest, name = running.registry.objects, digest_of(b"whole"), str(uuid.uuid4())
    stage = await objects.open_stage(name, create=True)
    published = object_name(parse_digest(digest), name)
    await stage.publish(published, [b"whole"], hashlib.sha256())
    await stage.close()  # as if its holder had died before the stage was discarded
    stage = await objects.open_stage(name)
    with pytest.raises(UploadUnknown):
        await stage.append([b"more"], [])
    await stage.close()
    assert await objects.verify(published)


class TestMount:
    async def test_a_blob_is_mounted_from_another_repository(self, client: Client) -> None:
        digest = await client.push_blob(b"shared", "from")
        answer = await client("POST", f"{UPLOADS}?mount={digest}&from=from&origin=host")
        assert (answer.status, answer.headers["Location"]) == (201, f"{REPO}/blobs/{digest}")
        assert answer.headers["Docker-Content-Digest"] == digest
        assert (await client("GET", answer.headers["Location"])).body == b"shared"

    @pytest.mark.parametrize("source", ["&from=nowhere", "&from=test/repo", "&from=Not+A+Name"])
    async def test_otherwise_an_upload_begins(self, client: Client, source: str) -> None:
        digest = await client.push_blob(b"shared", "from")
        answer = await client("POST", f"{UPLOADS}?mount={digest}{source}")
        assert answer.status == 202
        location = answer.headers["Location"]
        assert (await client("HEAD", f"{REPO}/blobs/{digest}")).status == 404
        assert (await client("PUT", f"{location}?digest={digest}", b"shared")).status == 201

    async def test_a_malformed_digest_is_refused(self, client: Client) -> None:
        assert (await client("POST", f"{UPLOADS}?mount=sha256:x&from=from")).codes == ["DIGEST_INVALID"]


class TestManifests:
    async def test_the_answer_names_location_and_digest(self, client: Client) -> None:
        digest, answer = await client.push_manifest(await client.image(), "v1")
        assert answer.status == 201
        assert answer.headers["Location"] == f"{REPO}/manifests/{digest}"
        assert answer.headers["Docker-Content-Digest"] == digest
        assert "OCI-Subject" not in answer.headers

    async def test_a_manifest_by_sha512(self, client: Client) -> None:
        data = json.dumps(await client.image()).encode()
        digest = digest_of(data, "sha512")
        answer = await client("PUT", f"{REPO}/manifests/{digest}", data, Content_Type=MANIFEST)
        assert (answer.status, answer.headers["Docker-Content-Digest"]) == (201, digest)
        assert (await client("GET", f"{REPO}/manifests/{digest}")).body == data

    async def test_a_manifest_under_another_digest_is_refused(self, client: Client) -> None:
        _, answer = await client.push_manifest(await client.image(), "sha256:" + "0" * 64)
        assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])

    async def test_tags_along_with_a_digest(self, client: Client) -> None:
        image = await client.image()
        tags = [f"v{number}" for number in range(12)]
        digest = digest_of(json.dumps(image).encode())
        query = "&".join(f"tag={tag}" for tag in tags)
        _, answer = await client.push_manifest(image, f"{digest}?{query}")
        assert answer.status == 201
        assert answer.headers.getall("OCI-Tag") == tags
        for tag in tags:
            assert (await client("HEAD", f"{REPO}/manifests/{tag}")).headers["Docker-Content-Digest"] == digest
        _, answer = await client.push_manifest(image, f"{digest}?tag=fine&tag=.bad")
        assert answer.codes == ["TAG_INVALID"]
        assert (await client("HEAD", f"{REPO}/manifests/fine")).status == 404

    async def test_more_tags_than_a_request_may_have_are_refused_as_a_whole(self, client: Client) -> None:
        data = json.dumps(await client.image()).encode()
        path = f"{REPO}/manifests/{digest_of(data)}?{'&'.join(f'tag=t{number}' for number in range(101))}"
        answer = await client("PUT", path, data, Content_Type=MANIFEST)
        assert (answer.status, answer.codes) == (414, ["UNSUPPORTED"])
        assert (await client("GET", f"{REPO}/tags/list")).json["tags"] == []

    async def test_each_missing_blob_is_named(self, client: Client) -> None:
        image = await client.image()
        missing = ["sha256:" + "1" * 64, "sha512:" + "2" * 128]
        image["layers"] += [descriptor(LAYER, digest) for digest in missing]
        _, answer = await client.push_manifest(image, "v1")
        assert answer.status == 400
        assert answer.codes == ["MANIFEST_BLOB_UNKNOWN"] * 2
        assert [error["detail"]["digest"] for error in answer.json["errors"]] == missing
        assert [error["message"].rpartition(": ")[2] for error in answer.json["errors"]] == missing
        assert (await client("HEAD", f"{REPO}/manifests/v1")).status == 404

    async def test_blobs_of_another_repository_are_missing(self, client: Client) -> None:
        _, answer = await client.push_manifest(await client.image("other/repo"), "v1")
        assert answer.codes == ["MANIFEST_BLOB_UNKNOWN"] * 2

    async def test_foreign_layers_need_not_be_here(self, client: Client) -> None:
        image = await client.image()
        foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        image["layers"].append(descriptor(foreign, "sha256:" + "1" * 64))
        image["layers"].append(descriptor(LAYER, "sha256:" + "2" * 64, urls=["https://elsewhere.example/x"]))
        _, answer = await client.push_manifest(image, "v1")
        assert answer.status == 201

    async def test_embedded_data_does_not_replace_a_blob(self, client: Client) -> None:
        image = await client.image()
        image["config"] = descriptor(CONFIG, digest_of(b"{} "), 3, data="e30g")
        _, answer = await client.push_manifest(image, "v1")
        assert answer.codes == ["MANIFEST_BLOB_UNKNOWN"]

    async def test_an_index_needs_its_manifests(self, client: Client) -> None:
        child = await client.push_image("child")
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(MANIFEST, child)]}
        _, answer = await client.push_manifest(index, "multi", media_type=INDEX)
        assert answer.status == 201
        assert (await client("GET", f"{REPO}/manifests/multi")).headers["Content-Type"] == INDEX
        index["manifests"] = [descriptor(MANIFEST, "sha256:" + "1" * 64)]
        _, answer = await client.push_manifest(index, "broken", media_type=INDEX)
        assert answer.codes == ["MANIFEST_BLOB_UNKNOWN"]

    async def test_an_empty_index_and_an_image_without_layers_are_fine(self, client: Client) -> None:
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}
        assert (await client.push_manifest(index, "empty", media_type=INDEX))[1].status == 201
        assert (await client.push_manifest(await client.image(layers=[]), "bare"))[1].status == 201

    @pytest.mark.parametrize(
        "media_type",
        [
            "application/vnd.docker.distribution.manifest.v2+json",
            "application/vnd.oci.artifact.manifest.v1+json",
            "application/vnd.example.anything+json",
        ],
    )
    async def test_a_manifest_of_any_media_type(self, client: Client, media_type: str) -> None:
        image = await client.image()
        image["mediaType"] = media_type
        _, answer = await client.push_manifest(image, "any", media_type=media_type)
        assert answer.status == 201
        assert (await client("GET", f"{REPO}/manifests/any")).headers["Content-Type"] == media_type

    async def test_parameters_of_the_content_type_are_ignored(self, client: Client) -> None:
        _, answer = await client.push_manifest(await client.image(), "v1", media_type=f"{MANIFEST}; charset=utf-8")
        assert answer.status == 201
        assert (await client("GET", f"{REPO}/manifests/v1")).headers["Content-Type"] == MANIFEST

    @pytest.mark.parametrize("own", [True, False])
    async def test_the_case_of_a_media_type_is_kept_and_means_nothing(self, client: Client, own: bool) -> None:
        image, media_type = await client.image(), "application/vnd.Example.Thing+json"
        image |= {"mediaType": media_type if own else None}
        _, answer = await client.push_manifest(image, "v1", media_type=media_type)
        assert answer.status == 201
        assert (await client("GET", f"{REPO}/manifests/v1")).headers["Content-Type"] == media_type
        _, answer = await client.push_manifest({**image, "mediaType": media_type}, "v2", media_type=media_type.upper())
        assert answer.status == 201
        assert (await client("GET", f"{REPO}/manifests/v2")).headers["Content-Type"] == media_type

    async def test_without_a_useful_content_type_the_document_decides(self, client: Client) -> None:
        image = await client.image()
        _, answer = await client.push_manifest(image, "v1", media_type="application/octet-stream")
        assert answer.status == 201
        assert (await client("GET", f"{REPO}/manifests/v1")).headers["Content-Type"] == MANIFEST
        del image["mediaType"]
        _, answer = await client.push_manifest(image, "v2", media_type="application/json")
        assert (await client("GET", f"{REPO}/manifests/v2")).headers["Content-Type"] == MANIFEST

    async def test_four_megabytes_are_taken_and_more_is_too_large(self, client: Client) -> None:
        image = await client.image()
        image["annotations"] = {"fill": ""}
        room = (4 << 20) - len(json.dumps(image))
        image["annotations"]["fill"] = "x" * room
        assert (await client.push_manifest(image, "large"))[1].status == 201
        image["annotations"]["fill"] += "x"
        _, answer = await client.push_manifest(image, "larger")
        assert (answer.status, answer.codes) == (413, ["MANIFEST_INVALID"])
        data = json.dumps(image).encode()
        answer = await client("PUT", f"{REPO}/manifests/larger", pieces(data[:1000], data[1000:]))
        assert answer.status == 413

    async def test_what_would_take_many_times_its_size_in_memory_is_refused(self, client: Client) -> None:
        image = await client.image()
        noted = image | {"annotations": {f"{number:x}": "" for number in range(110_000)}}
        _, answer = await client.push_manifest(noted, "notes")
        assert (answer.status, answer.codes) == (400, ["MANIFEST_INVALID"])
        foreign = image["layers"][0] | {"urls": [""] * 30_000}
        _, answer = await client.push_manifest(image | {"layers": [foreign]}, "urls")
        assert (answer.status, answer.codes) == (400, ["MANIFEST_INVALID"])
        foreign["urls"] = [1]
        _, answer = await client.push_manifest(image | {"layers": [foreign]}, "urls")
        assert (answer.status, answer.codes) == (400, ["MANIFEST_INVALID"])

    async def test_many_annotations_with_quotation_marks_are_taken(self, client: Client) -> None:
        image = await client.image(annotations={f"key{number}": '{"a":"b"}' for number in range(40_000)})
        assert (await client.push_manifest(image, "notes"))[1].status == 201

    async def test_an_artifact_type_with_a_nul_character_is_refused(self, client: Client) -> None:
        manifest = await client.image()
        for changes in ({"artifactType": "a/b\0c"}, {"config": {**manifest["config"], "mediaType": "a/b\0c"}}):
            _, answer = await client.push_manifest({**manifest, **changes}, "v1")
            assert (answer.status, answer.codes) == (400, ["MANIFEST_INVALID"])
        subject = descriptor(MANIFEST, digest_of(b"absent"))
        _, answer = await client.push_manifest({**manifest, "subject": subject, "annotations": {"a\0": "\0"}}, "v1")
        assert answer.status == 201
        (shown,) = (await client("GET", f"{REPO}/referrers/{subject['digest']}")).json["manifests"]
        assert shown["annotations"] == {"a\0": "\0"}

    async def test_a_subject_may_be_missing_and_is_confirmed(self, client: Client) -> None:
        subject = "sha256:" + "5" * 64
        image = await client.image(subject=descriptor(MANIFEST, subject))
        _, answer = await client.push_manifest(image, "sig")
        assert (answer.status, answer.headers["OCI-Subject"]) == (201, subject)

    async def test_the_same_manifest_twice_is_fine(self, client: Client) -> None:
        image = await client.image()
        assert [(await client.push_manifest(image, "v1"))[1].status for _ in range(2)] == [201, 201]


class TestConditions:
    """distribution-spec spec.md#pushing-manifests-with-subject, RFC 9110 section 13."""

    async def test_a_tag_is_made_only_if_it_is_new(self, client: Client) -> None:
        first = await client.push_image("v1", seed="1")
        data = json.dumps(await client.image(seed="2")).encode()
        for path in ("v1", digest_of(data)):
            answer = await client("PUT", f"{REPO}/manifests/{path}", data, Content_Type=MANIFEST, If_None_Match="*")
            assert answer.status == (412 if path == "v1" else 201)
        answer = await client("PUT", f"{REPO}/manifests/v2", data, Content_Type=MANIFEST, If_None_Match="*")
        assert answer.status == 201
        assert (await client("HEAD", f"{REPO}/manifests/v1")).headers["Docker-Content-Digest"] == first

    async def test_a_tag_moves_only_from_what_the_client_has_seen(self, client: Client) -> None:
        first = await client.push_image("v1", seed="1")
        second = json.dumps(await client.image(seed="2")).encode()
        path = f"{REPO}/manifests/v1"
        for condition in (
            {"If_Match": '"sha256:other"'},
            {"If_Match": f'W/"{first}"'},
            {"If_None_Match": f'"{first}"'},
        ):
            answer = await client("PUT", path, second, Content_Type=MANIFEST, **condition)
            assert (answer.status, answer.codes) == (412, ["DENIED"])
            assert answer.json["errors"][0]["detail"] == {"digest": first}
            answer = await client("DELETE", path, **condition)
            assert answer.status == 412
        for condition in ({"If_Match": f'"x", "{first}"'}, {"If_Match": "*"}):
            answer = await client("PUT", path, second, Content_Type=MANIFEST, **condition)
            assert answer.status == 201
            first = answer.headers["Docker-Content-Digest"]
        answer = await client("PUT", f"{REPO}/manifests/none", second, Content_Type=MANIFEST, If_Match="*")
        assert (answer.status, answer.json["errors"][0]["detail"]) == (412, {"digest": None})
        assert (await client("DELETE", path, If_Match=f'"{first}"')).status == 202

    async def test_of_many_that_saw_the_same_one_wins(self, client: Client) -> None:
        seen = await client.push_image("v1")
        others = [json.dumps(await client.image(seed=str(number))).encode() for number in range(8)]
        answers = await asyncio.gather(
            *(
                client("PUT", f"{REPO}/manifests/v1", data, Content_Type=MANIFEST, If_Match=f'"{seen}"')
                for data in others
            )
        )
        assert sorted(answer.status for answer in answers) == [201] + [412] * 7
        answers = await asyncio.gather(
            *(client("PUT", f"{REPO}/manifests/new", data, Content_Type=MANIFEST, If_None_Match="*") for data in others)
        )
        assert sorted(answer.status for answer in answers) == [201] + [412] * 7

    async def test_readers_can_insist_too(self, client: Client) -> None:
        digest, blob = await client.push_image("v1"), await client.push_blob(b"data")
        for path, known in ((f"{REPO}/manifests/v1", digest), (f"{REPO}/blobs/{blob}", blob)):
            assert (await client("GET", path, If_Match=f'"{known}"')).status == 200
            assert (await client("GET", path, If_Match='"sha256:other"')).status == 412
            assert (await client("GET", path, If_Match=f'"{known}"', If_None_Match=f'"{known}"')).status == 304


@pytest.mark.parametrize("ending", ["cancelled", "finished"])
async def test_an_upload_that_ended_at_one_process_is_unknown_to_the_other(
    serve: Callable[..., Any], settings: Settings, client: Client, ending: str
) -> None:
    here, there = client.url, (await serve(settings)).url
    location = await client.begin()
    client.url = there
    assert (await client("PATCH", location, b"data")).status == 202
    client.url = here
    if ending == "cancelled":
        assert (await client("DELETE", location)).status == 204
    else:
        assert (await client("PUT", f"{location}?digest={digest_of(b'data')}")).status == 201
    client.url = there
    for method, query in (("PATCH", ""), ("GET", ""), ("PUT", f"?digest={digest_of(b'data')}"), ("DELETE", "")):
        answer = await client(method, location + query)
        assert (answer.status, answer.codes) == (404, ["BLOB_UPLOAD_UNKNOWN"])
