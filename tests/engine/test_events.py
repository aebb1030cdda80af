"""The order of events of one container's life, as clients rely on it, and what events carry."""

import json
import time
from typing import Any

import pytest

from support import raw
from support.daemon import Daemon


class Listening:
    """Events of containers, networks and volumes from now on."""

    def __init__(self, engine: Daemon, connection: raw.Raw, **filters: list[str]) -> None:
        self._connection = connection
        query = f"?filters={json.dumps(filters).replace(' ', '')}" if filters else ""
        connection.ask("GET", f"/v1.50/events{query}")
        assert connection.status == 200

    def until(self, action: str, kind: str = "container") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while not found or (found[-1]["Action"], found[-1]["Type"]) != (action, kind):
            line = self._connection.until(b"\n").strip()
            if line.startswith(b"{"):
                found.append(json.loads(line))
        return found


def words(events: list[dict[str, Any]]) -> list[str]:
    """Actions as one reads them: `network connect`, and containers' without their type; what is not theirs left out."""
    kinds = {"container": "", "network": "network ", "volume": "volume "}
    return [kinds[event["Type"]] + event["Action"] for event in events if event["Type"] in kinds]


LIVES: list[tuple[str, list[list[str]], str, str]] = [
    (
        "run",
        [["run", "--name", "box", "busybox", "true"]],
        "die",
        "create, attach, network connect, start, network disconnect, die",
    ),
    (
        "run --rm",
        [["run", "--rm", "--name", "box", "busybox", "true"]],
        "destroy",
        "create, attach, network connect, start, network disconnect, die, destroy",
    ),
    (
        "stop",
        [["run", "-d", "--name", "box", "--network", "none", "busybox", "sleep", "60"], ["stop", "-t", "0", "box"]],
        "stop",
        "create, start, kill, kill, die, stop",
    ),
    (
        "restart",
        [["run", "-d", "--name", "box", "--network", "none", "busybox", "sleep", "60"], ["restart", "-t", "0", "box"]],
        "restart",
        "create, start, kill, kill, die, stop, start, restart",
    ),
    (
        "kill",
        [["run", "-d", "--name", "box", "--network", "none", "busybox", "sleep", "60"], ["kill", "box"]],
        "die",
        "create, start, kill, die",
    ),
    (
        "rm -f",
        [["run", "-d", "--name", "box", "--network", "none", "busybox", "sleep", "60"], ["rm", "-f", "box"]],
        "destroy",
        "create, start, kill, die, destroy",
    ),
    (
        "exec",
        [
            ["run", "-d", "--name", "box", "--network", "none", "busybox", "sleep", "60"],
            ["exec", "box", "echo", "hi"],
        ],
        "exec_die",
        "create, start, exec_create: echo hi, exec_start: echo hi, exec_die",
    ),
    (
        "pause",
        [
            ["run", "-d", "--name", "box", "--network", "none", "busybox", "sleep", "60"],
            ["pause", "box"],
            ["unpause", "box"],
            ["rename", "box", "bin"],
        ],
        "rename",
        "create, start, pause, unpause, rename",
    ),
]


@pytest.mark.parametrize(("commands", "last", "order"), [pytest.param(*life[1:], id=life[0]) for life in LIVES])
def test_the_order_of_events(engine: Daemon, commands: list[list[str]], last: str, order: str) -> None:
    with raw.connected(engine) as connection:
        listening = Listening(engine, connection, type=["container", "network"])
        for command in commands:
            engine.docker(*command)
        found = [
            word for word in words(listening.until(last)) if not word.startswith("network ") or "network " in order
        ]
    assert ", ".join(found) in (order, order.replace("network disconnect, die", "die, network disconnect"))


def test_a_restart_by_policy_is_die_and_start(engine: Daemon) -> None:
    with raw.connected(engine) as connection:
        listening = Listening(engine, connection, type=["container"], event=["start", "die", "stop", "restart", "kill"])
        engine.docker("run", "-d", "--restart", "on-failure:1", "--network", "none", "busybox", "false")
        found = listening.until("die") + listening.until("die")
    assert words(found) == ["start", "die", "start", "die"]


