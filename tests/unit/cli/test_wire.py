"""Bytes: HTTP replies, frames, detach keys, progress, credentials."""

import io
import json
import os
import socket
import stat
from pathlib import Path

import pytest

from scow.cli.config import Config
from scow.cli.credentials import encode_header, erase_credentials, find_credentials, store_credentials
from scow.cli.errors import CliError
from scow.cli.flags import parse
from scow.cli.hosts import resolve_host
from scow.cli.http import Connection, HttpError, encode_query
from scow.cli.jsontext import dumps, indent, loads
from scow.cli.main import GLOBAL_FLAGS
from scow.cli.progress import ProgressView
from scow.cli.pump import FrameReader
from scow.cli.streams import SocketStream
from scow.cli.terminal import DetachFilter, parse_detach_keys


def connection(data: bytes) -> Connection:
    ours, theirs = socket.socketpair()
    theirs.sendall(data)
    theirs.close()
    return Connection(SocketStream(ours), "host")


def test_a_chunked_reply_keeps_the_connection() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    link = connection(head + b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")
    reply = link.response("GET")
    assert reply.read() == b"hello world"
    assert reply.keeps
    second = link.response("GET")
    assert (second.status, second.read(), second.keeps) == (204, b"", True)
    link.close()


def test_a_reply_with_a_length_ends_there() -> None:
    link = connection(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokrest")
    assert link.response("GET").read() == b"ok"
    assert link.buffer == b"rest"
    link.close()


def test_a_cut_off_reply_is_an_error() -> None:
    link = connection(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok")
    with pytest.raises(HttpError, match="unexpected EOF"):
        link.response("GET").read()
    link.close()


def test_queries_are_encoded_and_sorted() -> None:
    assert encode_query({"tag": "1", "fromImage": "docker.io/a b"}) == "fromImage=docker.io%2Fa%20b&tag=1"


class Seen:
    """Collects what a reader of frames hands out."""

    def __init__(self) -> None:
        self.parts: list[tuple[int, bytes]] = []

    def add(self, stream: int, part: memoryview) -> None:
        self.parts.append((stream, bytes(part)))

    def joined(self, stream: int) -> bytes:
        return b"".join(part for number, part in self.parts if number == stream)


def test_frames_are_put_together_from_any_pieces() -> None:
    data = b"\1\0\0\0\0\0\0\3abc\2\0\0\0\0\0\0\2de"
    for size in range(1, len(data) + 1):
        seen = Seen()
        reader = FrameReader(seen.add)
        for start in range(0, len(data), size):
            reader.feed(data[start : start + size])
        assert seen.joined(1) == b"abc"
        assert seen.joined(2) == b"de"


def test_detach_keys_are_taken_out_only_when_complete() -> None:
    keys = DetachFilter(parse_detach_keys("ctrl-p,ctrl-q"))
    assert keys.feed(b"ab\x10") == (b"ab", False)
    assert keys.feed(b"c") == (b"\x10c", False)
    assert keys.feed(b"x\x10\x11y") == (b"x", True)
    with pytest.raises(CliError, match="invalid detach keys"):
        parse_detach_keys("ctrl-!!")


def test_progress_without_a_terminal_tells_each_status_once() -> None:
    out = io.StringIO()
    ProgressView(out, terminal=False).show_all(
        [
            {"status": "Pulling from library/x", "id": "latest"},
            {"status": "Pulling fs layer", "progressDetail": {}, "id": "abc"},
            {"status": "Downloading", "progressDetail": {"current": 1, "total": 10}, "id": "abc"},
            {"status": "Pull complete", "progressDetail": {}, "id": "abc"},
            {"aux": {"x": 1}},
            {"status": "Digest: sha256:1"},
        ]
    )
    assert out.getvalue() == (
        "latest: Pulling from library/x\nabc: Pulling fs layer\nabc: Pull complete\nDigest: sha256:1\n"
    )


def test_progress_on_a_terminal_moves_to_its_line() -> None:
    out = io.StringIO()
    ProgressView(out, terminal=True).show_all(
        [
            {"status": "Downloading", "progressDetail": {"current": 500, "total": 1000}, "id": "a"},
            {"status": "Waiting", "progressDetail": {}, "id": "b"},
            {"status": "Pull complete", "progressDetail": {}, "id": "a"},
        ]
    )
    bar = "[" + "=" * 25 + ">" + " " * 25 + "]     500B/1kB"
    assert out.getvalue() == (
        f"\n\x1b[1A\x1b[2K\ra: Downloading {bar}\r\x1b[1B"
        "\n\x1b[1A\x1b[2K\rb: Waiting \r\x1b[1B"
        "\x1b[2A\x1b[2K\ra: Pull complete \r\x1b[2B"
    )


def test_an_error_in_the_progress_ends_it() -> None:
    with pytest.raises(CliError, match="no such manifest"):
        ProgressView(io.StringIO(), False).show({"errorDetail": {"message": "no such manifest"}, "error": "x"})


def test_credentials_are_kept_private_and_found_again(tmp_path: Path) -> None:
    config = Config(str(tmp_path))
    config.values["other"] = 1
    store_credentials(config, "quay.io", {"username": "me", "password": "a:b"})
    assert stat.S_IMODE(os.stat(config.path).st_mode) == 0o600
    again = Config(str(tmp_path))
    assert again.values["other"] == 1
    found = find_credentials(again, {}, "quay.io")
    assert found == {"username": "me", "password": "a:b", "serveraddress": "quay.io"}
    erase_credentials(again, "quay.io")
    assert find_credentials(Config(str(tmp_path)), {}, "quay.io") == {}


def test_a_helper_keeps_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "docker-credential-fake"
    helper.write_text('#!/bin/sh\nread key\necho "{\\"Username\\":\\"<token>\\",\\"Secret\\":\\"s-$key-$1\\"}"\n')
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    config = Config(str(tmp_path))
    config.values["credHelpers"] = {"quay.io": "fake"}
    assert find_credentials(config, {}, "quay.io") == {"identitytoken": "s-quay.io-get", "serveraddress": "quay.io"}


def test_credentials_come_from_the_environment_first(tmp_path: Path) -> None:
    table = json.dumps({"auths": {"https://quay.io/": {"auth": "bWU6cHc="}}})
    found = find_credentials(Config(str(tmp_path)), {"DOCKER_AUTH_CONFIG": table}, "quay.io")
    assert (found["username"], found["password"]) == ("me", "pw")


def test_no_credentials_are_an_empty_object() -> None:
    assert encode_header({}) == "e30="


@pytest.mark.parametrize(
    ("words", "environment", "host"),
    [
        ((), {}, "unix:///run/scow/scow.sock"),
        ((), {"DOCKER_HOST": "tcp://a:1"}, "tcp://a:1"),
        ((), {"DOCKER_HOST": "tcp://a:1", "SCOW_HOST": "tcp://b:1"}, "tcp://b:1"),
        (("-H", "unix:///x"), {"SCOW_HOST": "tcp://b:1"}, "unix:///x"),
        ((), {"DOCKER_CONTEXT": "remote"}, "tcp://remote:2376"),
        (("--context", "remote"), {"DOCKER_HOST": "tcp://a:1"}, "tcp://remote:2376"),
        ((), {"DOCKER_CONTEXT": "default"}, "unix:///run/scow/scow.sock"),
    ],
)
def test_the_engine_is_found(tmp_path: Path, words: tuple[str, ...], environment: dict[str, str], host: str) -> None:
    from hashlib import sha256

    meta = tmp_path / "contexts" / "meta" / sha256(b"remote").hexdigest() / "meta.json"
    meta.parent.mkdir(parents=True)
    meta.write_text(json.dumps({"Name": "remote", "Endpoints": {"docker": {"Host": "tcp://remote:2376"}}}))
    assert resolve_host(parse(GLOBAL_FLAGS, words), environment, Config(str(tmp_path))).text == host


def test_json_goes_both_ways() -> None:
    value = {"a": [1, 2.5, True, None, "é\n"], "b": {}}
    assert loads(dumps(value)) == value == json.loads(dumps(value))
    with pytest.raises(ValueError, match="JSON"):
        loads("{} x")


def test_indenting_keeps_the_values_text() -> None:
    text = '[{"a":1.0,"b":[],"c":{"d":"\\u003cx{,:"},"e":[1,2]}]'
    assert indent(text) == json.dumps(json.loads(text), indent=4).replace("<", "\\u003c")
