"""Pull, from a registry in process into a real store."""

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from scow.errors import InvalidArgument, NotFound, NotSupported, ScowError
from scow.oci import media_types
from scow.oci.digest import sha256
from scow.oci.platform import parse_platform
from scow.oci.reference import parse_reference
from scow.store.images import Image
from scow.store.store import Store
from scow.transfer.credentials import Credentials
from scow.transfer.documents import NoMatchingManifest, NotAnImage, PullRefused, RootFSMismatch
from scow.transfer.pull import pull, pull_all_tags
from scow.transfer.registries import Registries
from scow.transfer.registry_error import RegistryUnreachable

AMD64 = parse_platform("linux/amd64")


@pytest.fixture
def do_pull(registry: Any, registries: Registries, store: Store, lines: Any) -> Callable[..., Any]:
    """Pulls `team/app` of the registry; arguments are those of pull(), or another suffix of the name."""

    async def do(suffix: str = "", **kwargs: Any) -> Image:
        reference = kwargs.pop("reference", None) or parse_reference(f"{registry.host}/team/app{suffix}")
        kwargs = {"registries": registries, "store": store, "emit": lines, "platform": AMD64, **kwargs}
        return await pull(reference, **kwargs)

    return do


def layers_of(make: Callable[..., Any], *names: str, **kwargs: Any) -> list[Any]:
    return [make({name: name.encode() * 50}, **kwargs) for name in names]


def stored(store: Store) -> tuple[set[str], int]:
    """What a failed pull must not leave visible."""
    return {name for image in store.images.all() for name in store.images.names(image.id)}, len(store.images.all())


# --- what a pull brings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["oci", "docker"])
async def test_an_image_is_pulled_with_its_names(
    kind: str, registry: Any, store: Store, do_pull: Callable[..., Any], made: Any
) -> None:
    layers = layers_of(made.layer, "a", "b", kind=kind)
    source = made.image(registry, "team/app", "latest", layers, kind=kind)
    image = await do_pull()
    name = f"{registry.host}/team/app"
    assert (image.id, image.manifest, image.index) == (source.id, source.digest, None)
    assert image.diff_ids == tuple(layer.diff_id for layer in layers)
    assert image.size == 2 * 50  # what is in the files, as docker counts, not of the tars
    assert image.created == datetime(2024, 5, 1, 12, 0, 0, 123456, UTC)
    assert store.images.find(image.id) == image
    assert store.images.names(image.id) == [f"{name}:latest"]
    assert store.images.digests(image.id) == [f"{name}@{source.digest}"]
    assert await store.content.get(source.digest) == source.manifest
    assert await store.content.get(source.id) == source.config
    for layer in layers:
        assert (await store.layers.tar(layer.diff_id)).read_bytes() == layer.tar


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
async def test_layers_may_be_compressed_or_not(
    compression: str, registry: Any, store: Store, do_pull: Callable[..., Any], made: Any
) -> None:
    [layer] = layers_of(made.layer, "a", compression=compression)
    made.image(registry, "team/app", "latest", [layer])
    await do_pull()
    assert (await store.layers.tar(layer.diff_id)).read_bytes() == layer.tar


async def test_the_lines_are_dockers(registry: Any, do_pull: Callable[..., Any], lines: Any, made: Any) -> None:
    one, two = layers_of(made.layer, "a", "b")
    source = made.image(registry, "team/app", "1.0", [one, two])
    await do_pull(":1.0")
    assert lines.texts[:3] == [
        "1.0: Pulling from team/app",
        f"{one.id}: Pulling fs layer",
        f"{two.id}: Pulling fs layer",
    ]
    assert lines.texts[-2:] == [
        f"Digest: {source.digest}",
        f"Status: Downloaded newer image for {registry.host}/team/app:1.0",
    ]
    for layer in (one, two):
        assert lines.of(layer.id) == [
            "Pulling fs layer",
            "Downloading",
            "Verifying Checksum",
            "Download complete",
            "Extracting",
            "Pull complete",
        ]
    progress = next(line for line in lines if line.status == "Downloading")
    assert progress.progress_detail.current == progress.progress_detail.total == len(one.blob)
    assert progress.progress.startswith("[====")


