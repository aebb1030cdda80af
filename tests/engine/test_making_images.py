"""Images of containers (commit) and of tars (import), as docker's client, docker-py and our own ask for them."""

import bz2
import contextlib
import gzip
import lzma
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest
import zstandard

from support.calls import eventually
from support.daemon import Daemon, Registry
from support.images import tar
from support.web import web_server

IMAGE = "/images/mine/image:v1/json"


@pytest.fixture(autouse=True)
def no_images_left(engine: Daemon) -> Iterator[None]:
    """Whatever images a test makes go with it."""
    before = {image["Id"] for image in engine.json("GET", "/images/json?all=1")}
    yield
    engine.clean()
    while made := [image["Id"] for image in engine.json("GET", "/images/json?all=1") if image["Id"] not in before]:
        gone = [id for id in made if engine.request("DELETE", f"/images/{id}?force=1")[0] == 200]
        assert gone, f"none of {made} can be removed"  # one that others stand on goes after them


def topmost_layer(engine: Daemon, image: str) -> list[str]:
    """The names in an image's last layer."""
    diff_id = engine.json("GET", f"/images/{image}/json")["RootFS"]["Layers"][-1]
    with tarfile.open(engine.folder / "data/layers" / diff_id.replace(":", "/") / "tar") as archive:
        return [entry.name for entry in archive]


def changed_container(engine: Daemon) -> str:
    box = engine.docker("run", "-d", "busybox", "sleep", "60").stdout.strip()
    engine.docker("exec", box, "sh", "-c", "echo new > /data/new; rm /data/seed")
    return box


# --- commit


@pytest.mark.parametrize("state", ["running", "paused", "exited", "created"])
def test_a_container_is_committed_in_any_state_and_stays_as_it_was(engine: Daemon, state: str) -> None:
    box = engine.docker("create", "busybox", "true").stdout.strip() if state == "created" else changed_container(engine)
    if state == "paused":
        engine.docker("pause", box)
    if state == "exited":
        engine.docker("kill", box)
    image = engine.docker("commit", box, "mine/image:v1").stdout.strip()
    assert engine.json("GET", f"/containers/{box}/json")["State"]["Status"] == state
    assert engine.json("GET", IMAGE)["Id"] == image
    listed = engine.docker("run", "--rm", "mine/image:v1", "ls", "/data").stdout.split()
    assert listed == (["seed"] if state == "created" else ["new"])


def test_only_what_the_container_changed_is_in_the_layer(engine: Daemon) -> None:
    box = changed_container(engine)
    engine.docker("commit", box, "mine/image:v1")
    assert topmost_layer(engine, "mine/image:v1") == ["data", "data/new", "data/.wh.seed"]


def test_an_unchanged_container_adds_no_layer_but_a_line_of_history(engine: Daemon) -> None:
    box = engine.docker("run", "-d", "busybox", "sleep", "60").stdout.strip()
    engine.docker("commit", "-m", "why", "-a", "who", box, "mine/image:v1")
    base, image = engine.json("GET", "/images/busybox/json"), engine.json("GET", IMAGE)
    assert image["RootFS"] == base["RootFS"]
    assert (image["Comment"], image["Author"], image["Architecture"]) == ("why", "who", base["Architecture"])
    history = engine.json("GET", "/images/mine/image:v1/history")
    assert [(each["CreatedBy"], each["Comment"], each["Size"] > 0) for each in history] == [
        ("sleep 60", "why", False),
        ("layer 0", "", True),
    ]


def test_the_configuration_is_the_containers_with_the_changes(engine: Daemon) -> None:
    box = engine.docker(
        "create", "-e", "A=1", "-l", "k=v", "-w", "/data", "-u", "app", "--expose", "80", "-v", "/vol",
        "--stop-signal", "INT", "--health-cmd", "true", "busybox", "sleep", "1",
    ).stdout.strip()  # fmt: skip
    changes = ("ENV A=2 B=$A", 'LABEL l="a b"', "EXPOSE 90/udp", "VOLUME /more", "USER nobody", "ONBUILD RUN x")
    engine.docker("commit", *(word for each in changes for word in ("-c", each)), box, "mine/image:v1")
    config = engine.json("GET", IMAGE)["Config"]
    assert config["Env"] == ["A=2", "PATH=/bin:/usr/bin", "B=1"]
    assert config["Labels"] == {"k": "v", "l": "a b"}
    assert config["ExposedPorts"] == {"80/tcp": {}, "90/udp": {}}
    assert config["Volumes"] == {"/vol": {}, "/more": {}}
    assert (config["User"], config["WorkingDir"], config["StopSignal"]) == ("nobody", "/data", "INT")
    assert (config["Cmd"], config["OnBuild"]) == (["sleep", "1"], ["RUN x"])
    assert config["Healthcheck"]["Test"] == ["CMD-SHELL", "true"]


