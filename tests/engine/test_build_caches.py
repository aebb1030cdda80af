"""Caches that travel: with images, through registries, and in folders."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.builds import build, error_of, image_of, text
from support.daemon import Daemon, Registry

pytestmark = pytest.mark.usefixtures("_forgotten")

STAGES = """
FROM busybox AS tools
RUN cat /proc/sys/kernel/random/uuid > /tool
FROM busybox
ARG A=1
COPY x /x
COPY --from=tools /tool /copied
RUN cat /proc/sys/kernel/random/uuid > /made
"""
ONE = "FROM busybox\nENV A=1\nCOPY x /x\nRUN cat /proc/sys/kernel/random/uuid > /made\nWORKDIR /w"
FILES = {"x": b"x"}
INLINE = json.dumps({"BUILDKIT_INLINE_CACHE": "1"})


@pytest.fixture
def _forgotten(engine: Daemon) -> Iterator[None]:
    yield
    _forget(engine)


def _forget(engine: Daemon) -> None:
    """What another machine would not have."""
    for image in engine.json("GET", "/images/json"):
        for name in image["RepoTags"] or ():
            if not name.startswith(("busybox:", "<none>")):
                engine.request("DELETE", f"/images/{name}?force=1")
    engine.request("POST", "/build/prune?all=1")
    engine.request("POST", "/images/prune?filters=%7B%22dangling%22%3A%5B%22true%22%5D%7D")


def _cached(messages: list[dict[str, Any]]) -> int:
    return text(messages).count("Using cache")


def test_an_image_with_an_inline_cache_spares_another_engine_its_steps(engine: Daemon, registry: Registry) -> None:
    name = f"{registry.address}/caches/inline"
    made = image_of(build(engine, ONE, FILES, t=name, buildargs=INLINE))
    engine.docker("push", "-q", name)
    _forget(engine)
    again = build(engine, ONE, FILES, cachefrom=json.dumps([name]), buildargs=INLINE)
    assert _cached(again) == 4
    assert image_of(again) == made
    changed = build(engine, ONE, {"x": b"other"}, cachefrom=json.dumps([name]))
    assert _cached(changed) == 1
    assert "moby.buildkit.cache.v0" not in json.dumps(changed)


def test_an_image_without_a_cache_is_one_by_its_history(engine: Daemon, registry: Registry) -> None:
    name = f"{registry.address}/caches/plain"
    made = image_of(build(engine, ONE, FILES, t=name))
    engine.docker("push", "-q", name)
    _forget(engine)
    assert image_of(build(engine, ONE, FILES, cachefrom=json.dumps([name]))) == made
    _forget(engine)
    assert _cached(build(engine, ONE, {"x": b"other"}, cachefrom=json.dumps([name]))) == 1
    _forget(engine)
    assert _cached(build(engine, ONE, FILES, cachefrom=json.dumps([name]), nocache=1)) == 0
    _forget(engine)
    engine.docker("pull", "-q", name)
    assert image_of(build(engine, ONE, FILES, cachefrom=json.dumps([name]))) == made  # one that is here


def test_a_history_says_too_little_of_steps_with_options_that_it_does_not_show(
    engine: Daemon, registry: Registry
) -> None:
    name = f"{registry.address}/caches/options"
    first = "FROM busybox\nCOPY --chmod=600 x /x\n"
    build(engine, first, FILES, t=name)
    engine.docker("push", "-q", name)
    _forget(engine)
    assert _cached(build(engine, first.replace("600", "644"), FILES, cachefrom=json.dumps([name]))) == 0


def test_a_cache_in_a_registry_has_all_stages_if_that_is_asked_for(engine: Daemon, registry: Registry) -> None:
    name = f"{registry.address}/caches/exported"
    target = json.dumps([f"type=registry,ref={name}:max,mode=max", f"type=registry,ref={name}:min"])
    made = build(engine, STAGES, FILES, cacheto=target)
    assert f"Exporting cache to {name}:max\n" in text(made)
    _forget(engine)
    source = json.dumps([f"type=registry,ref={name}:max"])
    assert _cached(build(engine, STAGES, FILES, cachefrom=source, target="tools")) == 1
    again = build(engine, STAGES, FILES, cachefrom=source, cacheto=json.dumps([f"type=registry,ref={name}:2,mode=max"]))
    assert _cached(again) == 5
    assert image_of(again) == image_of(made)
    manifest, smaller = (_manifest(registry, "caches/exported", tag) for tag in ("max", "min"))
    assert manifest["config"]["mediaType"] == "application/vnd.buildkit.cacheconfig.v0"
    assert len(smaller["layers"]) < len(manifest["layers"])


@pytest.mark.parametrize("kind", ["inline", "min"])
def test_stages_whose_copies_a_cache_has_are_not_built(engine: Daemon, registry: Registry, kind: str) -> None:
    name = f"{registry.address}/caches/lazy-{kind}"
    if kind == "inline":
        made = image_of(build(engine, STAGES, FILES, t=name, buildargs=INLINE))
        engine.docker("push", "-q", name)
    else:
        made = image_of(build(engine, STAGES, FILES, cacheto=json.dumps([f"type=registry,ref={name}"])))
    _forget(engine)
    again = build(engine, STAGES, FILES, cachefrom=json.dumps([name]), buildargs=INLINE if kind == "inline" else "{}")
    assert (_cached(again), "> /tool" in text(again)) == (4, False), text(again)
    assert image_of(again) == made
    _forget(engine)
    changed = build(engine, STAGES.replace("/tool\n", "/tool # anew\n"), FILES, cachefrom=json.dumps([name]))
    assert (_cached(changed), "> /tool # anew" in text(changed)) == (2, True), text(changed)


def test_a_cache_is_kept_in_a_folder_of_the_client(engine: Daemon, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(STAGES)
    (context / "x").write_bytes(b"x")
    source, target = f"type=local,src={tmp_path}/cache", f"type=local,dest={tmp_path}/cache,mode=max"
    ids = []
    for cached in (0, 5):
        done = engine.scow(
            "build", "--iidfile", str(tmp_path / "id"), "--cache-from", source, "--cache-to", target, str(context)
        )
        assert done.stdout.count("Using cache") == cached
        ids.append((tmp_path / "id").read_text())
        _forget(engine)
    assert ids[0] == ids[1]
    assert json.loads((tmp_path / "cache/index.json").read_bytes())["manifests"]


def test_a_cache_that_cannot_be_had_is_told_of_and_done_without(engine: Daemon, registry: Registry) -> None:
    name = f"{registry.address}/caches/nowhere"
    messages = build(engine, ONE, FILES, cachefrom=json.dumps([name]), cacheto=json.dumps(["type=inline"]))
    assert text(messages).count(f"failed to import the cache {name}:latest: manifest") == 1
    image_of(messages)


def test_a_cache_that_cannot_be_written_fails_the_build_unless_that_is_ignored(engine: Daemon) -> None:
    target = "type=registry,ref=127.0.0.1:1/none"
    assert "127.0.0.1:1" in error_of(build(engine, ONE, FILES, cacheto=json.dumps([target])))
    messages = build(engine, ONE, FILES, cacheto=json.dumps([f"{target},ignore-error=true"]))
    assert "[Warning] failed to export the cache" in text(messages)
    image_of(messages)


def test_damaged_caches_are_done_without(engine: Daemon, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / "blobs/sha256").mkdir(parents=True)
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN true")
    for index in ("{", _index_to("sha256:" + "0" * 64)):
        (cache / "index.json").write_text(index)
        done = engine.scow("build", "--cache-from", f"type=local,src={cache}", str(tmp_path))
        assert "failed to import the cache that was sent: " in done.stdout
        engine.request("POST", "/build/prune?all=1")


def _manifest(registry: Registry, repository: str, tag: str) -> Any:
    with urllib.request.urlopen(f"http://{registry.address}/v2/{repository}/manifests/{tag}") as answer:
        return json.load(answer)


def _index_to(digest: str) -> str:
    return json.dumps(
        {
            "schemaVersion": 2,
            "manifests": [
                {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 9},
            ],
        }
    )