async def test_names_of_the_hub_are_shown_as_people_write_them(
    registry: Any, make_registries: Callable[..., Registries], do_pull: Callable[..., Any], lines: Any, made: Any
) -> None:
    made.image(registry, "library/hello-world", "latest", layers_of(made.layer, "a"))
    registries = make_registries(hub_url=registry.url)
    await do_pull(reference=parse_reference("hello-world"), registries=registries)
    assert lines.texts[0] == "latest: Pulling from library/hello-world"
    assert lines.texts[-1] == "Status: Downloaded newer image for hello-world:latest"


async def test_a_layer_that_is_here_is_not_fetched(
    registry: Any, do_pull: Callable[..., Any], lines: Any, made: Any
) -> None:
    base, one, two = layers_of(made.layer, "base", "one", "two")
    made.image(registry, "team/app", "one", [base, one])
    made.image(registry, "team/app", "two", [base, two])
    await do_pull(":one")
    lines.clear()
    await do_pull(":two")
    assert lines.of(base.id) == ["Already exists"]
    assert lines.of(two.id)[-1] == "Pull complete"
    assert len(registry.asked("GET", sha256(base.blob))) == 1


async def test_the_same_layer_twice_in_an_image_is_fetched_once(
    registry: Any, do_pull: Callable[..., Any], made: Any
) -> None:
    [layer] = layers_of(made.layer, "a")
    made.image(registry, "team/app", "latest", [layer, layer])
    image = await do_pull()
    assert image.diff_ids == (layer.diff_id, layer.diff_id)
    assert len(registry.asked("GET", sha256(layer.blob))) == 1


async def test_an_image_without_layers_is_one(registry: Any, do_pull: Callable[..., Any], made: Any) -> None:
    source = made.image(registry, "team/app", "latest", [])
    assert (await do_pull()).id == source.id


# --- by tag and digest, again and again -------------------------------------------------------------------------------


async def test_what_is_here_already_costs_one_head(
    registry: Any, do_pull: Callable[..., Any], lines: Any, made: Any
) -> None:
    source = made.image(registry, "team/app", "latest", layers_of(made.layer, "a"))
    first = await do_pull()
    registry.seen.clear()
    lines.clear()
    assert await do_pull() == first
    assert [(seen.method, seen.path) for seen in registry.seen] == [("HEAD", "/v2/team/app/manifests/latest")]
    assert lines.texts == [
        "latest: Pulling from team/app",
        f"Digest: {source.digest}",
        f"Status: Image is up to date for {registry.host}/team/app:latest",
    ]


async def test_a_tag_that_moved_is_pulled_anew(
    registry: Any, store: Store, do_pull: Callable[..., Any], lines: Any, made: Any
) -> None:
    made.image(registry, "team/app", "latest", layers_of(made.layer, "old"))
    old = await do_pull()
    made.image(registry, "team/app", "latest", layers_of(made.layer, "new"))
    new = await do_pull()
    assert store.images.resolve(f"{registry.host}/team/app:latest") == new.id != old.id
    assert store.images.names(old.id) == []
    assert lines.texts[-1].startswith("Status: Downloaded newer image for")


async def test_a_pull_by_digest_makes_no_tag(
    registry: Any, store: Store, do_pull: Callable[..., Any], lines: Any, made: Any
) -> None:
    source = made.image(registry, "team/app", "latest", layers_of(made.layer, "a"))
    image = await do_pull(f"@{source.digest}")
    assert store.images.names(image.id) == []
    assert store.images.digests(image.id) == [f"{registry.host}/team/app@{source.digest}"]
    assert lines.texts[0] == f"{registry.host}/team/app@{source.digest}: Pulling from team/app"
    assert lines.texts[-1] == f"Status: Downloaded newer image for {registry.host}/team/app@{source.digest}"
    await do_pull(f"@{source.digest}")
    assert lines.texts[-1] == f"Status: Image is up to date for {registry.host}/team/app@{source.digest}"


async def test_of_tag_and_digest_the_digest_wins(
    registry: Any, store: Store, do_pull: Callable[..., Any], made: Any
) -> None:
    old = made.image(registry, "team/app", "latest", layers_of(made.layer, "old"))
    made.image(registry, "team/app", "latest", layers_of(made.layer, "new"))
    image = await do_pull(f":latest@{old.digest}")
    assert image.id == old.id
    assert store.images.names(image.id) == []


