"""Push, from a real store into a registry in process."""

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from scow.errors import InvalidArgument, NotFound
from scow.oci import media_types
from scow.oci.descriptor import Descriptor
from scow.oci.digest import Digest, sha256
from scow.oci.manifest import Manifest, decode
from scow.oci.platform import parse_platform
from scow.oci.reference import Reference, parse_reference
from scow.store.images import Image
from scow.store.store import Store
from scow.transfer import uploads
from scow.transfer.credentials import Credentials
from scow.transfer.pull import pull
from scow.transfer.push import PushResult, build_manifest, push, push_all_tags
from scow.transfer.registries import Registries
from scow.transfer.registry_error import AuthenticationFailed, Refused

AMD64 = parse_platform("linux/amd64")


@pytest.fixture
def do_push(registry: Any, registries: Registries, store: Store, lines: Any) -> Callable[..., Any]:
    """Pushes an image to `team/app` of the registry, or to another name there."""

    async def do(image: Image, name: str = "team/app", **kwargs: Any) -> PushResult:
        kwargs = {"registries": registries, "store": store, "emit": lines, **kwargs}
        return await push(parse_reference(f"{registry.host}/{name}"), image, **kwargs)

    return do


@pytest.fixture
def do_pull(registries: Registries, store: Store) -> Callable[..., Any]:
    async def do(registry: Any, name: str = "team/app") -> Image:
        reference = parse_reference(f"{registry.host}/{name}")
        return await pull(reference, registries=registries, store=store, emit=lambda _: None, platform=AMD64)

    return do


