"""States and what may be done in each, names and prefixes, lists and their filters."""

import json
import re
import urllib.parse
from collections.abc import Callable
from typing import Any

import pytest

from support import raw
from support.calls import eventually
from support.daemon import Daemon

Refusals = list[tuple[str, str, int, str]]


def create(engine: Daemon, name: str, *cmd: str, **body: Any) -> str:
    request = {"Image": "busybox", "Cmd": list(cmd) or ["sleep", "60"], **body}
    return str(engine.json("POST", f"/containers/create?name={name}", request)["Id"])


def run(engine: Daemon, name: str, *cmd: str, **body: Any) -> str:
    id = create(engine, name, *cmd, **body)
    engine.json("POST", f"/containers/{id}/start")
    return id


def wait(engine: Daemon, ref: str) -> int:
    return int(engine.json("POST", f"/containers/{ref}/wait")["StatusCode"])


def answer(engine: Daemon, method: str, path: str, body: Any = None) -> tuple[int, str]:
    status, data = engine.request(method, path, body)
    return status, json.loads(data)["message"] if status >= 400 else data.decode()


def test_starting_and_stopping_twice_is_answered_with_304(engine: Daemon) -> None:
    create(engine, "box")
    statuses = [
        engine.request("POST", f"/containers/box/{action}")[0]
        for action in ("stop", "start", "start", "stop?t=0", "stop")
    ]
    assert statuses == [304, 204, 304, 204, 304]


STATES: dict[str, tuple[Callable[[Daemon], object], Refusals]] = {
    "created": (
        lambda engine: create(engine, "box"),
        [
            ("POST", "/containers/box/kill", 409, "cannot kill container: box: container ID is not running"),
            ("POST", "/containers/box/pause", 409, "container ID is not running"),
            ("POST", "/containers/box/unpause", 409, "container ID is not paused"),
            ("GET", "/containers/box/top", 409, "container ID is not running"),
            ("POST", "/containers/box/resize?h=1&w=1", 409, "container ID is not running"),
        ],
    ),
    "running": (
        lambda engine: run(engine, "box"),
        [
            ("POST", "/containers/box/unpause", 409, "container ID is not paused"),
            ("POST", "/containers/box/kill?signal=BOGUS", 400, "cannot kill container: box: invalid signal: BOGUS"),
            (
                "DELETE",
                "/containers/box",
                409,
                'cannot remove container "/box": container is running: '
                "stop the container before removal or force remove",
            ),
            ("GET", "/containers/box/logs", 400, "Bad parameters: you must choose at least one stream"),
            (
                "GET",
                "/containers/box/top?ps_args=-o+bogus",
                400,
                'ps: error: unknown user-defined format specifier "bogus"',
            ),
            ("POST", "/containers/box/wait?condition=bogus", 400, 'invalid condition: "bogus"'),
            (
                "POST",
                "/containers/box/rename?name=box",
                400,
                "Renaming a container with the same name as its current name",
            ),
            ("POST", "/containers/box/rename?name=", 400, "Neither old nor new names may be empty"),
        ],
    ),
    "paused": (
        lambda engine: engine.json("POST", f"/containers/{run(engine, 'box')}/pause"),
        [
            ("POST", "/containers/box/pause", 409, "container ID is already paused"),
            ("POST", "/containers/box/start", 409, "cannot start a paused container, try unpause instead"),
            (
                "POST",
                "/containers/box/attach?stream=1",
                409,
                "container box is paused, unpause the container before attach",
            ),
            ("POST", "/containers/box/exec", 409, "Container box is paused, unpause the container before exec"),
            (
                "DELETE",
                "/containers/box",
                409,
                'cannot remove container "/box": container is paused: '
                "unpause and then stop the container before removal or force remove",
            ),
        ],
    ),
}


@pytest.mark.parametrize("state", STATES)
def test_what_a_state_forbids(engine: Daemon, state: str) -> None:
    make, refusals = STATES[state]
    make(engine)
    id = engine.json("GET", "/containers/box/json")["Id"]
    for method, path, status, text in refusals:
        body = {"Cmd": ["true"]} if path.endswith("/exec") else None
        assert answer(engine, method, path, body) == (status, text.replace("ID", id)), path


UNKNOWN = """
GET /containers/nosuch/json
GET /containers/nosuch/logs?stdout=1
GET /containers/nosuch/top
POST /containers/nosuch/start
POST /containers/nosuch/stop
POST /containers/nosuch/restart
POST /containers/nosuch/pause
POST /containers/nosuch/unpause
POST /containers/nosuch/attach
POST /containers/nosuch/wait
POST /containers/nosuch/resize?h=1&w=1
POST /containers/nosuch/rename?name=other
POST /containers/nosuch/exec
DELETE /containers/nosuch
"""