async def test_all_tags_of_a_repository(
    registry: Any, registries: Registries, store: Store, lines: Any, made: Any
) -> None:
    for tag in ("a", "b", "c"):
        made.image(registry, "team/app", tag, layers_of(made.layer, tag))
    reference = parse_reference(f"{registry.host}/team/app")
    images = await pull_all_tags(reference, registries=registries, store=store, emit=lines, platform=AMD64)
    assert len({image.id for image in images}) == 3
    assert [text for text in lines.texts if text.startswith("Status")] == [
        f"Status: Downloaded newer image for {registry.host}/team/app"
    ]


# --- platforms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/arm64", "linux/arm64/v8"),
        ("linux/arm/v7", "linux/arm/v6"),
        ("linux/386", ""),
    ],
)
async def test_the_platform_chooses_from_an_index(
    wanted: str, chosen: str, registry: Any, store: Store, do_pull: Callable[..., Any], made: Any
) -> None:
    images = {
        platform: made.image(registry, "team/app", "", layers_of(made.layer, platform), platform=platform)
        for platform in ("linux/amd64", "linux/arm64/v8", "linux/arm/v6")
    }
    digest = made.index(registry, "team/app", "latest", images)
    if not chosen:
        with pytest.raises(NoMatchingManifest) as failure:
            await do_pull(platform=parse_platform(wanted))
        assert str(failure.value) == f"no matching manifest for {wanted} in the manifest list entries"
        return
    image = await do_pull(platform=parse_platform(wanted))
    assert (image.id, image.manifest, image.index) == (images[chosen].id, images[chosen].digest, digest)
    assert store.images.digests(image.id) == [f"{registry.host}/team/app@{digest}"]
    assert store.content.has(digest)


async def test_another_platform_of_a_known_index_is_fetched(
    registry: Any, store: Store, do_pull: Callable[..., Any], made: Any
) -> None:
    images = {
        platform: made.image(registry, "team/app", "", layers_of(made.layer, platform), platform=platform)
        for platform in ("linux/amd64", "linux/arm64")
    }
    made.index(registry, "team/app", "latest", images)
    first = await do_pull()
    second = await do_pull(platform=parse_platform("linux/arm64"))
    assert second.id == images["linux/arm64"].id
    assert store.images.resolve(f"{registry.host}/team/app:latest") == second.id
    assert store.images.find(first.id) == first


async def test_a_lone_manifest_of_another_platform_comes_with_a_warning(
    registry: Any, do_pull: Callable[..., Any], lines: Any, made: Any
) -> None:
    made.image(registry, "team/app", "latest", layers_of(made.layer, "a"), platform="linux/arm64")
    await do_pull()
    assert (
        f"WARNING: image with reference {registry.host}/team/app:latest was found but its platform (linux/arm64) "
        "does not match the specified platform (linux/amd64)"
    ) in lines.texts


# --- what is refused --------------------------------------------------------------------------------------------------


async def test_a_missing_tag_is_told_in_dockers_words(
    registry: Any, do_pull: Callable[..., Any], lines: Any, made: Any
) -> None:
    made.image(registry, "team/app", "latest", [])
    with pytest.raises(PullRefused) as failure:
        await do_pull(":nope")
    name = f"{registry.host}/team/app:nope"
    assert str(failure.value) == f"manifest for {name} not found: manifest unknown: manifest unknown"
    assert isinstance(failure.value, NotFound)
    assert lines == []


async def test_a_missing_repository_is_told_in_dockers_words(registry: Any, do_pull: Callable[..., Any]) -> None:
    with pytest.raises(PullRefused, match=r"repository .*/team/app not found: name unknown: repository name not known"):
        await do_pull()


async def test_denied_access_is_told_in_dockers_words(
    registry: Any, make_registries: Callable[..., Registries], do_pull: Callable[..., Any]
) -> None:
    registry.auth, registry.grants = "bearer", lambda user, scope: False
    with pytest.raises(PullRefused) as failure:
        await do_pull(reference=parse_reference("team/secret"), registries=make_registries(hub_url=registry.url))
    assert str(failure.value) == (
        "pull access denied for team/secret, repository does not exist or may require 'docker login': "
        "denied: requested access to the resource is denied"
    )


def manifest_of(registry: Any, **changes: Any) -> dict[str, Any]:
    config = b'{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}'
    digest = registry.put_blob("team/app", config)
    document = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "config": {"mediaType": media_types.OCI_CONFIG, "digest": digest, "size": len(config)},
        "layers": [],
    }
    return {**document, **changes}


