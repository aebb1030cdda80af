"""Named contexts: folders, images, repositories and archives that FROM, COPY and mounts find by name."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.builds import build, context, image_of, post, text
from support.daemon import Daemon
from support.git_server import commit, git, git_server
from support.web import web_server

pytestmark = pytest.mark.usefixtures("_forgotten_images")


@pytest.fixture
def _forgotten_images(engine: Daemon) -> Iterator[None]:
    yield
    engine.clean()
    engine.request("POST", "/images/prune?filters=%7B%22dangling%22%3A%5B%22true%22%5D%7D")


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def test_a_folder_is_copied_from_mounted_and_stood_on(engine: Daemon, tmp_path: Path) -> None:
    _write(tmp_path / "more", {"a/one": "1\n", "two": "2\n", "left": "out", ".dockerignore": "left"})
    _write(
        tmp_path / "main",
        {
            "Dockerfile": """
            FROM More AS files
            FROM busybox
            COPY --from=more a /a
            COPY --from=files two /two
            RUN --mount=from=more,target=/m cat /m/two /a/one /two; ls /m
            """
        },
    )
    for value in (f"more={tmp_path}/more", f"MORE={tmp_path}/more"):
        done = engine.scow("build", "--no-cache", "--build-context", value, str(tmp_path / "main"))
        assert "2\n1\n2\na\ntwo\n" in done.stdout
    owners = engine.scow("build", "-q", "--build-context", f"more={tmp_path}/more", "-t", "n1", str(tmp_path / "main"))
    assert owners.returncode == 0
    assert engine.docker("run", "--rm", "n1", "stat", "-c", "%u:%g", "/a/one").stdout == "0:0\n"


def test_a_name_stands_in_for_images_and_stages(engine: Daemon) -> None:
    engine.docker("tag", "busybox", "named-base")
    dockerfile = """
    FROM no.such/Image:latest AS one
    RUN echo from one > /one
    FROM no.such/image AS two
    RUN exit 1
    FROM busybox
    COPY --from=one /one /
    COPY --from=two /bin/busybox /two
    COPY --from=elsewhere /bin/busybox /three
    """
    contexts = {
        "no.such/image": "docker-image://named-base",
        "two": "docker-image://busybox:latest",
        "elsewhere": "docker-image://named-base",
    }
    id = image_of(build(engine, dockerfile, buildcontexts=json.dumps(contexts)))
    assert engine.docker("run", "--rm", id, "cat", "/one").stdout == "from one\n"


def test_a_repository_and_an_archive_at_a_url_are_their_files(engine: Daemon, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    git(work, "init", "-q")
    commit(work, {"sub/f": "from git\n"})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        entry = tarfile.TarInfo("d/g")
        entry.size = 9
        archive.addfile(entry, io.BytesIO(b"from tar\n"))
    (tmp_path / "a.tar.gz").write_bytes(buffer.getvalue())
    with git_server(tmp_path) as server, web_server(tmp_path) as web:
        contexts = {"repo": f"{server.url}/work/.git#:sub", "archive": f"http://{web}/a.tar.gz"}
        dockerfile = "FROM busybox\nCOPY --from=repo f /\nCOPY --from=archive d /\nRUN cat /f /g"
        messages = build(engine, dockerfile, buildcontexts=json.dumps(contexts))
    assert "from git\nfrom tar\n" in text(messages)


def test_contexts_that_mean_nothing_are_refused(engine: Daemon) -> None:
    body = context({"Dockerfile": "FROM busybox\nCOPY --from=x / /"})
    for value, why in (
        ("/etc", "unknown kind of value"),
        ("upload://no-such", "nothing was sent as"),
        ("ext::sh -c true", "unknown kind of value"),
        ("file:///etc", "unknown kind of value"),
    ):
        status, data = post(engine, body, buildcontexts=json.dumps({"x": value}))
        assert why in data.decode(), (status, data)
    status, data = post(engine, body, buildcontexts="[1]")
    assert status == 400


def test_what_was_sent_for_a_build_is_gone_after_it(engine: Daemon, tmp_path: Path) -> None:
    _write(tmp_path, {"Dockerfile": "FROM busybox\nCOPY --from=x f /f\nRUN exit 1", "x/f": "1"})
    done = engine.scow("build", "--build-context", f"x={tmp_path}/x", str(tmp_path), check=False)
    assert done.returncode == 1
    assert not list((engine.folder / "data/build/work").iterdir())


def test_an_image_in_a_folder_is_stood_on(engine: Daemon, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    made = "FROM busybox\nRUN echo from a layout > /kept\nENV A=1"
    engine.scow("build", "-q", "--output", f"type=oci,tar=false,dest={layout}", "-", input=made.encode())
    index = json.loads((layout / "index.json").read_text())
    digest = index["manifests"][0]["digest"]
    dockerfile = b"FROM mine\nRUN cat /kept && echo A is $A"
    for place in (f"{layout}", f"{layout}:latest", f"{layout}@{digest}"):
        context = f"mine=oci-layout://{place}"
        done = engine.scow("build", "--no-cache", "--pull", "--build-context", context, "-", input=dockerfile)
        assert "from a layout\nA is 1\n" in done.stdout
    index["manifests"][0]["annotations"] = {"org.opencontainers.image.ref.name": "v1"}
    index["manifests"].append({**index["manifests"][0], "annotations": {}})
    (layout / "index.json").write_text(json.dumps(index))
    engine.scow("build", "-q", "--build-context", f"mine=oci-layout://{layout}:v1", "-", input=dockerfile)
    assert engine.docker("images", "-q", "v1").stdout == "", "names in a layout are not taken over"
    for place, refusal in (
        (f"{layout}:v2", "has no image v2"),
        (f"{layout}", "has no image latest"),
        ("none", "no such file"),
    ):
        refused = engine.scow(
            "build", "--build-context", f"mine=oci-layout://{place}", "-", input=dockerfile, check=False
        )
        assert refused.returncode == 1
        assert refusal in refused.stderr