@pytest.mark.parametrize("question", UNKNOWN.strip().split("\n"))
def test_unknown_containers(engine: Daemon, question: str) -> None:
    method, path = question.split()
    body = {"Cmd": ["true"]} if path.endswith("/exec") else None
    assert answer(engine, method, path, body) == (404, "No such container: nosuch")


def test_other_unknown_things(engine: Daemon) -> None:
    for method, path, text in (
        ("POST", "/containers/nosuch/kill", "cannot kill container: nosuch: No such container: nosuch"),
        ("POST", "/exec/nosuch/start", "No such exec instance: nosuch"),
        ("GET", "/exec/nosuch/json", "No such exec instance: nosuch"),
        ("GET", "/images/nosuch/json", "No such image: nosuch:latest"),
        ("GET", "/images/nosuch/history", "No such image: nosuch:latest"),
        ("DELETE", "/images/nosuch", "No such image: nosuch:latest"),
        ("POST", "/images/nosuch/tag?repo=x", "No such image: nosuch:latest"),
        ("GET", "/networks/nosuch", "network nosuch not found"),
        ("GET", "/volumes/nosuch", "get nosuch: no such volume"),
        ("GET", "/nosuch", "page not found"),
    ):
        assert answer(engine, method, path, {} if path.endswith("start") else None) == (404, text)


def test_names_are_unique_and_can_be_taken_over(engine: Daemon) -> None:
    first, second = create(engine, "one"), create(engine, "two")
    taken = (
        f'Conflict. The container name "/one" is already in use by container "{first}". '
        "You have to remove (or rename) that container to be able to reuse that name."
    )
    assert answer(engine, "POST", "/containers/create?name=one", {"Image": "busybox"}) == (409, taken)
    assert answer(engine, "POST", "/containers/two/rename?name=one") == (
        409,
        f"Error when allocating new name: {taken}",
    )
    assert engine.request("POST", "/containers/one/rename?name=three")[0] == 204
    assert engine.request("POST", "/containers/two/rename?name=one")[0] == 204
    assert engine.json("GET", "/containers/one/json")["Id"] == second
    status, text = answer(engine, "POST", "/containers/one/rename?name=bad%20name")
    wrong = "Invalid container name (/bad name), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
    assert (status, text) == (400, f"Error when allocating new name: {wrong}")


def test_an_ambiguous_prefix_is_told(engine: Daemon) -> None:
    ids = [create(engine, f"box{number}") for number in range(17)]
    digit = next(digit for digit in "0123456789abcdef" if sum(id.startswith(digit) for id in ids) > 1)
    status, text = answer(engine, "GET", f"/containers/{digit}/json")
    assert (status, text) == (400, f"Multiple IDs found with provided prefix: {digit}")
    assert engine.json("GET", f"/containers/{ids[0][:20]}/json")["Id"] == ids[0]


def test_ends_are_remembered(engine: Daemon) -> None:
    run(engine, "seven", "sh", "-c", "exit 7")
    assert wait(engine, "seven") == 7
    run(engine, "killed")
    engine.json("POST", "/containers/killed/kill")
    run(
        engine,
        "trapped",
        "sh",
        "-c",
        "trap 'exit 42' USR1; echo ready; while :; do sleep 0.05; done",
        StopSignal="USR1",
    )
    with raw.connected(engine) as follower:
        follower.ask("GET", "/v1.50/containers/trapped/logs?follow=1&stdout=1")
        follower.until(b"ready")
    engine.json("POST", "/containers/trapped/stop")
    codes = {name: wait(engine, name) for name in ("seven", "killed", "trapped")}
    assert codes == {"seven": 7, "killed": 137, "trapped": 42}


def test_a_failed_start_leaves_a_created_container_with_the_reason(engine: Daemon) -> None:
    for name, command, code in (("missing", "nosuch", 127), ("folder", "/etc", 126)):
        create(engine, name, command)
        status, text = answer(engine, "POST", f"/containers/{name}/start")
        assert (status, f'exec: "{command}"' in text) == (400, True)
        state = engine.json("GET", f"/containers/{name}/json")["State"]
        assert (state["Status"], state["ExitCode"], state["Error"]) == ("created", code, text)
        assert engine.docker("start", "-a", name, check=False).returncode == 1