@pytest.mark.parametrize(
    ("document", "media_type", "kind", "text"),
    [
        (b"{", media_types.OCI_MANIFEST, InvalidArgument, "not JSON"),
        (b"[]", media_types.OCI_MANIFEST, InvalidArgument, "not a JSON object"),
        (b"{}", media_types.OCI_MANIFEST, InvalidArgument, "invalid manifest"),
        (b'{"schemaVersion":1}', media_types.DOCKER_SCHEMA1_SIGNED, InvalidArgument, "schema 1 is not supported"),
        (b'{"schemaVersion":2,"mediaType":"text/html"}', "text/html", InvalidArgument, "invalid manifest"),
        (
            {"layers": [{"mediaType": media_types.OCI_LAYER, "digest": "sha256:../../etc", "size": 1}]},
            media_types.OCI_MANIFEST,
            InvalidArgument,
            "invalid digest",
        ),
        (
            {"config": {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": sha256(b""), "size": 0}},
            media_types.OCI_MANIFEST,
            NotAnImage,
            r'Encountered remote "application/vnd\.cncf\.helm\.config\.v1\+json"\(unknown\) when fetching',
        ),
        (
            {"config": {"mediaType": media_types.OCI_CONFIG, "digest": sha256(b""), "size": 1 << 40}},
            media_types.OCI_MANIFEST,
            InvalidArgument,
            "the image config has 1099511627776 bytes",
        ),
        (
            {"layers": [{"mediaType": media_types.OCI_LAYER, "digest": sha256(b""), "size": 0}]},
            media_types.OCI_MANIFEST,
            RootFSMismatch,
            "layers from manifest don't match image configuration",
        ),
    ],
)  # fmt: skip
async def test_a_senseless_manifest_is_refused_and_nothing_stays(
    document: Any, media_type: str, kind: type[ScowError], text: str,
    registry: Any, store: Store, do_pull: Callable[..., Any],
) -> None:  # fmt: skip
    made = document if isinstance(document, bytes) else manifest_of(registry, **document)
    registry.put_manifest("team/app", "latest", made, media_type)
    with pytest.raises(kind, match=text):
        await do_pull()
    assert stored(store) == (set(), 0)


async def test_an_image_of_another_system_is_refused(registry: Any, do_pull: Callable[..., Any], made: Any) -> None:
    made.image(registry, "team/app", "latest", [], platform="windows/amd64")
    with pytest.raises(NotSupported, match='image operating system "windows" cannot be used on this platform'):
        await do_pull()


async def test_an_encrypted_layer_is_refused(registry: Any, do_pull: Callable[..., Any], made: Any) -> None:
    [layer] = layers_of(made.layer, "a")
    layer.media_type += "+encrypted"
    made.image(registry, "team/app", "latest", [layer])
    with pytest.raises(NotSupported, match="unsupported media type"):
        await do_pull()
    assert registry.asked("GET", sha256(layer.blob)) == []


@pytest.mark.parametrize("size", [10, 1_000_000])
async def test_a_missing_layer_is_told(
    size: int, registry: Any, store: Store, do_pull: Callable[..., Any], made: Any
) -> None:
    [one], two = layers_of(made.layer, "a"), made.layer({"noise": os.urandom(size)})
    made.image(registry, "team/app", "latest", [one, two])
    registry.repository_blobs.remove(("team/app", sha256(two.blob)))
    with pytest.raises(NotFound, match=f"unknown blob: the registry has no layer {sha256(two.blob)}"):
        await do_pull()
    assert stored(store) == (set(), 0)


async def test_a_foreign_layer_that_the_registry_lacks_is_told_with_its_place(
    registry: Any, do_pull: Callable[..., Any], made: Any
) -> None:
    [layer] = layers_of(made.layer, "a")
    layer.media_type, layer.urls = media_types.DOCKER_FOREIGN_LAYER_GZIP, ["https://elsewhere.invalid/layer"]
    made.image(registry, "team/app", "latest", [layer])
    registry.repository_blobs.remove(("team/app", sha256(layer.blob)))
    with pytest.raises(NotFound, match=r"a foreign layer, kept at https://elsewhere\.invalid/layer"):
        await do_pull()


async def test_diff_ids_must_be_those_of_the_layers(
    registry: Any, store: Store, do_pull: Callable[..., Any], made: Any
) -> None:
    made.image(registry, "team/app", "latest", layers_of(made.layer, "a"), diff_ids=[sha256(b"other")])
    with pytest.raises(RootFSMismatch, match="layers from manifest don't match image configuration"):
        await do_pull()
    assert stored(store) == (set(), 0)
    assert store.layers.find(sha256(b"other")) is None  # type: ignore[arg-type]  # a digest stands for a diff ID


@pytest.mark.parametrize("size", [10, 1_000_000])
@pytest.mark.parametrize("damage", ["flipped", "short", "long"])
async def test_every_byte_of_a_layer_is_verified(
    damage: str, size: int, registry: Any, store: Store, do_pull: Callable[..., Any], made: Any
) -> None:
    layer = made.layer({"noise": os.urandom(size)})
    made.image(registry, "team/app", "latest", [layer])
    registry.blobs[sha256(layer.blob)] = {
        "flipped": layer.blob[:-9] + bytes([layer.blob[-9] ^ 1]) + layer.blob[-8:],
        "short": layer.blob[:-1],
        "long": layer.blob + b"x",
    }[damage]
    with pytest.raises(ScowError, match="filesystem layer verification failed for digest"):
        await do_pull()
    assert stored(store) == (set(), 0)
    assert store.layers.find(layer.diff_id) is None
    assert not store.content.has(sha256(layer.blob))


# --- faults on the way ------------------------------------------------------------------------------------------------


@pytest.fixture
def big(made: Any) -> Any:
    """A layer that doesn't fit into one piece."""
    return made.layer({"noise": os.urandom(3 << 20)}, compression="none")


async def test_a_broken_download_is_gone_on_with_where_it_broke(
    registry: Any, store: Store, do_pull: Callable[..., Any], lines: Any, big: Any, made: Any
) -> None:
    made.image(registry, "team/app", "latest", [big])
    registry.cut_after[sha256(big.blob)] = [1 << 20, 1 << 20]
    await do_pull()
    asked = [seen.headers.get("range", "bytes=0-") for seen in registry.asked("GET", sha256(big.blob))]
    starts = [int(text.removeprefix("bytes=").rstrip("-")) for text in asked]
    # What was still in a buffer when the connection broke is asked for again, so the places aren't exact.
    assert starts == sorted(starts)
    assert len(starts) == 3
    assert starts[0] == 0 < starts[-1] <= 2 << 20
    assert (await store.layers.tar(big.diff_id)).read_bytes() == big.tar
    assert "Retrying in 1 second" in lines.of(big.id)


async def test_a_server_that_ignores_ranges_is_endured(
    registry: Any, store: Store, do_pull: Callable[..., Any], big: Any, made: Any
) -> None:
    made.image(registry, "team/app", "latest", [big])
    registry.cut_after[sha256(big.blob)] = [1 << 20]
    registry.ignores_ranges = True
    await do_pull()
    assert (await store.layers.tar(big.diff_id)).read_bytes() == big.tar


async def test_a_download_that_gets_nowhere_is_given_up(
    registry: Any, store: Store, do_pull: Callable[..., Any], big: Any, made: Any
) -> None:
    made.image(registry, "team/app", "latest", [big])
    registry.cut_after[sha256(big.blob)] = [10] * 99
    with pytest.raises(RegistryUnreachable, match="unexpected EOF"):
        await do_pull()
    assert stored(store) == (set(), 0)


async def test_a_busy_registry_is_waited_for(registry: Any, do_pull: Callable[..., Any], made: Any) -> None:
    [layer] = layers_of(made.layer, "a")
    made.image(registry, "team/app", "latest", [layer])
    registry.fail(f"blobs/{sha256(layer.blob)}", 503, times=1)
    registry.fail(f"blobs/{sha256(layer.blob)}", 429, times=1, headers={"Retry-After": "0"})
    await do_pull()


async def test_blobs_may_lie_elsewhere(
    registry: Any, other: Any, do_pull: Callable[..., Any], big: Any, made: Any
) -> None:
    registry.auth, registry.users = "basic", {"ann": "secret"}
    source = made.image(registry, "team/app", "latest", [big])
    registry.redirect_blobs_to = other.url
    other.blobs = dict(registry.blobs)
    other.cut_after[sha256(big.blob)] = [1 << 20]
    image = await do_pull(credentials=Credentials(username="ann", password="secret"))
    assert image.id == source.id
    assert other.seen
    assert not any("authorization" in seen.headers for seen in other.seen)


# --- mirrors ----------------------------------------------------------------------------------------------------------


def hub_image(made: Any, *registries: Any) -> Any:
    layers = layers_of(made.layer, "a")
    images = [made.image(registry, "library/app", "latest", layers) for registry in registries]
    return images[0]


async def test_a_mirror_is_asked_first_and_gets_no_credentials(
    registry: Any, other: Any, make_registries: Callable[..., Registries], do_pull: Callable[..., Any], made: Any
) -> None:
    source = hub_image(made, registry)
    registries = make_registries(mirrors=[registry.url], hub_url=other.url)
    image = await do_pull(
        reference=parse_reference("app"), registries=registries, credentials=Credentials(username="ann", password="x")
    )
    assert image.id == source.id
    assert other.seen == []
    assert not any("authorization" in seen.headers for seen in registry.seen)


@pytest.mark.parametrize("trouble", ["missing", "500", "401", "cut", "wrong", "nobody"])
async def test_any_trouble_at_a_mirror_leads_to_the_next(
    trouble: str,
    registry: Any,
    other: Any,
    make_registries: Callable[..., Registries],
    do_pull: Callable[..., Any],
    made: Any,
) -> None:
    source = hub_image(made, registry, other)
    blob = sha256(source.layers[0].blob)
    mirror = registry.url
    if trouble == "missing":
        registry.manifests.clear()
    elif trouble == "500":
        registry.fail("/manifests/", 500, times=99)
    elif trouble == "401":
        registry.auth = "basic"
    elif trouble == "cut":
        registry.cut_after[blob] = [1] * 99
    elif trouble == "wrong":
        registry.blobs[blob] = bytes(len(registry.blobs[blob]))
    else:
        mirror = "http://127.0.0.1:1"
    registries = make_registries(mirrors=[mirror], hub_url=other.url)
    assert (await do_pull(reference=parse_reference("app"), registries=registries)).id == source.id


async def test_the_last_error_is_the_upstreams(
    registry: Any, other: Any, make_registries: Callable[..., Registries], do_pull: Callable[..., Any], made: Any
) -> None:
    registry.fail("/manifests/", 500, times=99)
    made.image(other, "library/app", "other", [])
    registries = make_registries(mirrors=[registry.url], hub_url=other.url)
    with pytest.raises(PullRefused, match="manifest for app:latest not found"):
        await do_pull(reference=parse_reference("app"), registries=registries)


# --- at once ----------------------------------------------------------------------------------------------------------


async def test_three_layers_come_at_a_time(registry: Any, do_pull: Callable[..., Any], lines: Any, made: Any) -> None:
    layers = layers_of(made.layer, *"abcdef")
    made.image(registry, "team/app", "latest", layers)
    registry.gated = {sha256(layer.blob) for layer in layers}
    task = asyncio.create_task(do_pull())
    for _ in range(3):
        await registry.waiting.get()
    assert [line.id for line in lines if line.status == "Waiting"] == [layer.id for layer in layers[3:]]
    registry.gate.set()
    await task
    assert registry.most_blobs_in_flight == 3


async def test_the_same_image_pulled_twice_at_once_is_fetched_once(
    registry: Any, do_pull: Callable[..., Any], lines: Any, made: Any
) -> None:
    [layer] = layers_of(made.layer, "a")
    made.image(registry, "team/app", "latest", [layer])
    registry.gated = {sha256(layer.blob)}
    one, two = type(lines)(), type(lines)()
    on_board = asyncio.Event()

    def emit(line: Any) -> None:
        two(line)
        if line.status == "Pulling fs layer":
            on_board.set()

    first = asyncio.create_task(do_pull(emit=one))
    await registry.waiting.get()
    second = asyncio.create_task(do_pull(emit=emit))
    await on_board.wait()
    registry.gate.set()
    assert (await first).id == (await second).id
    assert len(registry.asked("GET", sha256(layer.blob))) == 1
    assert one.of(layer.id)[-1] == two.of(layer.id)[-1] == "Pull complete"


async def test_a_pull_that_is_cancelled_leaves_nothing_and_can_be_done_again(
    registry: Any, store: Store, do_pull: Callable[..., Any], made: Any
) -> None:
    [layer] = layers_of(made.layer, "a")
    source = made.image(registry, "team/app", "latest", [layer])
    registry.gated = {sha256(layer.blob)}
    task = asyncio.create_task(do_pull())
    await registry.waiting.get()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stored(store) == (set(), 0)
    registry.gate.set()
    assert (await do_pull()).id == source.id