@pytest.fixture
async def built(store: Store, other: Any, made: Any, do_pull: Callable[..., Any]) -> Image:
    """An image that is here as if it had been built or loaded: no manifest, no compressed layers."""
    layers = [made.layer({name: name.encode() * 50}) for name in ("a", "b")]
    config = json.dumps(
        {
            "os": "linux",
            "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        }
    ).encode()
    for layer in layers:
        async with store.layers.writer(None, None, None) as writer:
            await writer.write(layer.tar)
            await writer.finish()
    source = made.image(other, "team/app", "latest", [])
    template = await do_pull(other)
    image = Image(
        id=await store.content.put(config),
        platform=template.platform,
        diff_ids=tuple(layer.diff_id for layer in layers),
        stored_at=template.stored_at,
    )
    await store.images.remove(source.id)
    await store.images.publish(image, name="docker.io/library/built:latest")
    return image


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
async def test_what_was_pulled_goes_out_bit_for_bit(
    compression: str, registry: Any, other: Any, do_pull: Callable[..., Any], do_push: Callable[..., Any], made: Any
) -> None:
    layers = [made.layer({name: name.encode() * 50}, compression) for name in ("a", "b")]
    source = made.image(other, "team/app", "latest", layers)
    result = await do_push(await do_pull(other), "team/copy:v1")
    assert result == PushResult("v1", source.digest, len(source.manifest))
    assert registry.manifests["team/copy", "v1"] == (source.manifest, source.media_type)
    for data in (source.config, *(layer.blob for layer in layers)):
        assert registry.blobs[sha256(data)] == data


async def test_the_lines_are_dockers(
    registry: Any, other: Any, do_pull: Callable[..., Any], do_push: Callable[..., Any], lines: Any, made: Any
) -> None:
    one, two = (made.layer({name: name.encode()}) for name in ("a", "b"))
    source = made.image(other, "team/app", "latest", [one, two])
    await do_push(await do_pull(other))
    first, second = one.diff_id[7:19], two.diff_id[7:19]
    assert lines.texts[0] == f"The push refers to repository [{registry.host}/team/app]"
    assert [text for text in lines.texts if "Preparing" in text] == [f"{second}: Preparing", f"{first}: Preparing"]
    assert lines.of(first) == ["Preparing", "Pushing", "Pushed"]
    assert lines.texts[-1] == f"latest: digest: {source.digest} size: {len(source.manifest)}"
    assert lines[-1].aux == PushResult("latest", source.digest, len(source.manifest))


async def test_what_is_there_is_not_sent(
    registry: Any, other: Any, do_pull: Callable[..., Any], do_push: Callable[..., Any], lines: Any, made: Any
) -> None:
    layer = made.layer({"a": b"a"})
    made.image(other, "team/app", "latest", [layer])
    image = await do_pull(other)
    await do_push(image)
    registry.seen.clear()
    lines.clear()
    await do_push(image, "team/app:again")
    assert lines.of(layer.diff_id[7:19]) == ["Preparing", "Layer already exists"]
    assert registry.asked("POST", "/uploads/") == []


async def test_a_pushed_image_is_known_by_its_digest(
    registry: Any, built: Image, store: Store, do_push: Callable[..., Any]
) -> None:
    result = await do_push(built)
    assert f"{registry.host}/team/app@{result.digest}" in store.images.digests(built.id)
    assert store.content.has(result.digest)


async def test_an_image_that_was_built_gets_a_manifest_that_depends_on_its_content_only(
    registry: Any,
    other: Any,
    built: Image,
    store: Store,
    registries: Registries,
    do_push: Callable[..., Any],
    lines: Any,
) -> None:
    result = await do_push(built)
    data, media_type = registry.manifests["team/app", "latest"]
    manifest = decode(data, media_type)
    assert isinstance(manifest, Manifest)
    assert media_type == media_types.DOCKER_MANIFEST
    assert (manifest.config.digest, len(manifest.layers)) == (built.id, 2)
    assert all(registry.blobs[layer.digest] for layer in manifest.layers)
    again = await push(parse_reference(f"{other.host}/x/y"), built, registries=registries, store=store, emit=lines)
    assert again.digest == result.digest


async def test_what_was_pushed_can_be_pulled(
    registry: Any, built: Image, store: Store, do_push: Callable[..., Any], do_pull: Callable[..., Any]
) -> None:
    await do_push(built)
    await store.images.remove(built.id)
    assert (await do_pull(registry)).diff_ids == built.diff_ids


async def test_a_neighbours_layer_is_mounted(
    registry: Any, do_pull: Callable[..., Any], do_push: Callable[..., Any], lines: Any, made: Any
) -> None:
    layer = made.layer({"noise": os.urandom(20_000)})
    registry.auth = "bearer"
    made.image(registry, "library/base", "latest", [layer])
    await do_push(await do_pull(registry, "library/base"))
    assert lines.of(layer.diff_id[7:19]) == ["Preparing", "Mounted from library/base"]
    assert ("team/app", sha256(layer.blob)) in registry.repository_blobs
    token = registry.asked("GET", "^/token$")[-1]
    assert {"repository:library/base:pull", "repository:team/app:pull,push"} <= {
        scope for seen in registry.asked("GET", "^/token$") for scope in seen.query["scope"]
    }, token


@pytest.mark.parametrize("refusal", ["session", "denied"])
async def test_a_registry_that_does_not_mount_gets_the_bytes(
    refusal: str, registry: Any, do_pull: Callable[..., Any], do_push: Callable[..., Any], lines: Any, made: Any
) -> None:
    layer = made.layer({"noise": os.urandom(20_000)})
    made.image(registry, "library/base", "latest", [layer])
    image = await do_pull(registry, "library/base")
    registry.mounts, registry.denies_mounts = False, refusal == "denied"
    await do_push(image)
    assert lines.of(layer.diff_id[7:19])[-1] == "Pushed"
    assert ("team/app", sha256(layer.blob)) in registry.repository_blobs


@pytest.mark.parametrize("megabytes", [2, 20])
async def test_a_broken_upload_is_gone_on_with(
    megabytes: int, registry: Any, other: Any, do_pull: Callable[..., Any], do_push: Callable[..., Any], made: Any
) -> None:
    layer = made.layer({"noise": os.urandom(megabytes << 20)}, "none")
    made.image(other, "team/app", "latest", [layer])
    image = await do_pull(other)
    registry.cut_uploads_after = [1 << 20]
    await do_push(image)
    assert registry.blobs[sha256(layer.blob)] == layer.blob
    assert any(seen.headers.get("content-range", "").startswith(f"{1 << 20}-") for seen in registry.seen)


async def test_a_registry_that_forgets_broken_requests_gets_smaller_ones(
    registry: Any,
    other: Any,
    do_pull: Callable[..., Any],
    do_push: Callable[..., Any],
    made: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uploads, "SINGLE_REQUEST_LIMIT", 1 << 20)
    monkeypatch.setattr(uploads, "PIECE_SIZE", 1 << 20)
    layer = made.layer({"noise": os.urandom(3 << 20)}, "none")
    made.image(other, "team/app", "latest", [layer])
    image = await do_pull(other)
    registry.cut_uploads_after, registry.forgets_cut_requests = [2 << 20] * 9, True  # of each longer request
    await do_push(image)
    assert registry.blobs[sha256(layer.blob)] == layer.blob


@pytest.mark.parametrize(("status", "code"), [(404, "BLOB_UPLOAD_UNKNOWN"), (409, "BLOB_UPLOAD_INVALID")])
async def test_an_upload_session_that_is_lost_or_held_by_a_dead_connection_is_begun_anew(
    status: int,
    code: str,
    registry: Any,
    other: Any,
    do_pull: Callable[..., Any],
    do_push: Callable[..., Any],
    made: Any,
) -> None:
    layer = made.layer({"a": b"a" * 5000})
    made.image(other, "team/app", "latest", [layer])
    image = await do_pull(other)
    body = b'{"errors":[{"code":"%s","message":""}]}' % code.encode()
    registry.fail("/uploads/u", status, method="PUT", body=body)
    await do_push(image)
    assert registry.blobs[sha256(layer.blob)] == layer.blob


async def test_a_busy_registry_is_waited_for(registry: Any, built: Image, do_push: Callable[..., Any]) -> None:
    for method in ("POST", "PUT", "HEAD"):
        registry.fail("/v2/", 503, method=method, times=1)
    await do_push(built)


async def test_missing_rights_are_told(registry: Any, built: Image, do_push: Callable[..., Any], lines: Any) -> None:
    registry.auth, registry.grants = "bearer", lambda user, scope: scope.endswith(":pull")
    with pytest.raises(Refused, match="denied: requested access to the resource is denied"):
        await do_push(built)
    assert not any(name == "team/app" for name, _ in registry.manifests)


async def test_missing_credentials_are_told(registry: Any, built: Image, do_push: Callable[..., Any]) -> None:
    registry.auth = "basic"
    with pytest.raises(AuthenticationFailed, match="no basic auth credentials"):
        await do_push(built)


async def test_credentials_are_used(registry: Any, built: Image, do_push: Callable[..., Any]) -> None:
    registry.auth, registry.users = "bearer", {"ann": "secret"}
    await do_push(built, credentials=Credentials(username="ann", password="secret"))
    assert ("team/app", "latest") in registry.manifests


async def test_a_digest_cannot_be_pushed_to(registry: Any, built: Image, do_push: Callable[..., Any]) -> None:
    with pytest.raises(InvalidArgument, match="cannot push a digest reference"):
        await do_push(built, f"team/app@{built.id}")


async def test_all_tags_of_a_repository(
    registry: Any, built: Image, store: Store, registries: Registries, lines: Any
) -> None:
    reference: Reference = parse_reference(f"{registry.host}/team/app")
    with pytest.raises(NotFound, match="An image does not exist locally with the tag: "):
        await push_all_tags(reference, registries=registries, store=store, emit=lines)
    for tag in ("a", "b"):
        await store.images.tag(f"{reference}:{tag}", built.id)
    results = await push_all_tags(reference, registries=registries, store=store, emit=lines)
    assert [result.tag for result in results] == ["a", "b"]
    assert {("team/app", "a"), ("team/app", "b")} <= set(registry.manifests)


async def test_a_foreign_layer_is_not_sent(
    registry: Any, other: Any, do_pull: Callable[..., Any], do_push: Callable[..., Any], lines: Any, made: Any
) -> None:
    layer = made.layer({"a": b"a"})
    layer.media_type, layer.urls = media_types.OCI_FOREIGN_LAYER_GZIP, ["https://elsewhere.invalid/layer"]
    source = made.image(other, "team/app", "latest", [layer])
    result = await do_push(await do_pull(other))
    assert result.digest == source.digest
    assert lines.of(layer.diff_id[7:19]) == ["Preparing", "Skipped foreign layer"]
    assert sha256(layer.blob) not in registry.blobs


def test_a_manifest_is_dockers_unless_a_layer_needs_ocis() -> None:
    config = Descriptor(media_type="x", digest=Digest("sha256:" + "0" * 64), size=1)
    gzip = Descriptor(media_type=media_types.OCI_LAYER_GZIP, digest=Digest("sha256:" + "1" * 64), size=2)
    zstd = Descriptor(media_type=media_types.OCI_LAYER_ZSTD, digest=Digest("sha256:" + "2" * 64), size=3)
    data, media_type = build_manifest(config, [gzip])
    assert (media_type, decode(data, media_type).media_type) == (media_types.DOCKER_MANIFEST,) * 2
    assert json.loads(data)["layers"][0]["mediaType"] == media_types.DOCKER_LAYER_GZIP
    data, media_type = build_manifest(config, [gzip, zstd])
    assert media_type == media_types.OCI_MANIFEST
    assert [layer["mediaType"] for layer in json.loads(data)["layers"]] == [
        media_types.OCI_LAYER_GZIP,
        media_types.OCI_LAYER_ZSTD,
    ]
