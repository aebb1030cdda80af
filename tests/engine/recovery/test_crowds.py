"""Many clients on one container, many containers, clients that hang up: nothing is half done, and nothing stays."""

import concurrent.futures
import json
import os
import random
import select
import signal
import socket
import time
from pathlib import Path

import pytest

from support import raw
from support.calls import container, create, eventually, exists, inspect, run, state, wait
from support.daemon import Daemon

CLIENTS = 8
CALLS = 12
CROWD = 40
HANG_UPS = 200


def counts(engine: Daemon) -> tuple[int, int]:
    """How many descriptors and tasks the engine has."""
    info = engine.json("GET", "/info")
    return info["NFd"], info["NGoroutines"]


def settled(engine: Daemon, before: tuple[int, int]) -> None:
    """Wait until descriptors and tasks are about what they were: a few belong to pools that fill on demand."""
    eventually(lambda: counts(engine)[0] <= before[0] + 12 and counts(engine)[1] <= before[1] + 4, f"{before} grew")


def test_one_container_and_many_clients(own_engine: Daemon) -> None:
    id = create(own_engine, "trap 'exit 0' TERM; while true; do sleep 0.02; done")
    calls = {
        f"/containers/{id}/start": {204, 304, 409},
        f"/containers/{id}/stop?t=1": {204, 304, 409},
        f"/containers/{id}/kill": {204, 409},
        f"/containers/{id}/restart?t=1": {204, 409},
        f"/containers/{id}/pause": {204, 409},
        f"/containers/{id}/unpause": {204, 409},
    }
    answers: list[tuple[str, int, bytes]] = []

    def client(seed: int) -> None:
        choose = random.Random(seed)
        for _ in range(CALLS):
            path = choose.choice(list(calls))
            answers.append((path, *own_engine.request("POST", path)))

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(client, range(CLIENTS)))
    assert len(answers) == CLIENTS * CALLS
    assert not [answer for answer in answers if answer[1] not in calls[answer[0]]]
    found = state(own_engine, id)
    assert found["Status"] in ("running", "exited", "paused")
    assert (found["Pid"] != 0) == (found["Status"] != "exited")
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        removals = list(pool.map(lambda _: own_engine.request("DELETE", f"/containers/{id}?force=1"), range(CLIENTS)))
    assert {status for status, _ in removals} <= {204, 404, 409}
    assert 204 in {status for status, _ in removals}
    assert not exists(own_engine, id)


def test_a_crowd_starts_and_goes_at_once(own_engine: Daemon) -> None:
    before = counts(own_engine)
    with concurrent.futures.ThreadPoolExecutor(CROWD) as pool:
        ids = list(pool.map(lambda n: run(own_engine, f"echo {n}; sleep 60"), range(CROWD)))
        addresses = {inspect(own_engine, id)["NetworkSettings"]["Networks"]["bridge"]["IPAddress"] for id in ids}
        assert len(addresses) == CROWD
        list(pool.map(lambda id: own_engine.json("DELETE", f"/containers/{id}?force=1&v=1"), ids))
    assert not own_engine.json("GET", "/containers/json?all=1")
    settled(own_engine, before)


def test_clients_that_hang_up_leave_nothing(own_engine: Daemon) -> None:
    id = run(own_engine, "while true; do echo x; sleep 0.01; done")
    own_engine.json("GET", "/info")
    before = counts(own_engine)
    execs = [
        own_engine.json("POST", f"/containers/{id}/exec", {"Cmd": ["sleep", "0.2"], "AttachStdout": True})["Id"]
        for _ in range(20)
    ]
    choose = random.Random(1)
    for number in range(HANG_UPS):
        kinds = (
            ("POST", f"/containers/create?name=hang-{number}", container("exit 0")),
            ("POST", f"/containers/{create(own_engine, 'exit 0') if number % 8 == 1 else id}/start", None),
            ("POST", f"/containers/{id}/attach?stream=1&stdout=1&stderr=1", None),
            ("GET", f"/containers/{id}/logs?follow=1&stdout=1", None),
            ("POST", f"/containers/{id}/wait", None),
            ("GET", "/events", None),
            ("POST", f"/exec/{execs.pop()}/start" if execs and number % 8 == 6 else "/_ping", {"Detach": False}),
            ("POST", "/images/create?fromImage=busybox&tag=latest", None),
        )
        method, path, body = kinds[number % len(kinds)]
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(own_engine.socket))
        data = json.dumps(body).encode() if body is not None else b""
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        if choose.random() < 0.5:
            time.sleep(choose.random() * 0.02)
        connection.close()
    eventually(lambda: not [c for c in own_engine.json("GET", "/containers/json") if c["Id"] != id])
    own_engine.json("DELETE", f"/containers/{id}?force=1&v=1")
    own_engine.clean()
    settled(own_engine, before)
    own_engine.clean()  # of a creation that was still under way
    assert "Traceback" not in own_engine.log
    assert not list((own_engine.folder / "data/containers").iterdir())
    assert own_engine.json("GET", "/volumes")["Volumes"] == []