def test_after_a_failed_start_a_container_of_rm_is_gone(engine: Daemon) -> None:
    for number in range(5):
        id = create(engine, f"gone{number}", "/nosuch", HostConfig={"AutoRemove": True})
        assert engine.request("POST", f"/containers/{id}/start")[0] == 400
        assert engine.request("GET", f"/containers/{id}/json")[0] == 404


def test_restart_policies(engine: Daemon) -> None:
    run(engine, "twice", "false", HostConfig={"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2}})
    eventually(lambda: engine.json("GET", "/containers/twice/json")["State"]["Status"] == "exited")
    assert engine.json("GET", "/containers/twice/json")["RestartCount"] == 2
    run(engine, "once", "true", HostConfig={"RestartPolicy": {"Name": "on-failure"}})
    assert wait(engine, "once") == 0
    run(engine, "again", "sh", "-c", "exit 3", HostConfig={"RestartPolicy": {"Name": "always"}})
    assert wait(engine, "again") == 3  # one exit is enough
    run(engine, "always", HostConfig={"RestartPolicy": {"Name": "always"}})
    engine.json("POST", "/containers/always/stop?t=0")
    assert engine.json("GET", "/containers/always/json")["State"]["Status"] == "exited"


TRAPS = "trap 'exit 5' TERM HUP; touch /ready; sleep 600 & wait"


@pytest.mark.parametrize("order", ["stop?t=9", "kill?signal=TERM", "kill?signal=HUP"])
def test_a_paused_container_is_thawed_to_act_on_what_shall_end_it(engine: Daemon, order: str) -> None:
    started = engine.docker("run", "-d", "--name", "box", "busybox", "sh", "-c", TRAPS)
    engine.docker("exec", "box", "sh", "-c", "until test -e /ready; do sleep 0.01; done")
    engine.json("POST", "/containers/box/pause")
    engine.json("POST", f"/containers/box/{order}")
    assert wait(engine, started.stdout.strip()) == 5


def test_a_signal_that_does_not_stop_leaves_a_paused_container_paused(engine: Daemon) -> None:
    engine.docker("run", "-d", "--name", "box", "--stop-signal", "USR1", "busybox", "sleep", "600")
    engine.json("POST", "/containers/box/pause")
    engine.json("POST", "/containers/box/kill?signal=HUP")
    assert engine.json("GET", "/containers/box/json")["State"]["Status"] == "paused"


def test_a_container_that_was_signalled_is_not_restarted(engine: Daemon) -> None:
    engine.docker("run", "-d", "--name", "box", "--restart", "always", "busybox", "sh", "-c", TRAPS)
    engine.docker("exec", "box", "sh", "-c", "until test -e /ready; do sleep 0.01; done")
    engine.json("POST", "/containers/box/kill?signal=HUP")
    assert wait(engine, "box") == 5
    assert engine.json("GET", "/containers/box/json")["State"]["Status"] == "exited"


def test_one_that_waits_for_its_restart_is_stopped_by_a_signal_and_shows_no_processes(engine: Daemon) -> None:
    run(engine, "box", "false", HostConfig={"RestartPolicy": {"Name": "always"}})

    def restarting() -> bool:
        return bool(engine.json("GET", "/containers/box/json")["State"]["Restarting"])

    eventually(lambda: engine.json("GET", "/containers/box/json")["RestartCount"] >= 2 and restarting())
    status, text = answer(engine, "GET", "/containers/box/top")
    assert (status, text.endswith("is restarting, wait until the container is running")) == (409, True)
    engine.json("POST", "/containers/box/kill?signal=HUP")
    assert not restarting()


FILTERS: list[tuple[dict[str, list[str]], list[str]]] = [
    ({}, ["two", "one"]),
    ({"status": ["exited"]}, ["done"]),
    ({"status": ["created", "running"]}, ["new", "two", "one"]),
    ({"name": ["o"]}, ["two", "one"]),
    ({"name": ["^/one$"]}, ["one"]),
    ({"label": ["tier"]}, ["two", "one"]),
    ({"label": ["tier=web"]}, ["one"]),
    ({"label": ["tier", "more"]}, ["two"]),
    ({"exited": ["3"]}, ["done"]),
    ({"exited": ["0"]}, []),
    ({"since": ["one"]}, ["new", "done", "two"]),
    ({"before": ["two"]}, ["one"]),
    ({"ancestor": ["busybox"]}, ["two", "one"]),
    ({"ancestor": ["nosuch"]}, []),
    ({"network": ["none"]}, ["one"]),
    ({"network": ["nosuch"]}, []),
    ({"volume": ["/v"]}, ["two"]),
    ({"volume": ["listed"]}, ["two"]),
    ({"publish": ["80"]}, ["two"]),
    ({"expose": ["70-90/tcp"]}, ["two"]),
    ({"health": ["none"]}, ["two", "one"]),
    ({"health": ["healthy"]}, []),
    ({"is-task": ["true"]}, []),
    ({"is-task": ["false"]}, ["two", "one"]),
]


def test_filters_of_lists(engine: Daemon) -> None:
    run(engine, "one", Labels={"tier": "web"}, HostConfig={"NetworkMode": "none"})
    run(
        engine,
        "two",
        Labels={"tier": "db", "more": ""},
        ExposedPorts={"80/tcp": {}},
        HostConfig={"Binds": ["listed:/v"], "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1"}]}},
    )
    run(engine, "done", "sh", "-c", "exit 3")
    wait(engine, "done")
    create(engine, "new")
    for filters, expected in FILTERS:
        for shape in (filters, {key: dict.fromkeys(values, True) for key, values in filters.items()}):
            query = urllib.parse.quote(json.dumps(shape))
            listed = engine.json("GET", f"/containers/json?filters={query}")
            assert [entry["Names"][0][1:] for entry in listed] == expected, filters
    assert [entry["Names"][0] for entry in engine.json("GET", "/containers/json?limit=1")] == ["/new"]
    assert len(engine.json("GET", "/containers/json?all=1&limit=-1")) == 4
    engine.clean()
    engine.docker("volume", "rm", "listed")


