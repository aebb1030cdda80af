"""Which images are listed and removed, as dockerd 20.10 answers."""

import uuid
from collections.abc import Iterator

import pytest

from support import images
from support.daemon import Daemon, Registry


@pytest.fixture
def ref(engine: Daemon, registry: Registry) -> Iterator[str]:
    """An image of the test's own, pulled by its tag."""
    name = f"mine/{uuid.uuid4().hex[:8]}"
    layers = [images.tar(images.busybox_files()), images.tar({"word": name.encode()})]
    images.push(registry.address, name, images.build(layers, {"Labels": {"mine": name}}))
    ref = f"{registry.address}/{name}"
    engine.docker("pull", "-q", ref)
    yield ref
    engine.clean()
    left = engine.docker("images", "-q", "--filter", f"label=mine={name}").stdout.split()
    if left:
        engine.docker("rmi", "-f", *set(left))


def ids(engine: Daemon, *filters: str) -> list[str]:
    words = [word for each in filters for word in ("--filter", each)]
    return engine.docker("images", "-q", *words).stdout.split()


def test_a_stopped_containers_image_goes_by_force_and_the_container_stays(engine: Daemon, ref: str) -> None:
    id = engine.docker("images", "-q", ref).stdout.strip()
    box = engine.docker("create", ref, "echo", "alive").stdout.strip()
    refused = engine.docker("rmi", id, check=False)
    assert f"conflict: unable to delete {id} (must be forced)" in refused.stderr
    assert f"Deleted: sha256:{id}" in engine.docker("rmi", "-f", id).stdout
    engine.docker("start", box)
    assert engine.docker("wait", box).stdout == "0\n"
    assert engine.docker("logs", box).stdout == "alive\n"
    assert engine.docker("ps", "-a", "--format", "{{.Image}}").stdout.strip() == id


def test_an_image_without_tag_is_dangling_but_listed_with_those_that_have_a_digest(engine: Daemon, ref: str) -> None:
    [id] = ids(engine, f"reference={ref}")
    digest = engine.docker("image", "inspect", "-f", "{{index .RepoDigests 0}}", ref).stdout.strip()
    assert id in ids(engine, "dangling=false")
    assert id not in ids(engine, "dangling=true")
    engine.docker("rmi", ref)
    engine.docker("pull", "-q", digest)
    assert id in ids(engine, "dangling=true")
    assert id in ids(engine, "dangling=false")


def test_images_are_found_by_patterns_labels_and_age(engine: Daemon, ref: str) -> None:
    [id] = ids(engine, f"reference={ref}")
    host, _, rest = ref.partition("/")
    for pattern in ("*/mine/*", f"{host}/*/*:latest", f"{host}/[m-n]ine/*", f"{host}/[^a]ine/*", f"*/*/{rest[5:]}"):
        assert id in ids(engine, f"reference={pattern}"), pattern
    for pattern in ("mine/*", f"{host}/*", f"{host}/[^m]ine/*", f"{ref}:other"):
        assert id not in ids(engine, f"reference={pattern}"), pattern
    assert ids(engine, f"label=mine=mine/{rest[5:]}") == [id]
    assert ids(engine, f"label=mine=mine/{rest[5:]}", "until=1h") == [id]  # made a while ago
    assert ids(engine, f"label=mine=mine/{rest[5:]}", "until=2020-01-01") == []
    assert "invalid filter" in engine.docker("images", "--filter", "bogus=1", check=False).stderr
