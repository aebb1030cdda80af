"""Immutable tags, quotas, retention, limits."""

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from scow.registry.metadata import QuotaUse
from scow.registry.policies import DAY_S, Policies, Quota, TagTime
from scow.registry.settings import Gc, Limits, Policy, Settings, SettingsInvalid
from scow.registry.warnings import quota_warnings

from .conftest import INDEX, MANIFEST, Client, Running, descriptor, digest_of

REPO = "/v2/test/repo"


@pytest.fixture
async def started(serve: Callable[..., Any], settings: Settings, client: Client) -> Callable[..., Any]:
    """Serve with policies; the client speaks to that server from then on."""

    async def start(*policies: Policy, **changes: Any) -> Running:
        running: Running = await serve(settings, policies=list(policies), **changes)
        client.url = running.url
        return running

    return start


class TestImmutableTags:
    async def test_a_tag_that_matches_never_moves_nor_goes(self, client: Client, started: Callable[..., Any]) -> None:
        await started(Policy(repositories=["test/**"], immutable_tags=["v*"]))
        first = await client.push_image("v1", seed="1")
        assert await client.push_image("v1", seed="1") == first  # the same again is no change
        _, answer = await client.push_manifest(await client.image(seed="2"), "v1")
        assert (answer.status, answer.codes) == (403, ["DENIED"])
        assert answer.json["errors"][0]["message"] == "tag v1 is immutable"
        for reference in ("v1", first):
            assert (await client("DELETE", f"{REPO}/manifests/{reference}")).codes == ["DENIED"]
        assert (await client("GET", f"{REPO}/manifests/v1")).headers["Docker-Content-Digest"] == first

    async def test_what_an_immutable_tag_stands_for_stays_whole(
        self, client: Client, started: Callable[..., Any]
    ) -> None:
        await started(Policy(repositories=["test/**"], immutable_tags=["v*"]))
        inner, other = await client.image(seed="inner"), await client.image(seed="other")
        child, free = [(await client.push_manifest(each))[0] for each in (inner, other)]
        index = {"schemaVersion": 2, "manifests": [descriptor(MANIFEST, child)]}
        middle, _ = await client.push_manifest(index, media_type=INDEX)
        top = {"schemaVersion": 2, "manifests": [descriptor(INDEX, middle)], "annotations": {"top": "yes"}}
        await client.push_manifest(top, "v1", media_type=INDEX)
        layer = inner["layers"][0]["digest"]
        for path in (f"manifests/{middle}", f"manifests/{child}", f"blobs/{layer}"):
            answer = await client("DELETE", f"{REPO}/{path}")
            assert (answer.status, answer.codes) == (403, ["DENIED"])
            assert answer.json["errors"][0]["detail"] == {"tag": "v1"}
            assert (await client("HEAD", f"{REPO}/{path}")).status == 200
        for path in (f"manifests/{free}", f"blobs/{other['layers'][0]['digest']}"):
            assert (await client("DELETE", f"{REPO}/{path}")).status == 202

    async def test_other_tags_and_repositories_are_free(self, client: Client, started: Callable[..., Any]) -> None:
        await started(Policy(repositories=["test/**"], immutable_tags=["v*"]))
        for repository, tag in (("test/repo", "latest"), ("other", "v1")):
            await client.push_image(tag, repository, seed="1")
            await client.push_image(tag, repository, seed="2")
            assert (await client("DELETE", f"/v2/{repository}/manifests/{tag}")).status == 202

    async def test_tags_of_one_request_come_together_or_not_at_all(
        self, client: Client, started: Callable[..., Any]
    ) -> None:
        await started(Policy(repositories=["**"], immutable_tags=["v1"]))
        await client.push_image("v1", seed="1")
        image = await client.image(seed="2")
        digest, _ = await client.push_manifest(image)
        _, answer = await client.push_manifest(image, f"{digest}?tag=new&tag=v1")
        assert answer.codes == ["DENIED"]
        assert (await client("GET", f"{REPO}/tags/list")).json["tags"] == ["v1"]


