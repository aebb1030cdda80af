"""Replies that go on for a while: wait, logs, events, pull and push."""

import asyncio
import json

import pytest
from tests.contract.api.client import Server

from scow.errors import Internal, Unavailable


def frame(stream: int, data: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


# --- wait -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", ["", "?condition=next-exit", "?condition=removed", "?condition=not-running"])
async def test_wait_sends_its_headers_before_the_container_has_ended(server: Server, condition: str) -> None:
    box = server.engine.box()
    connection = await server.connect()
    await connection.send("POST", f"/containers/box/wait{condition}")
    head = await connection.head()  # `docker run` starts the container only when it has seen this
    assert (head.status, head.headers["Content-Type"]) == (200, "application/json")
    assert head.headers["Transfer-Encoding"] == "chunked"
    box.exit_code = 3
    box.exited.set()
    assert json.loads(await connection.chunk()) == {"StatusCode": 3}
    assert await connection.chunk() == b""
    assert server.engine.containers.calls == [("wait", condition.partition("=")[2] or "not-running")]


async def test_a_bad_wait_condition_is_refused(server: Server) -> None:
    server.engine.box()
    reply = await server.ask("POST", "/containers/box/wait?condition=soon")
    assert (reply.status, reply.message) == (400, 'invalid condition: "soon"')


async def test_waiting_for_nothing_is_a_404(server: Server) -> None:
    assert (await server.ask("POST", "/containers/box/wait")).status == 404


async def test_before_1_30_wait_answers_only_at_the_end(server: Server) -> None:
    box = server.engine.box()
    connection = await server.connect()
    await connection.send("POST", "/v1.29/containers/box/wait?condition=nonsense")
    head = asyncio.create_task(connection.reply())
    assert not (await asyncio.wait({head}, timeout=0.05))[0]
    box.exited.set()
    assert (await head).json == {"StatusCode": 0}


# --- logs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "tty", "kind", "body"),
    [
        ("1.50", False, "application/vnd.docker.multiplexed-stream", frame(1, b"out\n") + frame(2, b"err\n")),
        ("1.42", False, "application/vnd.docker.multiplexed-stream", frame(1, b"out\n") + frame(2, b"err\n")),
        ("1.41", False, "application/vnd.docker.raw-stream", frame(1, b"out\n") + frame(2, b"err\n")),
        ("1.50", True, "application/vnd.docker.raw-stream", b"out\nerr\n"),
    ],
)
async def test_logs_are_framed_unless_there_is_a_terminal(
    server: Server, version: str, tty: bool, kind: str, body: bytes
) -> None:
    server.engine.box(tty=tty)
    reply = await server.ask("GET", f"/v{version}/containers/box/logs?stdout=1&stderr=1")
    assert (reply.status, reply.headers["Content-Type"], reply.body) == (200, kind, body)


async def test_logs_of_no_stream_are_refused(server: Server) -> None:
    server.engine.box()
    reply = await server.ask("GET", "/containers/box/logs?stdout=0&follow=1")
    assert (reply.status, reply.message) == (400, "Bad parameters: you must choose at least one stream")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("tail=all", {"tail": None}),
        ("tail=10", {"tail": 10}),
        ("tail=0", {"tail": 0}),
        ("tail=-1", {"tail": None}),
        ("tail=x", {"tail": None}),
        ("follow=1&since=0", {"follow": True, "since": None}),
        ("since=1700000000.5&until=1700000001", {"since": 1700000000_500000000, "until": 1700000001_000000000}),
    ],
)
async def test_log_options(server: Server, query: str, expected: dict[str, object]) -> None:
    server.engine.box()
    await server.ask("GET", f"/containers/box/logs?stdout=1&{query}")
    ((_, options),) = server.engine.containers.calls
    assert isinstance(options, dict)
    assert {key: options[key] for key in expected} == expected


async def test_a_bad_time_is_refused(server: Server) -> None:
    server.engine.box()
    assert (await server.ask("GET", "/containers/box/logs?stdout=1&since=yesterday")).status == 400


async def test_a_log_that_breaks_off_says_so_in_the_stream(server: Server) -> None:
    server.engine.box()
    server.engine.containers.log_error = Internal("the log is damaged")
    reply = await server.ask("GET", "/containers/box/logs?stdout=1")
    assert reply.status == 200
    assert reply.body.endswith(frame(3, b"Error grabbing logs: the log is damaged\n"))


async def test_a_client_that_hangs_up_ends_its_log(server: Server) -> None:
    server.engine.box()
    server.engine.containers.log_hold = asyncio.Event()
    connection = await server.connect()
    await connection.send("GET", "/containers/box/logs?stdout=1&follow=1")
    await connection.head()
    await connection.chunk()
    connection.close()
    assert server.engine.containers.log_stream is not None
    await server.engine.containers.log_stream.closed.wait()


# --- events -----------------------------------------------------------------------------------------------------------


