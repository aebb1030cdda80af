"""Health checks, as clients see them."""

import json
import time
from collections.abc import Iterator

import docker
import pytest

from support.calls import eventually
from support.daemon import Daemon


def run(engine: Daemon, command: str, *flags: str) -> str:
    box = engine.docker(
        *("run", "-d", "--health-cmd", command, "--health-interval", "100ms", "--health-retries", "2", *flags),
        *("busybox", "sh", "-c", "trap 'exit 0' TERM; sleep 600 & wait"),
    )
    return box.stdout.strip()


def health(engine: Daemon, box: str) -> dict[str, object]:
    found: dict[str, object] = engine.json("GET", f"/containers/{box}/json")["State"].get("Health")
    return found


def wait_for(engine: Daemon, box: str, status: str) -> dict[str, object]:
    eventually(lambda: health(engine, box)["Status"] == status, f"it did not become {status}")
    return health(engine, box)


@pytest.fixture
def actions(engine: Daemon, docker_py: docker.DockerClient) -> Iterator[Iterator[str]]:
    stream = docker_py.events(decode=True, filters={"type": "container"})
    yield (event["Action"] for event in stream)
    stream.close()


def test_a_container_starts_becomes_healthy_and_ill(engine: Daemon, actions: Iterator[str]) -> None:
    box = run(engine, "echo said; test ! -e /ill")
    assert health(engine, box)["Status"] in ("starting", "healthy")
    found = wait_for(engine, box, "healthy")
    entry = found["Log"][0]  # type: ignore[index]
    assert (entry["ExitCode"], entry["Output"]) == (0, "said\n")
    assert "(healthy)" in engine.docker("ps").stdout
    assert engine.docker("ps", "-q", "--filter", "health=healthy").stdout.strip() == box[:12]
    assert engine.docker("ps", "-q", "--filter", "health=none").stdout == ""
    engine.docker("exec", box, "touch", "/ill")
    found = wait_for(engine, box, "unhealthy")
    assert found["FailingStreak"] >= 2  # type: ignore[operator]
    assert len(found["Log"]) <= 5  # type: ignore[arg-type]
    assert "(unhealthy)" in engine.scow("ps").stdout
    seen = []
    for action in actions:
        seen.append(action)
        if action == "health_status: unhealthy":
            break
    command = "/bin/sh -c echo said; test ! -e /ill"
    first = seen.index(f"exec_create: {command}")
    assert seen[first : first + 4] == [
        f"exec_create: {command}",
        f"exec_start: {command}",
        "exec_die",
        "health_status: healthy",
    ]


def test_failures_in_the_start_period_do_not_count(engine: Daemon) -> None:
    period = ("--health-start-period", "10m", "--health-start-interval", "100ms", "--health-retries", "2")
    box = engine.scow("run", "-d", "--health-cmd", "false", *period, "busybox", "sleep", "600").stdout.strip()
    eventually(lambda: len(health(engine, box)["Log"]) > 2)  # type: ignore[arg-type]
    assert health(engine, box)["Status"] == "starting"
    assert "(health: starting)" in engine.docker("ps").stdout


def test_a_probe_that_takes_too_long_fails_and_is_ended(engine: Daemon) -> None:
    box = run(engine, "yes | head -c 5000; exec sleep 1234", "--health-timeout", "900ms")
    wait_for(engine, box, "unhealthy")
    said = ("Health check exceeded timeout (900ms): " + "y\n" * 4096)[:4096] + "..."

    def ends() -> list[tuple[int, str]]:
        return [(entry["ExitCode"], entry["Output"]) for entry in health(engine, box)["Log"]]  # type: ignore[attr-defined]

    eventually(lambda: (-1, said) in ends(), "what it said first is not told")  # it may begin slowly, too
    engine.docker("pause", box)  # no more probes
    engine.docker("unpause", box)
    assert engine.docker("top", box).stdout.count("sleep 1234") <= 1


def test_probes_end_with_the_container(engine: Daemon) -> None:
    box = run(engine, "true")
    wait_for(engine, box, "healthy")
    engine.docker("stop", box)
    assert health(engine, box)["Status"] == "unhealthy"
    entries = health(engine, box)["Log"]
    time.sleep(0.3)  # for longer than two would take to begin
    assert health(engine, box)["Log"] == entries


def test_no_health_check_no_health(engine: Daemon) -> None:
    plain = engine.docker("run", "-d", "busybox", "sleep", "60").stdout.strip()
    none = engine.docker("run", "-d", "--no-healthcheck", "busybox", "sleep", "60").stdout.strip()
    assert health(engine, plain) is None
    assert health(engine, none) is None


def test_a_restarted_engine_goes_on_watching(own_engine: Daemon) -> None:
    own_engine.at("health.written", "hold")
    box = run(own_engine, "test ! -e /ill")
    own_engine.wait_held()
    assert health(own_engine, box)["Status"] == "starting"  # what is shown is written down already
    own_engine.go_on()
    wait_for(own_engine, box, "healthy")
    own_engine.kill()
    own_engine.start()
    assert health(own_engine, box)["Status"] == "healthy"
    own_engine.docker("exec", box, "touch", "/ill")
    wait_for(own_engine, box, "unhealthy")


def test_cmd_is_run_without_a_shell(engine: Daemon) -> None:
    request = {
        "Image": "busybox",
        "Cmd": ["sleep", "60"],
        "Healthcheck": {"Test": ["CMD", "echo", "$HOME"], "Interval": 10**8},
    }
    box = json.loads(engine.request("POST", "/containers/create", request)[1])["Id"]
    engine.docker("start", box)
    assert wait_for(engine, box, "healthy")["Log"][0]["Output"] == "$HOME\n"  # type: ignore[index]


def test_the_client_has_a_flag_for_it(engine: Daemon) -> None:
    engine.scow("create", "--name", "box", "--health-on-failure", "stop", "busybox")
    label = engine.docker("inspect", "-f", '{{index .Config.Labels "scow.health.on-failure"}}', "box").stdout
    assert label == "stop\n"
    done = engine.scow("create", "--health-on-failure", "dance", "busybox", check=False)
    assert "must be one of none, kill, restart or stop" in done.stderr


def test_the_client_replaces_a_container(engine: Daemon) -> None:
    first = engine.scow("run", "-d", "--name", "box", "--replace", "busybox", "sleep", "60").stdout
    second = engine.scow("run", "-d", "--name", "box", "--replace", "busybox", "sleep", "60").stdout
    assert first != second
    assert engine.docker("ps", "-aq", "--no-trunc").stdout == second
    assert engine.scow("run", "-d", "--replace", "busybox", "true", check=False).returncode == 125


@pytest.mark.parametrize(("wish", "action"), [("restart", "restart"), ("stop", "stop"), ("kill", "die")])
def test_an_unhealthy_container_is_treated_as_its_label_says(
    engine: Daemon, actions: Iterator[str], wish: str, action: str
) -> None:
    run(engine, "test -e /never", "--label", f"scow.health.on-failure={wish}")
    seen = iter(actions)
    assert any(each == "health_status: unhealthy" for each in seen)
    assert any(each == action for each in seen)