def test_a_start_goes_on_when_its_client_hangs_up(own_engine: Daemon) -> None:
    id = create(own_engine, "sleep 60")
    own_engine.at("start.created", "hold")
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(own_engine.socket))
    connection.sendall(f"POST /containers/{id}/start HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
    own_engine.wait_held()
    connection.close()
    own_engine.go_on()
    eventually(lambda: state(own_engine, id)["Status"] == "running")


def test_a_forced_removal_waits_for_a_start(own_engine: Daemon) -> None:
    for point in ("start.recorded", "start.connected", "start.created", "start.begun", "start.running"):
        id = create(own_engine, "sleep 60")
        own_engine.at(point, "hold")
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            start = pool.submit(own_engine.request, "POST", f"/containers/{id}/start")
            own_engine.wait_held()
            removal = pool.submit(own_engine.request, "DELETE", f"/containers/{id}?force=1&v=1")
            time.sleep(0.05)  # the removal is under way; it has nothing that could be awaited
            own_engine.go_on()
            assert removal.result()[0] == 204, point
            assert start.result()[0] in (204, 409), point
        assert not exists(own_engine, id), point


def test_a_forced_removal_does_not_wait_for_ever_for_one_that_fails(own_engine: Daemon) -> None:
    id = create(own_engine, "true")
    own_engine.at("remove.recorded", "hold")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(own_engine.request, "DELETE", f"/containers/{id}")
        own_engine.wait_held()
        second = pool.submit(own_engine.request, "DELETE", f"/containers/{id}?force=1")
        time.sleep(0.05)  # the second is waiting; it has nothing that could be awaited
        own_engine.at("remove.released", "fail")
        assert [first.result()[0], second.result()[0]] == [500, 500]
    own_engine.go_on()
    own_engine.json("DELETE", f"/containers/{id}")


def test_a_copy_out_of_a_container_goes_on_when_that_ends(own_engine: Daemon) -> None:
    id = run(own_engine, "head -c 20000000 /dev/zero > /file; mkdir /dir; touch /ready; sleep 60")
    eventually(lambda: own_engine.request("HEAD", f"/containers/{id}/archive?path=/ready")[0] == 200)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(own_engine.socket))
    connection.sendall(f"GET /containers/{id}/archive?path=/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    rootfs = str(own_engine.folder / "exec/rootfs" / id)
    assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    own_engine.json("POST", f"/containers/{id}/kill")
    assert wait(own_engine, id) == 137
    assert rootfs in Path("/proc/mounts").read_text()
    while connection.recv(1 << 20):
        pass
    connection.close()
    eventually(lambda: rootfs not in Path("/proc/mounts").read_text())


@pytest.mark.parametrize(
    ("method", "path", "point"),
    [("POST", "{}/stop", "stop.recorded"), ("DELETE", "{}?force=1", "remove.ending")],
)
def test_what_ends_by_itself_meanwhile_is_stopped_and_removed_without_an_error(
    own_engine: Daemon, method: str, path: str, point: str
) -> None:
    id = create(own_engine, "sleep 60")
    own_engine.json("POST", f"/containers/{id}/start")
    monitor = int((own_engine.folder / "exec/containers" / id / "conmon.pid").read_text())
    monitored = os.pidfd_open(monitor)
    try:
        own_engine.at(point, "hold")
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            done = pool.submit(own_engine.request, method, f"/containers/{path.format(id)}")
            own_engine.wait_held()
            os.kill(state(own_engine, id)["Pid"], signal.SIGKILL)
            assert select.select([monitored], [], [], 30)[0]  # the last it did was to tell of the exit
            own_engine.json("GET", "/info")  # and the engine has heard of it
            own_engine.go_on()
            assert done.result()[0] == 204
    finally:
        os.close(monitored)
    assert exists(own_engine, id) is (method == "POST")
    assert "Traceback" not in own_engine.log


def test_a_step_that_fails_is_undone(own_engine: Daemon) -> None:
    id = create(own_engine, "sleep 60")
    for point in (
        "mount.layers",
        "connect.recorded",
        "connect.attached",
        "start.specified",
        "start.created",
        "start.begun",
    ):
        own_engine.at(point, "fail")
        status, data = own_engine.request("POST", f"/containers/{id}/start")
        own_engine.go_on()
        assert status == 500, point
        assert b"no space left on device" in data, point
        assert state(own_engine, id)["Status"] == "created", point
        assert str(own_engine.folder / "exec/rootfs" / id) not in Path("/proc/mounts").read_text(), point
    own_engine.json("POST", f"/containers/{id}/start")


def test_a_temporary_container_is_removed_once(own_engine: Daemon) -> None:
    for point in ("exit.seen", "exit.released", "remove.recorded"):
        id = create(own_engine, "exit 0", AutoRemove=True)
        own_engine.at(point, "hold")
        own_engine.json("POST", f"/containers/{id}/start")
        own_engine.wait_held()
        with concurrent.futures.ThreadPoolExecutor(1) as pool, raw.connected(own_engine) as waiting:
            waiting.ask("POST", f"/v1.50/containers/{id}/wait?condition=removed", headers={"Connection": "close"})
            assert waiting.status == 200, point
            removal = pool.submit(own_engine.request, "DELETE", f"/containers/{id}?force=1")
            time.sleep(0.05)  # the removal is under way; it has nothing that could be awaited
            own_engine.go_on()
            assert removal.result()[0] in (204, 404, 409), point
            assert b'"StatusCode":0' in waiting.rest(), point
        assert not exists(own_engine, id), point
    assert "Traceback" not in own_engine.log


def test_a_container_that_fails_is_restarted_ever_more_slowly(own_engine: Daemon) -> None:
    id = run(own_engine, "exit 3", RestartPolicy={"Name": "on-failure", "MaximumRetryCount": 3})
    eventually(lambda: state(own_engine, id)["Status"] == "exited")
    assert state(own_engine, id)["ExitCode"] == 3
    assert inspect(own_engine, id)["RestartCount"] == 3


def test_a_stop_ends_restarts(own_engine: Daemon) -> None:
    id = run(own_engine, "exit 3", RestartPolicy={"Name": "always"})
    eventually(lambda: inspect(own_engine, id)["RestartCount"] >= 3)
    eventually(lambda: state(own_engine, id)["Status"] == "restarting")
    own_engine.json("POST", f"/containers/{id}/stop")
    found = inspect(own_engine, id)
    assert (found["State"]["Status"], found["State"]["ExitCode"]) == ("exited", 3)
    time.sleep(1)  # longer than the wait that was under way
    assert inspect(own_engine, id)["RestartCount"] == found["RestartCount"]


def test_sizes_are_told_while_a_container_is_being_removed(own_engine: Daemon) -> None:
    id = create(own_engine, "true")
    own_engine.at("remove.snapshot", "hold")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        removal = pool.submit(own_engine.request, "DELETE", f"/containers/{id}")
        own_engine.wait_held()
        assert [each["State"] for each in own_engine.json("GET", "/containers/json?all=1&size=1")] == ["removing"]
        assert [each["SizeRw"] for each in own_engine.json("GET", "/system/df")["Containers"]] == [0]
        assert own_engine.json("GET", f"/containers/{id}/json?size=1")["SizeRw"] == 0
        own_engine.go_on()
        assert removal.result()[0] == 204
