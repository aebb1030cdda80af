"""Log drivers that send lines elsewhere, what `docker logs` still knows of them, and what options add to lines."""

import json
import os
import re
import select
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.daemon import Daemon

TIMEOUT_S = 30


class Server:
    """A syslog server on loopback that keeps its messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.changed = threading.Condition()
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                for line in self.rfile:
                    with outer.changed:
                        outer.messages.append(line.decode().rstrip("\n"))
                        outer.changed.notify_all()

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.address = f"tcp://127.0.0.1:{self._server.server_address[1]}"

    def wait_for(self, text: str) -> list[str]:
        with self.changed:
            assert self.changed.wait_for(lambda: any(text in message for message in self.messages), TIMEOUT_S)
            return list(self.messages)

    def texts_until(self, text: str) -> list[str]:
        """The texts up to one with `text`, each once: the last lines before a kill may come once more."""
        found = [message.partition("]: ")[2] for message in self.wait_for(text)]
        return list(dict.fromkeys(found))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def _flags(server: Server, *more: str) -> list[str]:
    return ["--log-driver", "syslog", "--log-opt", f"syslog-address={server.address}", *more]


def test_lines_go_to_syslog_and_can_be_read_back(engine: Daemon, server: Server) -> None:
    engine.docker(
        *("run", "--rm", "--name", "box", *_flags(server), "--log-opt", "tag={{.Name}}/{{.ImageName}}"),
        *("--log-opt", "syslog-facility=local1", "busybox", "sh", "-c", "echo out; echo err >&2; echo last"),
    )
    found = server.wait_for("last")  # though the container is removed as soon as it has ended
    assert sorted(re.sub(r">.* (box/busybox)\[\d+\]", r"> \1", message) for message in found) == [
        "<139> box/busybox: err",
        "<142> box/busybox: last",
        "<142> box/busybox: out",
    ]
    id = engine.docker("run", "-d", *_flags(server), "busybox", "echo", "again").stdout.strip()
    server.wait_for("again")
    engine.docker("wait", id)
    assert engine.docker("logs", id).stdout == "again\n"
    assert f" {id[:12]}[" in server.messages[-1]


def test_nothing_is_lost_while_the_engine_is_killed(own_engine: Daemon, server: Server) -> None:
    script = "i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo line $i; [ $i -eq 100 ] && read x; done; echo end"
    own_engine.docker("run", "-di", "--name", "box", *_flags(server), "busybox", "sh", "-c", script)
    server.wait_for("line 100")
    own_engine.kill()
    own_engine.start()
    own_engine.docker("attach", "box", input=b"go\n", check=False)
    assert server.texts_until(" end") == [*(f"line {number}" for number in range(1, 401)), "end"]


def test_what_was_written_while_no_engine_ran_is_sent_by_the_next(own_engine: Daemon, server: Server) -> None:
    script = "echo first; until [ -e /shared/go ]; do sleep 0.05; done; echo second"
    shared = own_engine.folder / "shared"
    own_engine.docker(
        "run", "-d", "--name", "box", "-v", f"{shared}:/shared", *_flags(server), "busybox", "sh", "-c", script
    )
    server.wait_for("first")
    process = os.pidfd_open(own_engine.json("GET", "/containers/box/json")["State"]["Pid"])
    own_engine.kill()
    (shared / "go").touch()
    assert select.select([process], [], [], TIMEOUT_S)[0]
    os.close(process)
    own_engine.start()
    assert server.texts_until("second") == ["first", "second"]


def test_a_server_that_is_not_there_fails_the_start(engine: Daemon) -> None:
    with socket.socket() as nobody:  # bound, and not listening
        nobody.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{nobody.getsockname()[1]}"
        flags = ["--log-driver", "syslog", "--log-opt", f"syslog-address={address}"]
        done = engine.docker("run", "--name", "box", *flags, "busybox", "true", check=False)
    assert (done.returncode, "failed to initialize logging driver: dial tcp" in done.stderr) == (125, True)
    assert engine.docker("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "box").stdout == "created 128\n"


@pytest.mark.skipif(Path("/run/systemd/journal/socket").exists(), reason="a journal runs here")
def test_a_journal_that_is_not_there_fails_the_start(engine: Daemon) -> None:
    done = engine.docker("run", "--log-driver", "journald", "busybox", "true", check=False)
    assert (done.returncode, "journald is not enabled on this host" in done.stderr) == (125, True)


@pytest.mark.parametrize(
    "flags", [["--log-driver", "none"], ["--log-driver", "syslog", "--log-opt", "cache-disabled=true"]]
)
def test_logs_that_are_not_kept(engine: Daemon, flags: list[str]) -> None:
    engine.docker("create", "--name", "box", *flags, "busybox", "true")
    done = engine.docker("logs", "box", check=False)
    assert "configured logging driver does not support reading" in done.stderr


def test_details_are_what_the_options_choose(engine: Daemon) -> None:
    flags = ["--log-opt", "labels=one,none", "--log-opt", "env-regex=^V", "-l", "one=a b", "-l", "two=2", "-e", "VAR=é"]
    engine.docker("run", "--name", "box", *flags, "--log-opt", "tag={{.Name}}", "busybox", "echo", "hi")
    assert engine.docker("logs", "--details", "box").stdout == "VAR=%C3%A9,one=a+b,tag=box hi\n"
    engine.docker("run", "--name", "plain", "-l", "one=1", "busybox", "echo", "hi")
    assert engine.docker("logs", "--details", "plain").stdout == " hi\n"


def test_the_engine_names_its_drivers(engine: Daemon) -> None:
    found = json.loads(engine.docker("info", "--format", "{{json .Plugins.Log}}").stdout)
    assert found == ["journald", "json-file", "local", "none", "syslog"]


def test_a_tag_that_is_none_is_told_at_the_start_whatever_the_driver(engine: Daemon) -> None:
    refused = engine.docker("run", "--log-opt", "tag={{.Bogus}}", "busybox", "true", check=False)
    assert refused.returncode == 125
    assert "failed to initialize logging driver: template: log-tag: can't evaluate '.Bogus'" in refused.stderr
