"""Mounts of RUN steps: caches and who may have them at once, agents with owners, what images they begin with."""

import concurrent.futures
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.builds import build, error_of, text
from support.daemon import Daemon, wait_for

needs_ssh = pytest.mark.skipif(shutil.which("ssh-agent") is None, reason="needs OpenSSH's client")
pytestmark = pytest.mark.usefixtures("_forgotten_images")


@pytest.fixture
def _forgotten_images(engine: Daemon) -> Iterator[None]:
    yield
    engine.clean()
    engine.request("POST", "/build/prune?all=1")
    engine.request("POST", "/images/prune?filters=%7B%22dangling%22%3A%5B%22true%22%5D%7D")


@contextmanager
def agent(folder: Path, name: str) -> Iterator[Path]:
    """An agent with a key of that name; its socket."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", folder / name], check=True)
    path = folder / f"{name}.sock"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    try:
        wait_for(path.exists, process, folder / name)
        environment = {**os.environ, "SSH_AUTH_SOCK": str(path)}
        subprocess.run(["ssh-add", "-q", folder / name], env=environment, check=True)
        yield path
    finally:
        process.terminate()
        process.wait()


def with_ssh_add(folder: Path, dockerfile: str) -> str:
    """A context with a Dockerfile, and ssh-add with its libraries below `root`."""
    (folder / "Dockerfile").write_text(dockerfile)
    tool = str(shutil.which("ssh-add"))
    libraries = re.findall(r"(/\S+) \(0x", subprocess.run(["ldd", tool], capture_output=True, text=True).stdout)
    for path in (tool, *libraries):
        target = folder / "root" / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return str(folder)


@needs_ssh
def test_steps_reach_agents_by_sockets_of_their_own(engine: Daemon, tmp_path: Path) -> None:
    place = with_ssh_add(
        tmp_path,
        """
        FROM busybox
        COPY root /
        RUN --mount=type=ssh stat -c '%n %a %u:%g' /run/buildkit/ssh_agent.0; echo $SSH_AUTH_SOCK; ssh-add -l
        RUN --mount=type=ssh,id=two,uid=12,gid=13,mode=0660,target=/sock --mount=type=ssh \\
            stat -c '%n %a %u:%g' /sock; echo $SSH_AUTH_SOCK; ssh-add -l
        USER 12
        RUN --mount=type=ssh,required,uid=12 ssh-add -l
        RUN --mount=type=ssh,required,id=three true
        """,
    )
    with agent(tmp_path, "first") as one, agent(tmp_path, "second") as two:
        given = ["--ssh", f"default={one}", "--ssh", f"two={two}"]
        done = engine.scow("build", "--no-cache", *given, place, check=False)
    said = re.sub(r"256 \S+ (\w+) \(ED25519\)", r"\1", done.stdout)
    assert "/run/buildkit/ssh_agent.0 600 0:0\n/run/buildkit/ssh_agent.0\nfirst\n" in said
    assert "/sock 660 12:13\n/sock\nsecond\n" in said
    assert "\nfirst\n" in said.rpartition("USER 12")[2]
    assert 'unset ssh forward key "three"' in done.stderr
    assert not list((engine.folder / "exec/build").iterdir())


@needs_ssh
def test_keys_in_files_are_given_by_an_agent_that_ends_with_the_build(
    engine: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents = engine.folder / "agents"
    agents.mkdir(exist_ok=True)
    monkeypatch.setenv("TMPDIR", str(agents))
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "mine", "-f", tmp_path / "key"], check=True)
    place = with_ssh_add(tmp_path, "FROM busybox\nCOPY root /\nRUN --mount=type=ssh,required ssh-add -l")
    done = engine.scow("build", "--no-cache", "--ssh", f"default={tmp_path}/key", place)
    assert " mine (ED25519)\n" in done.stdout
    assert not list(agents.iterdir())


def test_an_agent_that_is_not_there_is_refused(engine: Daemon, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox")
    status, data = engine.request("POST", "/scow/build/sessions", {"Agents": {"default": str(tmp_path / "none")}})
    assert (status, b"there is no socket" in data) == (400, True)
    done = engine.scow("build", "--ssh", f"x={tmp_path}/none", str(tmp_path), check=False)
    assert "no such file or directory" in done.stderr


def test_a_locked_cache_is_had_by_one_step_at_a_time(engine: Daemon) -> None:
    def run(number: int) -> str:
        first, second = ("l1", "l2") if number % 2 else ("l2", "l1")
        return text(
            build(
                engine,
                f"FROM busybox\nRUN --mount=type=cache,target=/{first},sharing=locked"
                f" --mount=type=cache,target=/{second},sharing=locked"
                f" set -C; echo {number} > /l1/busy && sleep 0.1 && rm /l1/busy",
            )
        )

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all("Successfully built" in said for said in pool.map(run, range(4)))


def test_a_step_may_have_a_locked_cache_twice(engine: Daemon) -> None:
    said = text(
        build(
            engine,
            "FROM busybox\nRUN --mount=type=cache,target=/a,id=tw,sharing=locked "
            "--mount=type=cache,target=/b,id=tw,sharing=locked echo seen > /a/x && cat /b/x",
        )
    )
    assert "\nseen\n" in said


def test_a_cache_begins_with_what_from_names(engine: Daemon) -> None:
    dockerfile = """
    FROM busybox AS seed
    RUN mkdir -p /s/d && echo seeded > /s/d/x && chown 7:8 /s/d/x && chmod 700 /s
    FROM busybox
    RUN --mount=type=cache,target=/c,from=seed,source=/s cat /c/d/x; stat -c '%a %u:%g' /c /c/d/x; echo more > /c/y
    RUN --mount=type=cache,target=/c,from=seed,source=/s ls /c
    RUN --mount=type=cache,target=/c ls /c
    RUN --mount=type=cache,target=/c,from=seed,source=/nowhere true
    """
    messages = build(engine, dockerfile)
    said = text(messages)
    assert "seeded\n700 0:0\n644 7:8\n" in said.replace("\n755 0:0", "\n700 0:0")
    assert "\nd\ny\n" in said
    assert 'failed to mount: "/nowhere" not found' in error_of(messages)


def test_caches_of_one_name_are_kept_apart_by_a_namespace(engine: Daemon) -> None:
    dockerfile = "FROM busybox\nRUN --mount=type=cache,target=/c ls /c; echo > /c/"
    build(engine, f"{dockerfile}one")
    other = build(engine, f"{dockerfile}two", buildargs='{"BUILDKIT_CACHE_MOUNT_NS":"n"}')
    assert "\none\n" not in text(other)
    assert "\none\n" in text(build(engine, f"{dockerfile}three"))