def test_what_events_of_containers_carry(engine: Daemon) -> None:
    with raw.connected(engine) as connection:
        listening = Listening(engine, connection, type=["container"], container=["box"])
        engine.docker("run", "--name", "box", "-l", "tier=web", "busybox", "sh", "-c", "exit 3", check=False)
        found = {event["Action"]: event for event in listening.until("die")}
    id = engine.json("GET", "/containers/box/json")["Id"]
    die = found["die"]
    assert int(die["Actor"]["Attributes"].pop("execDuration")) >= 0  # seconds
    assert die["Actor"] == {
        "ID": id,
        "Attributes": {"tier": "web", "image": "busybox", "name": "box", "exitCode": "3"},
    }
    assert (die["status"], die["id"], die["from"], die["scope"]) == ("die", id, "busybox", "local")
    assert die["timeNano"] // 10**9 == die["time"]


def test_volumes_are_mounted_and_unmounted(engine: Daemon) -> None:
    with raw.connected(engine) as connection:
        listening = Listening(engine, connection, type=["container", "volume"])
        engine.docker("run", "--name", "box", "-v", "told:/v:ro", "busybox", "true")
        found = listening.until("die")
    assert words(found) == ["volume create", "create", "attach", "volume mount", "start", "volume unmount", "die"]
    attributes = next(event["Actor"]["Attributes"] for event in found if event["Action"] == "mount")
    assert attributes.pop("container") == engine.json("GET", "/containers/box/json")["Id"]
    assert attributes == {"driver": "local", "destination": "/v", "propagation": "", "read/write": "false"}
    engine.clean()
    engine.docker("volume", "rm", "told")


def test_the_past_is_told_from_since_to_until(engine: Daemon) -> None:
    before = time.time()
    engine.docker("tag", "busybox", "past:1")
    engine.docker("rmi", "past:1")
    done = engine.docker(
        "events", "--since", f"{before:.9f}", "--until", f"{time.time():.9f}", "--format", "{{.Type}} {{.Action}}"
    )
    assert done.stdout.splitlines() == ["image tag", "image untag"]
    filtered = engine.scow("events", "--since", f"{before:.9f}", "--until", f"{time.time():.9f}", "-f", "event=untag")
    assert filtered.stdout.count("\n") == 1
    assert " image untag sha256:" in filtered.stdout


@pytest.mark.parametrize("query", ['filters={"bogus":["x"]}', "since=x", "until=x", "filters=x"])
def test_bad_questions_for_events(engine: Daemon, query: str) -> None:
    assert engine.request("GET", f"/v1.50/events?{query}")[0] == 400


def test_the_recent_past_survives_the_engine(own_engine: Daemon) -> None:
    own_engine.docker("create", "--name", "box", "busybox")
    now = time.time_ns()
    query = f"/v1.50/events?since=1&until={now // 10**9}.{now % 10**9:09d}"
    first = own_engine.request("GET", query)[1]
    own_engine.stop()
    own_engine.start()
    assert own_engine.request("GET", query)[1] == first
    events = [json.loads(line) for line in first.splitlines()]
    moment = next(event["timeNano"] for event in events if event["Action"] == "create")
    for since, until, actions in ((0, 0, ["create"]), (1, 10**9, []), (-(10**9), -1, [])):
        point = [f"{(moment + shift) // 10**9}.{(moment + shift) % 10**9:09d}" for shift in (since, until)]
        query = f"since={point[0]}&until={point[1]}&filters=" + '{"container":["box"]}'.replace('"', "%22")
        status, lines = own_engine.request("GET", f"/v1.50/events?{query}")
        assert (status, [json.loads(line)["Action"] for line in lines.splitlines()]) == (200, actions)


def test_want_of_memory_is_told_when_it_happens_and_once(engine: Daemon) -> None:
    eats = "(x=$(yes | head -c 50000000))"
    script = f"{eats}; until test -e /go; do sleep 0.05; done; {eats}; exit 0"
    with raw.connected(engine) as connection:
        listening = Listening(engine, connection, type=["container"])
        box = engine.docker("run", "-d", "--name", "box", "-m", "8m", "busybox", "sh", "-c", script).stdout.strip()
        assert words(listening.until("oom"))[-1] == "oom"
        assert engine.json("GET", f"/containers/{box}/json")["State"]["Running"]
        engine.docker("exec", "box", "touch", "/go")
        assert "oom" not in words(listening.until("die"))
    state = engine.json("GET", f"/containers/{box}/json")["State"]
    assert (state["OOMKilled"], state["ExitCode"]) == (True, 0)