def test_an_entrypoint_that_is_set_clears_the_command(engine: Daemon) -> None:
    box = engine.docker("create", "busybox", "sleep", "1").stdout.strip()
    engine.docker("commit", "-c", 'ENTRYPOINT ["echo", "hi"]', box, "mine/image:v1")
    assert engine.docker("run", "--rm", "mine/image:v1").stdout == "hi\n"


def test_a_configuration_in_the_request_takes_the_place_of_the_containers_and_is_filled_from_it(
    engine: Daemon, docker_py: docker.DockerClient
) -> None:
    box = docker_py.containers.create("busybox", ["sleep", "1"], environment={"A": "1", "B": "1"}, labels={"k": "v"})
    image = box.commit("mine/image", "v1", conf={"Cmd": ["true"], "Env": ["A=9"]}, changes=["ENV C=3"])
    config = image.attrs["Config"]
    assert config["Env"] == ["A=9", "C=3", "B=1", "PATH=/bin:/usr/bin"]
    assert (config["Cmd"], config["Labels"]) == (["true"], {"k": "v"})


def test_a_commit_is_told_in_dockers_order(engine: Daemon, docker_py: docker.DockerClient) -> None:
    box = docker_py.containers.run("busybox", ["sleep", "60"], detach=True, name="committed")
    stream = docker_py.events(decode=True, filters={"type": ["container", "image"]})
    image = box.commit("mine/image", "v1", message="why")
    seen = []
    with contextlib.closing(stream):
        for event in stream:
            seen.append(event)
            if event["Action"] == "unpause":
                break
    assert [(each["Type"], each["Action"]) for each in seen] == [
        ("container", "pause"),
        ("image", "tag"),
        ("container", "commit"),
        ("container", "unpause"),
    ]
    assert seen[2]["Actor"]["Attributes"] == {
        "image": "busybox",
        "name": "committed",
        "comment": "why",
        "imageID": image.id,
        "imageRef": "mine/image:v1",
    }


def test_a_commit_without_pause_doesnt_pause(engine: Daemon, docker_py: docker.DockerClient) -> None:
    box = docker_py.containers.run("busybox", ["sleep", "60"], detach=True)
    stream = docker_py.events(decode=True, filters={"container": [box.id]})
    engine.scow("commit", "--no-pause", box.id)
    with contextlib.closing(stream):
        assert next(stream)["Action"] == "commit"


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("container=nobody", 404, "No such container: nobody"),
        ("container=BOX&repo=Upper", 400, "invalid reference format"),
        ("container=BOX&repo=a&tag=b/c", 400, "invalid tag format"),
        (f"container=BOX&repo=a@sha256:{'0' * 64}", 400, "digest reference"),
        ("container=BOX&changes=RUN%20x", 400, "run is not a valid change command"),
        ("container=BOX&changes=EXPOSE%20x", 400, "x"),
    ],
)
def test_bad_commits_are_refused(engine: Daemon, query: str, status: int, text: str) -> None:
    box = engine.docker("create", "busybox", "true").stdout.strip()
    before = len(engine.json("GET", "/images/json?all=1"))
    answer = engine.request("POST", f"/commit?{query.replace('BOX', box)}")
    assert (answer[0], text in answer[1].decode()) == (status, True), answer
    assert len(engine.json("GET", "/images/json?all=1")) == before


def test_a_committed_image_goes_to_a_registry_and_comes_back_the_same(engine: Daemon, registry: Registry) -> None:
    box = changed_container(engine)
    name = f"{registry.address}/mine/committed:v1"
    image = engine.docker("commit", box, name).stdout.strip()
    first = engine.docker("push", "-q", name).stdout
    engine.docker("rmi", "-f", image)
    engine.docker("pull", "-q", name)
    assert engine.docker("image", "inspect", "-f", "{{.Id}}", name).stdout.strip() == image
    assert engine.docker("push", "-q", name).stdout == first
    assert engine.docker("run", "--rm", name, "cat", "/data/new").stdout == "new\n"