class TestQuotas:
    async def test_a_repository_takes_so_many_bytes(self, client: Client, started: Callable[..., Any]) -> None:
        running = await started(Policy(repositories=["test/*"], quota_size=100), gc=Gc(interval_s=0, grace_s=0))
        await client.push_blob(bytes(60))
        for attempt in (bytes(41), b"x" * 50):
            location = await client.begin()
            answer = await client("PUT", f"{location}?digest={digest_of(attempt)}", attempt)
            assert (answer.status, answer.codes) == (403, ["DENIED"])
            # A stream shows its size only at the end.
            location = await client.begin()
            await client("PATCH", location, attempt)
            answer = await client("PUT", f"{location}?digest={digest_of(attempt)}")
            assert (answer.status, answer.codes) == (403, ["DENIED"])
            assert (await client("HEAD", f"{REPO}/blobs/{digest_of(attempt)}")).status == 404
        assert (await client("POST", f"{REPO}/blobs/uploads/?digest={digest_of(bytes(41))}", bytes(41))).status == 403
        await client.push_blob(bytes(60))  # what it has costs nothing
        await client.push_blob(bytes(40))
        await client.push_blob(bytes(40), "test/other")
        assert (await client("POST", f"{REPO}/blobs/uploads/")).status == 403  # refused before anything is sent
        assert (await client("DELETE", f"{REPO}/blobs/{digest_of(bytes(60))}")).status == 202
        await client.push_blob(bytes(41))
        done = await running.registry.collector.collect()
        assert done.blobs >= 1  # what was refused at its end is left to collection

    async def test_no_more_than_a_quota_is_ever_staged(self, client: Client, started: Callable[..., Any]) -> None:
        running = await started(Policy(repositories=["test/*"], quota_size=100))

        async def stream() -> AsyncIterator[bytes]:
            for _ in range(11):
                yield bytes(10)

        for body in (bytes(101), stream()):
            location = await client.begin()
            answer = await client("PATCH", location, body)
            assert (answer.status, answer.codes) == (403, ["DENIED"])
            await client("DELETE", location)
        location = await client.begin()
        assert (await client("PATCH", location, bytes(60))).status == 202
        assert (await client("PATCH", location, stream())).codes == ["DENIED"]
        assert (await client("GET", location)).codes == ["BLOB_UPLOAD_UNKNOWN"]
        assert await running.registry.objects.staged() == []

    async def test_a_mount_counts(self, client: Client, started: Callable[..., Any]) -> None:
        await started(Policy(repositories=["test/*"], quota_size=50))
        digest = await client.push_blob(bytes(60), "free")
        answer = await client("POST", f"{REPO}/blobs/uploads/?mount={digest}&from=free")
        assert (answer.status, answer.codes) == (403, ["DENIED"])

    async def test_a_namespace_shares_its_bytes(self, client: Client, started: Callable[..., Any]) -> None:
        await started(Policy(repositories=["team/**"], namespace_quota_size=100))
        await client.push_blob(bytes(50), "team/a")
        await client.push_blob(bytes(45), "team/b/c")
        await client.push_blob(bytes(500), "teams")
        answer = await client("POST", f"/v2/team/d/blobs/uploads/?digest={digest_of(bytes(6))}", bytes(6))
        assert (answer.status, answer.codes) == (403, ["DENIED"])
        await client.push_blob(bytes(5), "team/d")

    async def test_whoever_pushes_is_warned_of_a_quota_that_is_nearly_used_up(
        self, client: Client, started: Callable[..., Any]
    ) -> None:
        """distribution-spec spec.md#warnings."""
        await started(
            Policy(repositories=["team/**"], namespace_quota_size=1000), Policy(repositories=["team/a"], quota_size=800)
        )
        image = await client.image("team/a")
        used = sum(each["size"] for each in (image["config"], *image["layers"]))
        uploads = "/v2/team/a/blobs/uploads/"

        async def push(size: int) -> list[str]:
            data = b"x" * size
            answer = await client("POST", f"{uploads}?digest={digest_of(data)}", data)
            assert answer.status == 201
            return answer.headers.getall("Warning", [])

        assert await push(719 - used) == []
        repository = '299 - "team/a uses 90 % of its quota: 720 of 800 bytes"'
        assert await push(1) == [repository]
        await client.push_blob(bytes(200), "team/b")
        both = ['299 - "namespace team uses 92 % of its quota: 920 of 1000 bytes"', repository]
        begun = await client("POST", uploads)
        assert begun.headers.getall("Warning") == both
        assert (await client("PUT", f"{begun.headers['Location']}?digest={digest_of(b'x')}", b"x")).headers["Warning"]
        _, answer = await client.push_manifest(image, "v1", "team/a")
        assert answer.headers.getall("Warning") == both
        answer = await client("POST", "/v2/team/b/blobs/uploads/")
        assert answer.headers.getall("Warning") == both[:1]
        for method, path in (("GET", "/v2/team/a/manifests/v1"), ("DELETE", begun.headers["Location"])):
            assert "Warning" not in (await client(method, path)).headers

    async def test_whoever_uses_a_deprecated_tag_is_warned(self, client: Client, started: Callable[..., Any]) -> None:
        await started(Policy(repositories=["test/**"], deprecated_tags=["1.*"]))
        warning = '299 - "tag 1.2 of test/repo is deprecated"'
        digest, answer = await client.push_manifest(await client.image(), "1.2")
        assert answer.headers.getall("Warning") == [warning]
        for method in ("HEAD", "GET"):
            assert (await client(method, f"{REPO}/manifests/1.2")).headers.getall("Warning") == [warning]
        assert (await client("GET", f"{REPO}/manifests/1.2", If_None_Match=f'"{digest}"')).headers["Warning"] == warning
        await client.push_image("2.0")
        for path in ("2.0", digest, "1.3"):
            assert "Warning" not in (await client("GET", f"{REPO}/manifests/{path}")).headers

    def test_warnings_take_four_kibibytes_at_most(self) -> None:
        uses = [QuotaUse(Quota(100, "n" * 200), 95) for _ in range(100)]
        headers = quota_warnings("n" * 255, uses)
        assert 3500 < sum(len(value) for _, value in headers) <= 4096
        assert all(re.fullmatch(r'299 - "[^"\\]*"', value) for _, value in headers)

    def test_a_namespace_has_to_be_one(self) -> None:
        with pytest.raises(SettingsInvalid, match=r"a\*b: namespace_quota_size needs patterns of the form"):
            Policies([Policy(repositories=["a*b"], namespace_quota_size=1)])


