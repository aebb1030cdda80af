"""Which images are listed, named and removed, as dockerd 20.10 answers."""

import re
import uuid
from collections.abc import Iterator

import pytest

from support import images
from support.calls import eventually
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
    assert "syntax error in pattern" in engine.docker("images", "--filter", "reference=[", check=False).stderr
    assert ids(engine, f"reference={host}/m\\ine/*") == [id]  # as Go escapes, and negates by ^ alone
    assert ids(engine, f"reference={host}/[!a]ine/*") == []


def test_a_tag_notes_its_time_and_may_not_look_like_a_digest(engine: Daemon, ref: str) -> None:
    def tagged_at() -> str:
        return str(engine.json("GET", f"/images/{ref}/json")["Metadata"]["LastTagTime"])

    assert tagged_at().startswith("0001-01-01")  # a pull is no tagging
    assert "ambiguous tag" in engine.docker("tag", ref, "sha256:abc", check=False).stderr
    engine.docker("tag", ref, f"{ref}:second")
    assert tagged_at().startswith("20")
    engine.docker("pull", "-q", ref)
    assert tagged_at().startswith("20")


def test_what_is_pushed_is_meant_by_a_name(engine: Daemon, ref: str) -> None:
    id = engine.docker("image", "inspect", "-f", "{{.Id}}", ref).stdout.strip()
    assert "does not exist locally with the tag: sha256" in engine.docker("push", id, check=False).stderr


def removal(engine: Daemon, *words: str) -> str:
    """What `rmi` says, without the IDs."""
    done = engine.docker("rmi", *words, check=False)
    text = re.sub(r"sha256:[0-9a-f]{64}|\b[0-9a-f]{12}\b", "ID", done.stdout + done.stderr)
    return re.sub(r"[^ \"]*mine/[0-9a-f]{8}", "REF", text)


NAMES_GONE = "Untagged: REF:latest\nUntagged: REF@ID\n"
CHILD = "conflict: unable to delete ID (cannot be forced) - image has dependent child images"
SEVERAL = "conflict: unable to delete ID (must be forced) - image is referenced in multiple repositories"


def test_the_last_name_of_a_stopped_containers_image_takes_the_image_along_by_force(engine: Daemon, ref: str) -> None:
    digest = engine.docker("image", "inspect", "-f", "{{index .RepoDigests 0}}", ref).stdout.strip()
    box = engine.docker("create", ref, "true").stdout.strip()
    for name, shown in ((ref, "REF"), (digest, "REF@ID")):
        assert f'unable to remove repository reference "{shown}" (must force)' in removal(engine, name)
    assert removal(engine, "-f", ref) == NAMES_GONE + "Deleted: ID\n"  # no layer: the container has them
    engine.docker("start", box)
    assert engine.docker("wait", box).stdout == "0\n"


def test_a_running_containers_image_loses_its_names_by_force_but_stays(engine: Daemon, ref: str) -> None:
    id = engine.docker("images", "-q", ref).stdout.strip()
    box = engine.docker("run", "-d", ref, "sleep", "60").stdout.strip()
    for words in ((id,), ("-f", id)):
        assert "(cannot be forced) - image is being used by running container" in removal(engine, *words)
    assert removal(engine, "-f", ref) == NAMES_GONE
    assert id in engine.docker("images", "-q").stdout.split()
    engine.docker("rm", "-f", box)
    assert removal(engine, id).startswith("Deleted: ID\nDeleted: ID\n")  # and the layer that it alone had


@pytest.mark.parametrize("other", ["{ref}:second", "other-{short}:1"])
def test_an_id_with_several_tags_wants_force(engine: Daemon, ref: str, other: str) -> None:
    id = engine.docker("images", "-q", ref).stdout.strip()
    second = other.format(ref=ref, short=id)
    engine.docker("tag", ref, second)
    assert SEVERAL in removal(engine, id)
    assert "Deleted: ID" not in removal(engine, second)
    engine.docker("tag", ref, second)
    assert removal(engine, "-f", id).count("Untagged: ") == 3


def test_a_parent_stays_for_its_children_and_goes_with_the_last_one(engine: Daemon, ref: str) -> None:
    id = engine.docker("images", "-q", ref).stdout.strip()
    box = engine.docker("create", ref, "true").stdout.strip()
    children = [f"{ref}-child:{n}" for n in range(2)]
    for child in children:
        engine.docker("commit", "-m", child, box, child)
    engine.docker("rm", box)
    parent = engine.docker("image", "inspect", "-f", "{{.Parent}}", children[0]).stdout.strip()
    assert parent.startswith(f"sha256:{id}")
    for words in ((id,), ("-f", id)):
        assert CHILD in removal(engine, *words)
    assert removal(engine, ref) == NAMES_GONE
    assert id in engine.docker("images", "-aq").stdout.split()
    assert id not in engine.docker("images", "-q").stdout.split()
    engine.docker("image", "prune", "-f")
    assert removal(engine, children[0]) == "Untagged: REF-child:0\nDeleted: ID\n"
    gone = engine.docker("rmi", children[1]).stdout
    assert f"Deleted: sha256:{id}" in gone
    assert gone.count("Deleted: ") >= 3  # both images and the layer that they alone had


def test_without_pruning_the_parent_stays(engine: Daemon, ref: str) -> None:
    id = engine.docker("images", "-q", ref).stdout.strip()
    box = engine.docker("create", ref, "true").stdout.strip()
    child = engine.docker("commit", box).stdout.strip()
    engine.docker("rm", box)
    engine.docker("rmi", ref)
    assert removal(engine, "--no-prune", child) == "Deleted: ID\n"
    assert id in engine.docker("images", "-q").stdout.split()


def test_layers_go_with_the_last_container_when_their_image_went_before(registry: Registry, own_engine: Daemon) -> None:
    own_engine.docker("pull", "-q", "busybox")
    box = own_engine.docker("create", "busybox").stdout.strip()
    assert own_engine.docker("rmi", "-f", "busybox").stdout.count("Deleted: ") == 1
    layers = own_engine.folder / "data" / "layers" / "sha256"
    assert len(list(layers.iterdir())) == 1
    own_engine.docker("rm", box)
    eventually(lambda: not list(layers.iterdir()))
