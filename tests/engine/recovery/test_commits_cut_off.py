"""An engine that is killed in the middle of a commit: the container goes on, and nothing is left of the image."""

import subprocess

from support.calls import eventually, run, state
from support.daemon import Daemon


def test_a_container_goes_on_after_a_kill_in_the_middle_of_its_commit(own_engine: Daemon) -> None:
    box = run(own_engine, "sleep 60")
    before = own_engine.json("GET", "/images/json?all=1")
    own_engine.at("commit.paused", "kill")
    own_engine.docker("commit", box, "mine/image:v1", check=False)
    own_engine.wait_killed()
    own_engine.start()
    assert state(own_engine, box)["Status"] == "running"
    assert own_engine.docker("exec", box, "echo", "on").stdout == "on\n"
    assert own_engine.json("GET", "/images/json?all=1") == before
    eventually(lambda: not list((own_engine.folder / "data/ingest").iterdir()))


def test_a_commit_that_fails_lets_the_container_go_on(own_engine: Daemon) -> None:
    box = run(own_engine, "sleep 60")
    own_engine.at("commit.paused", "fail")
    failed = own_engine.docker("commit", box, check=False)
    own_engine.go_on()
    assert failed.returncode == 1
    assert "no space left on device" in failed.stderr
    assert state(own_engine, box)["Status"] == "running"
    assert own_engine.docker("exec", box, "echo", "on").stdout == "on\n"


def test_a_second_commit_at_the_same_time_leaves_the_container_as_it_was(own_engine: Daemon) -> None:
    box = run(own_engine, "sleep 60")
    own_engine.at("commit.paused", "hold")
    first = subprocess.Popen(["docker", "commit", box], env=own_engine.environment(), stdout=subprocess.DEVNULL)
    own_engine.wait_held()
    assert state(own_engine, box)["Status"] == "paused"
    own_engine.docker("commit", box)
    assert state(own_engine, box)["Status"] == "paused"
    own_engine.go_on()
    assert first.wait(60) == 0
    assert state(own_engine, box)["Status"] == "running"