class TestLimits:
    async def test_a_blob_may_be_so_large(self, client: Client, started: Callable[..., Any]) -> None:
        running = await started(limits=Limits(blob_size=1000))
        await client.push_blob(bytes(1000))
        digest = digest_of(bytes(1001))
        location = await client.begin()
        answer = await client("PUT", f"{location}?digest={digest}", bytes(1001))
        assert (answer.status, answer.codes) == (413, ["SIZE_INVALID"])
        await client("DELETE", location)
        location = await client.begin()
        await client("PATCH", location, bytes(600))
        answer = await client("PATCH", location, bytes(600))
        assert (answer.status, answer.codes) == (413, ["SIZE_INVALID"])
        assert (await client("GET", location)).status == 404
        assert await running.registry.objects.staged() == []

    async def test_a_manifest_may_be_so_large(self, client: Client, started: Callable[..., Any]) -> None:
        await started(limits=Limits(manifest_size=500))
        image = await client.image(annotations={"fill": "x" * 500})
        assert (await client.push_manifest(image, "large"))[1].status == 413


NOW = 1_000_000_000.0


def kept(policy: Policy, **ages_days: float) -> set[str]:
    """Tags that stay, of those with such ages."""
    tags = [TagTime(name.replace("_", "."), NOW - age * DAY_S) for name, age in ages_days.items()]
    gone = {tag.name for tag in Policies([policy]).expired_tags("test/repo", tags, NOW)}
    return {tag.name for tag in tags} - gone


