"""distribution-spec spec.md#content-discovery."""

import re
from typing import Any

import pytest

from .conftest import CONFIG, INDEX, MANIFEST, Client, descriptor, digest_of

REPO = "/v2/test/repo"
TAGS = f"{REPO}/tags/list"
LINK = re.compile(r'<([^>]+)>; rel="next"\Z')


async def push_tags(client: Client, *tags: str) -> None:
    image = await client.image()
    for tag in tags:
        assert (await client.push_manifest(image, tag))[1].status == 201


async def test_tags_come_in_bytewise_order(client: Client) -> None:
    await push_tags(client, "b", "A", "a", "_x", "1.10", "1.9", "Z")
    answer = await client("GET", TAGS)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.json == {"name": "test/repo", "tags": ["1.10", "1.9", "A", "Z", "_x", "a", "b"]}
    assert "Link" not in answer.headers


async def test_pages_of_tags_follow_links(client: Client) -> None:
    await push_tags(client, *"abcdefg")
    seen: list[list[str]] = []
    path = f"{TAGS}?n=3"
    while path:
        answer = await client("GET", path)
        seen.append(answer.json["tags"])
        link = LINK.match(answer.headers.get("Link", ""))
        path = link[1] if link else ""
    assert seen == [["a", "b", "c"], ["d", "e", "f"], ["g"]]


@pytest.mark.parametrize(
    ("query", "tags", "has_more"),
    [
        ("n=0", [], False),
        ("n=7", list("abcdefg"), False),
        ("n=6", list("abcdef"), True),
        ("n=100", list("abcdefg"), False),
        ("last=c", list("defg"), False),
        ("n=2&last=c", list("de"), True),
        ("n=2&last=bb", list("cd"), True),
        ("last=zzz", [], False),
    ],
)
async def test_a_part_of_the_tags(client: Client, query: str, tags: list[str], has_more: bool) -> None:
    await push_tags(client, *"abcdefg")
    answer = await client("GET", f"{TAGS}?{query}")
    assert (answer.json["tags"], "Link" in answer.headers) == (tags, has_more)


@pytest.mark.parametrize("count", ["-1", "x", "1e3", "", "99999999999999999999", "\u0663"])
async def test_a_count_that_is_none_is_refused(client: Client, count: str) -> None:
    await push_tags(client, "a")
    answer = await client("GET", f"{TAGS}?n={count}")
    assert (answer.status, answer.codes) == (400, ["UNSUPPORTED"])


@pytest.mark.parametrize(
    "path",
    [f"{TAGS}?last=%00", "/v2/_catalog?last=a%00b", f"/v2/test/repo/referrers/{digest_of(b'x')}?artifactType=%00"],
)
async def test_a_query_with_a_nul_character_is_refused(client: Client, path: str) -> None:
    await push_tags(client, "a")
    answer = await client("GET", path)
    assert (answer.status, answer.codes) == (400, ["UNSUPPORTED"])
    assert (await client("GET", path.replace("%00", "%FF%01"))).status == 200


async def test_tags_of_a_repository_without_any_are_an_empty_list(client: Client) -> None:
    await client.push_blob(b"only a blob")
    assert (await client("GET", TAGS)).json == {"name": "test/repo", "tags": []}


async def test_tags_of_an_unknown_repository(client: Client) -> None:
    answer = await client("GET", "/v2/never/heard-of/tags/list")
    assert (answer.status, answer.codes) == (404, ["NAME_UNKNOWN"])


async def test_the_catalog_lists_repositories_by_pages(client: Client) -> None:
    assert (await client("GET", "/v2/_catalog")).json == {"repositories": []}
    for name in ("zoo", "a/b", "library/x"):
        await client.push_image("latest", name)
    assert (await client("GET", "/v2/_catalog")).json == {"repositories": ["a/b", "library/x", "zoo"]}
    answer = await client("GET", "/v2/_catalog?n=2")
    assert answer.json == {"repositories": ["a/b", "library/x"]}
    link = LINK.match(answer.headers["Link"])
    assert link
    answer = await client("GET", link[1])
    assert answer.json == {"repositories": ["zoo"]}
    assert "Link" not in answer.headers


