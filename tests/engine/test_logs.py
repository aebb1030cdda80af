"""Reading logs: what is kept, its selections, and following to the end."""

import re
import time

import pytest

from support import raw
from support.daemon import Daemon

LINES = "sh", "-c", "for n in 1 2 3; do echo line $n; done; printf rest"


@pytest.mark.parametrize("client", ["docker", "scow"])
def test_selections_of_a_log(engine: Daemon, client: str) -> None:
    run = getattr(engine, client)
    engine.docker("run", "--name", "box", "-l", "a=b", "busybox", *LINES)
    everything = "line 1\nline 2\nline 3\nrest"
    for args, output in (
        ([], everything),
        (["-f"], everything),
        (["--tail", "2"], "line 3\nrest"),
        (["--tail", "0"], ""),
        (["-n", "all"], everything),
        (["--since", "1h"], everything),
        (["--since", "2099-01-01"], ""),
        (["--until", "2001-01-01"], ""),
        (["--until", "2099-01-01"], everything),
    ):
        done = run("logs", *args, "box")
        assert (args, done.stdout, done.stderr) == (args, output, "")
    stamped = run("logs", "-t", "box").stdout.splitlines()
    assert [re.sub(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z ", "", line) for line in stamped] == everything.split("\n")
    refused = run("logs", "--since", "bogus", "box", check=False)
    assert (refused.returncode, "bogus" in refused.stderr) == (1, True)


def test_details_stand_before_every_line(engine: Daemon) -> None:
    engine.docker("run", "--name", "box", "busybox", *LINES)
    assert engine.docker("logs", "--details", "box").stdout == " line 1\n line 2\n line 3\n rest"


def test_streams_are_kept_apart(engine: Daemon) -> None:
    engine.docker("run", "--name", "box", "busybox", "sh", "-c", "echo out; echo err >&2")
    for query, expected in (("stdout=1", {1: b"out\n"}), ("stderr=1", {2: b"err\n"})):
        status, data = engine.request("GET", f"/v1.50/containers/box/logs?{query}")
        assert (status, raw.joined(data)) == (200, expected)


def test_each_line_is_a_frame_of_its_own(engine: Daemon) -> None:
    engine.docker("run", "--name", "box", "busybox", *LINES)
    data = engine.request("GET", "/v1.50/containers/box/logs?stdout=1")[1]
    assert raw.frames(data) == [(1, b"line 1\n"), (1, b"line 2\n"), (1, b"line 3\n"), (1, b"rest")]


def test_following_begins_with_the_past_and_ends_with_the_container(engine: Daemon) -> None:
    engine.docker("run", "-di", "--name", "box", "busybox", "sh", "-c", "echo past; read x; echo got $x")
    with raw.connected(engine) as follower, raw.connected(engine) as typist:
        follower.ask("GET", "/v1.50/containers/box/logs?follow=1&stdout=1&stderr=1", headers={"Connection": "close"})
        follower.until(b"past\n")
        typist.ask("POST", "/v1.50/containers/box/attach?stdin=1&stream=1", headers=raw.UPGRADE)
        typist.send(b"word\n")
        assert b"got word\n" in follower.rest()


def test_a_log_goes_on_over_restarts(engine: Daemon) -> None:
    engine.docker("run", "--name", "box", "busybox", "echo", "again")
    engine.docker("start", "-a", "box")
    assert engine.docker("logs", "box").stdout == "again\nagain\n"


def test_following_ends_with_the_run_although_the_container_is_restarted(engine: Daemon) -> None:
    again = "--restart", "always", "busybox", "sh", "-c", "echo up; read x"
    engine.docker("run", "-di", "--name", "box", *again)
    with raw.connected(engine) as follower, raw.connected(engine) as typist:
        follower.ask("GET", "/v1.50/containers/box/logs?follow=1&stdout=1", headers={"Connection": "close"})
        follower.until(b"up\n")
        typist.ask("POST", "/v1.50/containers/box/attach?stdin=1&stream=1", headers=raw.UPGRADE)
        typist.send(b"\n")
        follower.rest()


def test_until_cuts_a_followed_log(engine: Daemon) -> None:
    engine.docker("run", "-d", "--name", "box", "busybox", "sh", "-c", "echo x; sleep 600")
    done = engine.request("GET", f"/v1.50/containers/box/logs?follow=1&stdout=1&until={time.time() + 0.3:.9f}")
    assert done[0] == 200  # it has come to an end, though the container runs on
    assert engine.json("GET", "/containers/box/json")["State"]["Running"]


def test_a_container_without_log_has_none_to_read(engine: Daemon) -> None:
    done = engine.docker("run", "--name", "box", "--log-driver", "none", "busybox", "echo", "x")
    assert done.stdout == "x\n"
    refused = engine.docker("logs", "box", check=False)
    assert refused.stderr == "Error response from daemon: configured logging driver does not support reading\n"
    assert engine.json("GET", "/containers/box/json")["LogPath"] == ""