class TestRetentionRules:
    def test_the_last_ones_stay(self) -> None:
        policy = Policy(repositories=["**"], keep_last=2)
        assert kept(policy, a=1, b=2, c=3, d=400) == {"a", "b"}

    def test_the_young_ones_stay(self) -> None:
        policy = Policy(repositories=["**"], keep_days=30)
        assert kept(policy, a=1, b=29, c=31, d=400) == {"a", "b"}

    def test_a_tag_goes_when_neither_keeps_it(self) -> None:
        policy = Policy(repositories=["**"], keep_last=3, keep_days=2)
        assert kept(policy, a=1, b=3, c=4, d=5) == {"a", "b", "c"}
        assert kept(policy, a=0.1, b=0.2, c=1, d=1.5, e=5) == {"a", "b", "c", "d"}

    def test_tags_by_pattern_stay_and_don_t_count(self) -> None:
        policy = Policy(repositories=["**"], keep_last=1, keep_tags=["v*", "latest"])
        assert kept(policy, latest=400, v1_0=300, x=2, y=1) == {"latest", "v1.0", "y"}

    def test_a_rule_about_some_tags_leaves_the_others_alone(self) -> None:
        policy = Policy(repositories=["**"], expire_tags=["pr-*", "nightly-*"], keep_days=7, keep_tags=["pr-1"])
        ages = {"pr-1": 90, "pr-2": 8, "pr-3": 1, "nightly-1": 30, "v1": 400, "latest": 0}
        assert kept(policy, **ages) == {"pr-1", "pr-3", "v1", "latest"}
        last = Policy(repositories=["**"], expire_tags=["pr-*"], keep_last=1)
        assert kept(last, **ages) == {"pr-3", "nightly-1", "v1", "latest"}

    def test_a_rule_about_all_tags_counts_for_those_of_another_rule_too(self) -> None:
        policies = Policies(
            [
                Policy(repositories=["**"], expire_tags=["pr-*"], keep_days=7),
                Policy(repositories=["**"], keep_last=2),
            ]
        )
        tags = [TagTime(name, NOW - age * DAY_S) for name, age in (("pr-1", 9), ("v1", 1), ("pr-2", 10), ("v2", 20))]
        assert [tag.name for tag in policies.expired_tags("test/repo", tags, NOW)] == ["pr-2", "v2"]

    def test_immutable_tags_stay(self) -> None:
        policy = Policy(repositories=["**"], keep_last=1, immutable_tags=["v*"])
        assert kept(policy, v1=400, a=1, b=2) == {"v1", "a"}

    def test_what_one_policy_keeps_another_does_not_remove(self) -> None:
        policies = Policies([Policy(repositories=["test/*"], keep_last=1), Policy(repositories=["**"], keep_days=10)])
        tags = [TagTime("a", NOW), TagTime("b", NOW - 5 * DAY_S), TagTime("c", NOW - 50 * DAY_S)]
        assert [tag.name for tag in policies.expired_tags("test/repo", tags, NOW)] == ["c"]

    def test_without_retention_nothing_goes(self) -> None:
        assert kept(Policy(repositories=["**"]), a=9999) == {"a"}
        assert kept(Policy(repositories=["elsewhere"], keep_last=1), a=9999, b=9999) == {"a", "b"}


class TestRetention:
    async def test_old_tags_go_and_what_only_they_held(
        self, client: Client, started: Callable[..., Any], settings: Settings
    ) -> None:
        # Just above zero: every manifest without a tag is old enough.
        policy = Policy(repositories=["test/**"], keep_last=2, untagged_days=1e-9)
        running = await started(policy, gc=Gc(interval_s=0, grace_s=0))
        digests = [await client.push_image(f"t{number}", seed=str(number)) for number in range(4)]
        await client.push_image("t0", "other", seed="0")
        plan = await running.registry.collector.plan()
        assert sorted(plan.tags) == [("test/repo", "t0"), ("test/repo", "t1")]
        assert (await client("GET", f"{REPO}/tags/list")).json["tags"] == ["t0", "t1", "t2", "t3"]
        done = await running.registry.collector.collect()
        assert (done.tags, done.manifests) == (2, 2)
        assert (await client("GET", f"{REPO}/tags/list")).json["tags"] == ["t2", "t3"]
        statuses = [(await client("GET", f"{REPO}/manifests/{digest}")).status for digest in digests]
        assert statuses == [404, 404, 200, 200]
        assert done.blobs == 2  # those of t1; the other repository has those of t0
        assert (await client("GET", "/v2/other/manifests/t0")).status == 200

    async def test_untagged_manifests_stay_while_something_needs_them(
        self, client: Client, started: Callable[..., Any]
    ) -> None:
        running = await started(Policy(repositories=["**"], untagged_days=1e-9))
        index_type = "application/vnd.oci.image.index.v1+json"
        child, _ = await client.push_manifest(await client.image(seed="child"))
        lone, _ = await client.push_manifest(await client.image(seed="lone"))
        manifest = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": child, "size": 2}
        index = {"schemaVersion": 2, "mediaType": index_type, "manifests": [manifest]}
        await client.push_manifest(index, "multi", media_type=index_type)
        subject = {**manifest, "digest": await client.push_image("signed", seed="signed")}
        signature, _ = await client.push_manifest(await client.image(seed="signature", subject=subject))
        assert [digest for _, digest in (await running.registry.collector.plan()).manifests] == [lone]
        assert (await running.registry.collector.collect()).manifests == 1
        for digest, status in ((child, 200), (signature, 200), (lone, 404)):
            assert (await client("GET", f"{REPO}/manifests/{digest}")).status == status

    async def test_a_manifest_is_as_old_as_the_loss_of_its_last_tag(
        self, client: Client, started: Callable[..., Any], running: Running
    ) -> None:
        first = await client.push_image("latest", seed="1")
        before = time.time()
        await client.push_image("latest", seed="2")
        metadata = running.registry.metadata
        assert await metadata.untagged("test/repo", before, math.inf) == []
        assert await metadata.untagged("test/repo", time.time() + 1, math.inf) == [first]

    async def test_a_tag_that_moved_meanwhile_stays(self, client: Client, running: Running) -> None:
        await client.push_image("latest", seed="1")
        metadata = running.registry.metadata
        (seen,) = await metadata.tag_times("test/repo")
        await client.push_image("latest", seed="2")
        assert not await metadata.expire_tag("test/repo", seen)
        assert (await client("GET", f"{REPO}/manifests/latest")).status == 200


