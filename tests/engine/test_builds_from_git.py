"""Contexts and sources from git repositories."""

import asyncio
import base64
import json
import os
import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from scow.build.git import GitAccess, check_out, parse_git
from scow.errors import InvalidArgument, Unavailable
from support.builds import build, context, error_of, image_of, post
from support.daemon import Daemon
from support.git_server import GitServer, commit, git, git_server


class Repository:
    """main: two commits, the second with a submodule; tag v1 at the first; branch dev."""

    def __init__(self, server: GitServer, folder: Path) -> None:
        self.server = server
        self.url = f"{server.url}/work/.git"
        inner = folder / "inner"
        inner.mkdir()
        git(inner, "init", "-q")
        commit(inner, {"in": "inner\n"})
        work = folder / "work"
        work.mkdir()
        git(work, "init", "-q")
        (work / "link").symlink_to("/etc")
        self.first = commit(work, {"f": "one\n", "sub/Dockerfile": "FROM scratch\nCOPY f /\n", "sub/f": "sub\n"})
        git(work, "tag", "-a", "-m", "t", "v1")
        git(work, "branch", "dev")
        git(work, "submodule", "-q", "add", f"{server.url}/inner/.git", "module")
        dockerfile = "FROM busybox\nCOPY . /c\nRUN cat /c/f /c/module/in && ls -a /c\n"
        self.second = commit(work, {"f": "two\n", "Dockerfile": dockerfile})
        git(work, "checkout", "-q", "dev")
        shutil.rmtree(work / "module")
        self.dev = commit(work, {"f": "dev\n"})
        git(work, "checkout", "-q", "main")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    folder = tmp_path_factory.mktemp("git")
    with git_server(folder) as server:
        yield Repository(server, folder)


def fetched(text: str, target: Path, access: GitAccess | None = None) -> Path:
    target.mkdir()
    asyncio.run(check_out(parse_git(text), target, access or GitAccess()))
    return target


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "two"),
        ("#main", "two"),
        ("#dev", "dev"),
        ("#refs/heads/dev", "dev"),
        ("#v1", "one"),
        ("?tag=v1", "one"),
        ("?branch=dev", "dev"),
        ("?ref=dev", "dev"),
        ("#FIRST", "one"),
        ("#SHORT", "one"),
        ("?branch=main&commit=SECOND", "two"),
        ("?commit=FIRST", "one"),
    ],
)
def test_branches_tags_and_commits_are_checked_out(
    repository: Repository, tmp_path: Path, query: str, expected: str
) -> None:
    query = query.replace("FIRST", repository.first).replace("SECOND", repository.second)
    top = fetched(repository.url + query.replace("SHORT", repository.first[:9]), tmp_path / "a")
    assert (top / "f").read_text() == f"{expected}\n"
    assert (top / "f").stat().st_mtime == 1_600_000_000
    assert not (top / ".git").exists()
    assert (top / "module" / "in").exists() is (expected == "two")
    assert not (top / "module" / ".git").exists()


def test_submodules_are_left_out_on_request_and_the_history_is_kept(repository: Repository, tmp_path: Path) -> None:
    top = fetched(f"{repository.url}?submodules=false&keep-git-dir=true", tmp_path / "a")
    assert list((top / "module").iterdir()) == []
    assert git(top, "rev-parse", "HEAD") == repository.second
    assert not (top / ".git" / "hooks").exists()


def test_a_commit_other_than_the_expected_is_refused(repository: Repository, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=f"expected checksum to match {repository.dev}, got {repository.second}"):
        fetched(f"{repository.url}?branch=main&commit={repository.dev}", tmp_path / "a")


def test_a_missing_reference_and_a_missing_server_are_told(repository: Repository, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="does not contain ref nowhere"):
        fetched(f"{repository.url}#nowhere", tmp_path / "a")
    with pytest.raises(Unavailable, match=r"failed to load git source http://127\.0\.0\.1:1/a\.git"):
        fetched("http://me:secret@127.0.0.1:1/a.git", tmp_path / "b")


def test_submodules_may_only_come_from_other_machines(repository: Repository, tmp_path: Path) -> None:
    evil = repository.server.folder / "evil"
    evil.mkdir()
    git(evil, "init", "-q")
    commit(evil, {"a": "a"})
    git(evil, "submodule", "-q", "add", str(repository.server.folder / "inner"), "module")
    git(evil, "commit", "-qm", "m")
    with pytest.raises(Unavailable, match="transport 'file' not allowed"):
        fetched(f"{repository.server.url}/evil/.git", tmp_path / "a")


def test_hooks_filters_and_configuration_of_the_machine_stay_out(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    marker = tmp_path / "ran"
    (home / ".gitconfig").write_text(f'[filter "x"]\n\tsmudge = touch {marker}; cat\n')
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / ".gitconfig"))
    filtered = repository.server.folder / "filtered"
    filtered.mkdir()
    git(filtered, "init", "-q")
    commit(filtered, {".gitattributes": "* filter=x\n", "a": "a"})
    top = fetched(f"{repository.server.url}/filtered/.git", tmp_path / "a")
    assert (top / "a").read_text() == "a"
    assert not marker.exists()


def test_tokens_go_to_the_server_that_they_are_for(repository: Repository, tmp_path: Path) -> None:
    repository.server.seen.clear()
    fetched(repository.url, tmp_path / "a", GitAccess(secrets={"GIT_AUTH_TOKEN.127.0.0.1": b"word"}))
    expected = "basic " + base64.b64encode(b"x-access-token:word").decode()
    assert set(repository.server.seen) == {expected}
    repository.server.seen.clear()
    fetched(repository.url, tmp_path / "b", GitAccess(secrets={"GIT_AUTH_TOKEN.elsewhere": b"word"}))
    assert repository.server.seen == []