def test_an_image_of_a_committed_image_stands_on_it(engine: Daemon) -> None:
    engine.docker("commit", changed_container(engine), "mine/image:v1")
    box = engine.docker("create", "mine/image:v1", "true").stdout.strip()
    engine.docker("cp", __file__, f"{box}:/more")
    second = engine.scow("commit", "-m", "two", box).stdout.strip()
    assert engine.docker("run", "--rm", second, "ls", "/data", "/more").stdout.split() == ["/more", "/data:", "new"]
    assert len(engine.json("GET", f"/images/{second}/json")["RootFS"]["Layers"]) == 3


# --- import

ROOT = tar({"bin/": b"", "etc/": b"", "etc/name": b"imported\n", "etc/link": "name"})


@pytest.mark.parametrize(
    "compress",
    [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard.compress],
    ids=["plain", "gzip", "bzip2", "xz", "zstd"],
)
def test_a_tar_of_any_compression_becomes_an_image(engine: Daemon, compress: Callable[[bytes], bytes]) -> None:
    said = engine.docker("import", "-m", "by hand", "-c", "CMD echo hi", "-", "mine/image:v1", input=compress(ROOT))
    image = engine.json("GET", IMAGE)
    assert said.stdout.split() == [image["Id"]]
    assert image["Config"]["Cmd"] == ["/bin/sh", "-c", "echo hi"]
    assert image["Comment"] == "by hand"
    assert topmost_layer(engine, "mine/image:v1") == ["bin", "etc", "etc/name", "etc/link"]
    (history,) = engine.json("GET", "/images/mine/image:v1/history")
    assert (history["Comment"], history["Size"]) == ("by hand", len("imported\n") + len("name"))


def test_what_a_container_exports_can_be_imported(engine: Daemon, tmp_path: Path) -> None:
    box = changed_container(engine)
    engine.docker("export", "-o", str(tmp_path / "root.tar"), box)
    engine.scow("import", "--change", 'CMD ["ls", "/data"]', str(tmp_path / "root.tar"), "mine/image:v1")
    assert engine.docker("run", "--rm", "mine/image:v1").stdout == "new\n"
    assert engine.json("GET", IMAGE)["Comment"] == "Imported from -"


def test_a_platform_can_be_given(engine: Daemon) -> None:
    engine.docker("import", "--platform", "linux/arm64/v8", "-", "mine/image:v1", input=ROOT)
    image = engine.json("GET", IMAGE)
    assert (image["Os"], image["Architecture"]) == ("linux", "arm64")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server with the tar."""
    (tmp_path / "root.tar").write_bytes(ROOT)
    with web_server(tmp_path) as address:
        yield address


def test_the_engine_fetches_a_url(engine: Daemon, web: str) -> None:
    said = engine.scow("import", f"http://{web}/root.tar", "mine/image:v1").stdout.splitlines()
    image = engine.json("GET", IMAGE)
    assert said == [f"Downloading from http://{web}/root.tar", image["Id"]]
    assert image["Comment"] == f"Imported from http://{web}/root.tar"


def test_a_url_without_scheme_is_http(engine: Daemon, docker_py: docker.DockerClient, web: str) -> None:
    docker_py.api.import_image_from_url(f"{web}/root.tar", repository="mine/image", tag="v1")
    assert engine.json("GET", IMAGE)["Comment"] == f"Imported from {web}/root.tar"


def test_a_url_that_gives_nothing_is_told(engine: Daemon, web: str) -> None:
    refused = engine.docker("import", f"http://{web}/none", "mine/image:v1", check=False)
    assert refused.returncode == 1
    assert f"failed to GET http://{web}/none with status 404" in refused.stderr


@pytest.mark.parametrize("data", [b"garbage", ROOT[:700], gzip.compress(ROOT)[:-9]], ids=["no tar", "cut", "cut gzip"])
def test_what_is_no_tar_is_refused_and_leaves_nothing(engine: Daemon, data: bytes) -> None:
    layers = set((engine.folder / "data/layers/sha256").iterdir())
    refused = engine.docker("import", "-", "mine/image:v1", input=data, check=False)
    assert refused.returncode == 1
    assert engine.request("GET", IMAGE)[0] == 404
    # What earlier tests have removed may still be on its way out.
    assert set((engine.folder / "data/layers/sha256").iterdir()) <= layers
    eventually(lambda: not list((engine.folder / "data" / "ingest").iterdir()))


# --- load


def test_what_is_wrong_with_an_archive_is_told_in_the_stream(engine: Daemon) -> None:
    for run in (engine.docker, engine.scow):
        failed = run("load", input=b"abc" * 1000, check=False)
        assert (failed.returncode, failed.stderr.startswith("invalid archive: it is not a tar")) == (1, True)