async def test_a_dry_run_names_the_blobs_and_leaves_them(
    client: Client, started: Callable[..., Any], settings: Settings
) -> None:
    running = await started(gc=Gc(interval_s=0, grace_s=0))
    await client.push_image("latest")
    unused = await client.push_blob(b"unused")
    await client.push_blob(b"unused", "elsewhere")
    kept_blob = await client.push_blob(b"kept", "other")
    await client.push_manifest(
        {"schemaVersion": 2, "config": {"mediaType": "a/b", "digest": kept_blob, "size": 4}, "layers": []}, "x", "other"
    )
    await client.push_blob(b"kept")  # unused here, used there
    assert (await running.registry.collector.plan()).blobs == [(unused, 6)]
    assert (await client("GET", f"{REPO}/blobs/{unused}")).status == 200
    assert (await running.registry.collector.collect()).blobs == 1
    assert (await running.registry.collector.plan()).blobs == []


class TestPulls:
    async def test_what_is_pulled_stays(self, client: Client, started: Callable[..., Any]) -> None:
        running = await started(Policy(repositories=["test/**"], keep_pulled_days=1, untagged_days=1e-9))
        digests = [await client.push_image(f"v{number}", seed=str(number)) for number in range(3)]
        await client("GET", f"{REPO}/manifests/v1")
        await client("GET", f"{REPO}/manifests/{digests[2]}")
        await client("DELETE", f"{REPO}/manifests/v2")
        await running.registry.uses.flush()
        used = {tag.name: tag.used_at for tag in await running.registry.metadata.tag_times("test/repo")}
        assert used["v0"] == 0
        assert used["v1"] > time.time() - 60
        later = time.time() + 2 * DAY_S
        policies = Policies([Policy(repositories=["test/**"], keep_pulled_days=1)])
        tags = [TagTime("v0", later - 2 * DAY_S), TagTime("v1", later - 2 * DAY_S, later - 60)]
        assert [tag.name for tag in policies.expired_tags("test/repo", tags, later)] == ["v0"]
        before, unused = time.time() + 1, time.time() - 60
        assert await running.registry.metadata.untagged("test/repo", before, unused) == []
        assert await running.registry.metadata.untagged("test/repo", before, math.inf) == [digests[2]]

    async def test_what_was_there_when_the_counting_began_counts_as_pulled_then(
        self, client: Client, started: Callable[..., Any]
    ) -> None:
        running = await started()
        await client.push_image("old")
        policy = Policy(repositories=["test/**"], keep_pulled_days=0.3 / DAY_S)
        running = await started(policy)
        await asyncio.sleep(0.4)  # it is older than what the policy keeps
        assert (await running.registry.collector.collect()).tags == 0
        await asyncio.sleep(0.4)
        assert (await running.registry.collector.collect()).tags == 1


class TestSchedule:
    async def test_retention_keeps_to_its_schedule_and_a_command_does_not(
        self, client: Client, started: Callable[..., Any]
    ) -> None:
        policy = Policy(repositories=["**"], keep_last=1)
        rare = Gc(interval_s=0.05, retention="0 0 29 2 *")
        running = await started(policy, gc=rare)
        for tag in ("v1", "v2"):
            await client.push_image(tag, seed=tag)
        await asyncio.sleep(0.3)
        assert len((await client("GET", f"{REPO}/tags/list")).json["tags"]) == 2
        assert (await running.registry.collector.collect()).tags == 1

    async def test_retention_runs_when_its_time_comes(self, client: Client, started: Callable[..., Any]) -> None:
        await started(Policy(repositories=["**"], keep_last=1), gc=Gc(interval_s=0.1, retention="every 1s"))
        for tag in ("v1", "v2"):
            await client.push_image(tag, seed=tag)
        async with asyncio.timeout(60):
            while (await client("GET", f"{REPO}/tags/list")).json["tags"] != ["v2"]:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