@pytest.mark.parametrize(
    ("filters", "text"),
    [
        ({"bogus": ["x"]}, "invalid filter 'bogus'"),
        ({"status": ["bogus"]}, "invalid filter 'status=bogus'"),
        ({"exited": ["x"]}, "invalid filter 'exited=x'"),
        ({"health": ["bogus"]}, "unrecognized filter value for health: bogus"),
        ({"is-task": ["maybe"]}, "invalid filter 'is-task=[maybe]'"),
        ({"publish": ["x"]}, "invalid filter 'publish=x': it isn't a port, or a range of them"),
        ({"expose": ["80/foo"]}, "invalid filter 'expose=80/foo': it isn't a port, or a range of them"),
    ],
)
def test_bad_filters(engine: Daemon, filters: dict[str, list[str]], text: str) -> None:
    assert answer(engine, "GET", f"/containers/json?filters={urllib.parse.quote(json.dumps(filters))}") == (400, text)


def test_top_and_port(engine: Daemon) -> None:
    run(engine, "box", HostConfig={"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1"}]}})
    top = engine.json("GET", "/containers/box/top")
    assert top["Titles"] == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    assert [row[-1] for row in top["Processes"]] == ["sleep 60"]
    assert re.fullmatch(r"127\.0\.0\.1:\d+\n", engine.docker("port", "box", "80").stdout)


@pytest.mark.parametrize("version", ["1.24", "1.30", "1.40", "1.41", "1.43", "1.44", "1.50"])
def test_every_version_lists_inspects_and_runs(engine: Daemon, version: str) -> None:
    body = {"Image": "busybox", "Cmd": ["true"]}
    id = engine.json("POST", f"/v{version}/containers/create?name=old", body)["Id"]
    engine.json("POST", f"/v{version}/containers/{id}/start")
    assert engine.json("POST", f"/v{version}/containers/{id}/wait")["StatusCode"] == 0
    inspected = engine.json("GET", f"/v{version}/containers/{id}/json")
    listed = engine.json("GET", f"/v{version}/containers/json?all=1")[0]
    assert (inspected["Name"], listed["State"]) == ("/old", "exited")
    number = tuple(map(int, version.split(".")))
    assert ("ImageManifestDescriptor" in listed) <= (number >= (1, 48))
    image = engine.json("GET", f"/v{version}/images/busybox/json")
    assert ("VirtualSize" in image) == (number < (1, 44))


@pytest.mark.parametrize(
    ("version", "text"),
    [
        ("1.23", "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade your client"),
        ("1.99", "client version 1.99 is too new. Maximum supported API version is 1.50"),
    ],
)
def test_versions_out_of_range(engine: Daemon, version: str, text: str) -> None:
    status, message = answer(engine, "GET", f"/v{version}/containers/json")
    assert (status, message.startswith(text)) == (400, True)