@pytest.mark.parametrize("address", ["git@host:work", "ssh://me@host:2222/work"])
def test_ssh_gets_the_clients_agent_and_known_hosts_and_none_of_the_engines_keys(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    ssh = programs / "ssh"
    # Stands in for ssh: notes what it got, and serves the repository.
    ssh.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$SSH_AUTH_SOCK" "$@" > {tmp_path}/args\n'
        f'for each in "$@"; do case "$each" in UserKnownHostsFile=*/*)'
        f" eval cat ${{each#*=}} > {tmp_path}/hosts;; esac; done\n"
        f"exec git -c safe.directory='*' upload-pack {repository.server.folder}/work\n"
    )
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    access = GitAccess(agent=Path("/agent"), known_hosts="host ssh-ed25519 AAAA\n")
    fetched(f"{address}?submodules=0" if "//" in address else f"{address}#dev", tmp_path / "a", access)
    args = (tmp_path / "args").read_text().splitlines()
    assert args[:3] == ["/agent", "-F", "/dev/null"]
    assert {"StrictHostKeyChecking=yes", "IdentityFile=none", "BatchMode=yes"} <= set(args)
    assert "me@host" in args or "git@host" in args
    assert (tmp_path / "hosts").read_text() == "host ssh-ed25519 AAAA\n"


def test_a_repository_is_a_context(engine: Daemon, repository: Repository) -> None:
    status, data = post(engine, b"", remote=repository.url)
    assert status == 200
    assert b"inner" in data, data
    assert b"Successfully built" in data, data
    status, data = post(engine, b"", remote=f"{repository.url}?branch=dev&subdir=sub")
    assert b"Successfully built" in data, data
    status, data = post(engine, b"", remote=f"{repository.url}#dev:../../etc")
    assert status == 400
    assert b"no folder" in data
    status, data = post(engine, b"", remote=f"{repository.url}#dev:link")
    assert status == 400
    status, data = post(engine, b"", remote=f"{repository.url}#--upload-pack=id")
    assert status == 400
    assert b"invalid git reference" in data


def test_add_takes_a_folder_of_a_repository(engine: Daemon, repository: Repository) -> None:
    messages = build(
        engine,
        f"""
        FROM busybox
        ADD {repository.url}#dev:sub /sub/
        ADD --keep-git-dir=true {repository.url} /all
        ADD --checksum={repository.first} {repository.url}#v1 /first
        RUN test "$(cat /sub/f)" = sub && test ! -e /sub/sub && test -d /all/.git && test "$(cat /first/f)" = one
        """,
    )
    assert image_of(messages)
    refused = build(engine, f"FROM busybox\nADD --checksum={repository.first} {repository.url}#dev /a")
    assert f"expected checksum to match {repository.first}" in error_of(refused)


def test_provenance_names_the_commit(engine: Daemon, repository: Repository) -> None:
    _, data = post(engine, b"", remote=f"{repository.url}?branch=main&subdir=sub", metadata=1)
    (told,) = [json.loads(line)["aux"]["Provenance"] for line in data.splitlines() if b"Provenance" in line]
    (provenance,) = told.values()
    source = provenance["buildDefinition"]["externalParameters"]["configSource"]
    assert (source["digest"], source["path"]) == ({"sha1": repository.second}, "Dockerfile")
    messages = build(engine, f"FROM scratch\nADD {repository.url}#v1 /\n", metadata=1)
    (told,) = [message["aux"]["Provenance"] for message in messages if "Provenance" in message.get("aux", {})]
    (provenance,) = told.values()
    assert provenance["buildDefinition"]["resolvedDependencies"] == [
        {"uri": f"{repository.url}#v1", "digest": {"sha1": repository.first}}
    ]


DATED_BY_CONTEXT = json.dumps({"SOURCE_DATE_EPOCH": "context"})


def created(engine: Daemon, messages: list[dict[str, Any]]) -> str:
    return str(engine.json("GET", f"/images/{image_of(messages)}/json")["Created"])


def test_the_source_date_may_be_that_of_the_commit(engine: Daemon, repository: Repository) -> None:
    messages = build(engine, "", remote=f"{repository.url}#dev:sub", buildargs=DATED_BY_CONTEXT)
    assert created(engine, messages) == "2020-09-13T12:26:40Z"


@pytest.mark.parametrize("is_told", [True, False])
def test_or_of_what_is_at_a_url(engine: Daemon, is_told: bool) -> None:
    dockerfile = "ARG SOURCE_DATE_EPOCH=context\nFROM busybox\nRUN true > /made\nCOPY f /\n"
    sent = context({"Dockerfile": dockerfile, "f": b"1"})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/x-tar")
            self.send_header("Content-Length", str(len(sent)))
            if is_told:
                self.send_header("Last-Modified", "Fri, 14 Jul 2017 02:40:00 GMT")
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        messages = build(engine, "", remote=f"http://127.0.0.1:{server.server_port}/context.tar")
        server.shutdown()
        thread.join()
    # Else it is the time of the newest file in the archive.
    assert created(engine, messages) == ("2017-07-14T02:40:00Z" if is_told else "2020-09-13T12:26:40Z")


def test_a_context_of_the_client_has_no_date(engine: Daemon) -> None:
    before = datetime.now(UTC)
    messages = build(engine, "FROM busybox\nRUN true > /f", nocache=1, buildargs=DATED_BY_CONTEXT)
    assert datetime.fromisoformat(created(engine, messages)) > before