async def test_events_come_one_by_one_after_headers_that_come_at_once(server: Server) -> None:
    connection = await server.connect()
    await connection.send("GET", "/events?filters=%7B%22type%22%3A%7B%22container%22%3Atrue%7D%7D")
    head = await connection.head()
    assert (head.status, head.headers["Content-Type"]) == (200, "application/json")
    server.engine.events.publish("start")
    line = await connection.chunk()
    assert line.endswith(b"}\n")
    event = json.loads(line)
    assert (event["status"], event["Type"], event["Action"], event["scope"]) == ("start", "container", "start", "local")
    assert event["id"] == event["Actor"]["ID"]
    server.engine.events.publish("die")
    assert json.loads(await connection.chunk())["Action"] == "die"
    server.engine.events.queue.put_nowait(None)
    assert await connection.chunk() == b""
    assert server.engine.events.calls == [{"since": None, "until": None, "filters": {"type": ["container"]}}]


async def test_events_that_end_before_they_begin_are_refused(server: Server) -> None:
    reply = await server.ask("GET", "/events?since=20&until=10")
    assert (reply.status, reply.message) == (400, "`since` time (20) cannot be after `until` time (10)")


async def test_a_client_that_hangs_up_ends_its_subscription(server: Server) -> None:
    connection = await server.connect()
    await connection.send("GET", "/events")
    await connection.head()
    connection.close()
    assert server.engine.events.stream is not None
    await server.engine.events.stream.closed.wait()


# --- pull and push ----------------------------------------------------------------------------------------------------


async def test_a_pull_is_one_json_object_a_line(server: Server) -> None:
    reply = await server.ask(
        "POST",
        "/images/create?fromImage=docker.io%2Flibrary%2Fbusybox&tag=latest&platform=linux%2Farm64",
        headers={"X-Registry-Auth": "e30="},
    )
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
    assert reply.body.split(b"\r\n") == [
        b'{"status":"Pulling from library/busybox","id":"latest"}',
        b'{"status":"Pull complete","progressDetail":{},"id":"0123456789ab"}',
        b"",
    ]
    assert server.engine.images.calls == [("pull", ("docker.io/library/busybox", "latest", "linux/arm64", "e30="))]


async def test_the_first_line_of_a_pull_comes_at_once(server: Server) -> None:
    server.engine.images.pull_hold = asyncio.Event()
    connection = await server.connect()
    await connection.send("POST", "/images/create?fromImage=busybox")
    await connection.head()
    assert b"Pulling from" in await connection.chunk()


async def test_a_pull_that_fails_at_once_has_a_status(server: Server) -> None:
    reply = await server.ask("POST", "/images/create?fromImage=missing")
    assert (reply.status, reply.headers["Content-Type"]) == (404, "application/json")
    assert reply.message.startswith("pull access denied")


@pytest.mark.parametrize("error", [Unavailable("the registry is gone"), RuntimeError("the registry is gone")])
async def test_a_pull_that_fails_later_has_an_error_line(server: Server, error: Exception) -> None:
    server.engine.images.pull_error = error
    reply = await server.ask("POST", "/images/create?fromImage=busybox")
    assert reply.status == 200
    assert json.loads(reply.body.split(b"\r\n")[1]) == {
        "errorDetail": {"message": "the registry is gone"},
        "error": "the registry is gone",
    }


async def test_a_client_that_hangs_up_cancels_its_pull(server: Server) -> None:
    server.engine.images.pull_hold = asyncio.Event()
    connection = await server.connect()
    await connection.send("POST", "/images/create?fromImage=busybox")
    await connection.head()
    connection.close()
    assert server.engine.images.pull_stream is not None
    await server.engine.images.pull_stream.closed.wait()


async def test_a_push_names_the_image_by_its_path(server: Server) -> None:
    reply = await server.ask(
        "POST", "/images/docker.io/library/busybox/push?tag=1.0", headers={"X-Registry-Auth": "e30="}
    )
    assert json.loads(reply.body)["aux"]["Tag"] == "1.0"
    assert server.engine.images.calls == [("push", ("docker.io/library/busybox", "1.0", "e30="))]


async def test_an_import_passes_on_what_the_client_sends(server: Server) -> None:
    target = "/images/create?fromSrc=-&repo=a&tag=b&message=m&platform=linux/arm64&changes=ENV%20A=1&changes=CMD%20x"
    reply = await server.ask("POST", target, b"the tar")
    assert json.loads(reply.body)["status"] == "sha256:imported"
    request, data = server.engine.imports.calls[0]
    assert (request.source, request.repo, request.tag, request.message) == ("-", "a", "b", "m")
    assert (request.platform, request.changes, data) == ("linux/arm64", ["ENV A=1", "CMD x"], b"the tar")


# --- hanging up -------------------------------------------------------------------------------------------------------


async def test_a_change_goes_on_when_the_client_has_hung_up(server: Server) -> None:
    box = server.engine.box()
    server.engine.containers.gate.clear()
    connection = await server.connect()
    await connection.send("POST", "/containers/box/start")
    await (await server.connect()).ask("GET", "/_ping")  # by now the start is under way
    connection.close()
    await (await server.connect()).ask("GET", "/_ping")
    server.engine.containers.gate.set()
    await server.engine.containers.done.wait()
    assert box.running


async def test_a_shutdown_ends_streams_that_would_go_on_for_ever(server: Server) -> None:
    server.engine.box()
    waiting, events = await server.connect(), await server.connect()
    await waiting.send("POST", "/containers/box/wait")
    await events.send("GET", "/events")
    await waiting.head()
    await events.head()
    async with asyncio.timeout(20):
        await server.runner.cleanup()
        assert await waiting.reader.read() == b""
        assert await events.reader.read() == b""