class TestReferrers:
    async def push(self, client: Client, subject: str, seed: str, **extra: Any) -> str:
        image = await client.image(seed=seed, subject=descriptor(MANIFEST, subject), **extra)
        digest, answer = await client.push_manifest(image)
        assert (answer.status, answer.headers["OCI-Subject"]) == (201, subject)
        return digest

    async def test_nothing_refers(self, client: Client) -> None:
        for repository in ("test/repo", "never/heard-of"):
            answer = await client("GET", f"/v2/{repository}/referrers/sha256:{'0' * 64}")
            assert (answer.status, answer.headers["Content-Type"]) == (200, INDEX)
            assert answer.json == {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}

    async def test_what_refers_is_described(self, client: Client) -> None:
        subject = await client.push_image("latest")
        notes = {"org.example": "yes"}
        own = await self.push(client, subject, "1", artifactType="application/vnd.example.sbom", annotations=notes)
        by_config = await self.push(client, subject, "2")
        index = {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [],
            "subject": descriptor(MANIFEST, subject),
            "annotations": notes,
        }
        as_index, answer = await client.push_manifest(index, media_type=INDEX)
        assert answer.headers["OCI-Subject"] == subject
        answer = await client("GET", f"{REPO}/referrers/{subject}")
        found = {entry["digest"]: entry for entry in answer.json["manifests"]}
        assert found.keys() == {own, by_config, as_index}
        assert found[own]["artifactType"] == "application/vnd.example.sbom"
        assert found[own]["annotations"] == notes
        assert found[own]["mediaType"] == MANIFEST
        assert found[own]["size"] == int((await client("HEAD", f"{REPO}/manifests/{own}")).headers["Content-Length"])
        assert found[by_config]["artifactType"] == CONFIG
        assert "annotations" not in found[by_config]
        assert "artifactType" not in found[as_index]
        assert found[as_index]["annotations"] == notes

    async def test_a_filter_is_applied_and_confirmed(self, client: Client) -> None:
        subject = "sha256:" + "3" * 64
        sbom = await self.push(client, subject, "1", artifactType="application/vnd.example.sbom+json")
        await self.push(client, subject, "2", artifactType="application/vnd.example.sig")
        path = f"{REPO}/referrers/{subject}"
        answer = await client("GET", f"{path}?artifactType=application%2Fvnd.example.sbom%2Bjson")
        assert [entry["digest"] for entry in answer.json["manifests"]] == [sbom]
        assert answer.headers["OCI-Filters-Applied"] == "artifactType"
        answer = await client("GET", path)
        assert len(answer.json["manifests"]) == 2
        assert "OCI-Filters-Applied" not in answer.headers

    async def test_a_deleted_manifest_refers_no_more(self, client: Client) -> None:
        subject = await client.push_image("latest")
        referrer = await self.push(client, subject, "1")
        assert (await client("DELETE", f"{REPO}/manifests/{referrer}")).status == 202
        assert (await client("GET", f"{REPO}/referrers/{subject}")).json["manifests"] == []

    async def test_referrers_stay_when_the_subject_goes(self, client: Client) -> None:
        subject = await client.push_image("latest")
        referrer = await self.push(client, subject, "1")
        await client("DELETE", f"{REPO}/manifests/{subject}")
        entries = (await client("GET", f"{REPO}/referrers/{subject}")).json["manifests"]
        assert [entry["digest"] for entry in entries] == [referrer]

    async def test_a_manifest_under_the_fallback_tag_is_included(self, client: Client) -> None:
        subject = await client.push_image("latest")
        image = await client.image(seed="fallback", subject=descriptor(MANIFEST, subject))
        digest, _ = await client.push_manifest(image, subject.replace(":", "-"))
        entries = (await client("GET", f"{REPO}/referrers/{subject}")).json["manifests"]
        assert [entry["digest"] for entry in entries] == [digest]

    async def test_long_lists_come_in_pages(self, client: Client) -> None:
        subject = "sha256:" + "4" * 64
        image = await client.image(subject=descriptor(MANIFEST, subject))
        pushed = set()
        for number in range(5):  # each nearly a megabyte: together more than one index may be
            image["annotations"] = {"number": str(number), "fill": "x" * 900_000}
            pushed.add((await client.push_manifest(image))[0])
        seen: list[str] = []
        path = f"{REPO}/referrers/{subject}?artifactType={CONFIG.replace('+', '%2B')}"
        pages = 0
        while path:
            answer = await client("GET", path)
            assert len(answer.body) <= 4 << 20
            assert answer.headers["OCI-Filters-Applied"] == "artifactType"
            seen += [entry["digest"] for entry in answer.json["manifests"]]
            link = LINK.match(answer.headers.get("Link", ""))
            path = link[1] if link else ""
            pages += 1
        assert pages == 2
        assert sorted(pushed) == sorted(seen)

    @pytest.mark.parametrize("digest", ["latest", "sha256:xyz", "md5:" + "0" * 32, "sha256:" + "A" * 64])
    async def test_a_malformed_digest_is_refused(self, client: Client, digest: str) -> None:
        answer = await client("GET", f"{REPO}/referrers/{digest}")
        assert (answer.status, answer.codes) == (400, ["DIGEST_INVALID"])
