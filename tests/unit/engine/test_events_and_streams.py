"""Events, detach keys, attachments, restart policies and docker's words for states and durations."""

import asyncio
from collections.abc import Callable

import pytest

from scow.engine.attachment import Attachment, DetachKeys, parse_detach_keys
from scow.engine.describing import command_text, human_duration, status_text
from scow.engine.events import Events
from scow.engine.record import State
from scow.engine.recovery import needed_first
from scow.engine.restart import next_backoff, should_restart, should_start_at_boot
from scow.engine.streams import ProgressStream
from scow.errors import InvalidArgument, NotFound
from scow.wire.host_config import RestartPolicy
from scow.wire.progress import ProgressMessage


async def test_a_listener_gets_the_past_since_a_moment_and_then_what_comes() -> None:
    events = Events()
    events.emit("container", "create", "c1", {"image": "busybox", "name": "one"})
    listener = await events.subscribe(since_ns=0, until_ns=None, filters={})
    events.emit("container", "start", "c1", {"image": "busybox", "name": "one"})
    first, second = await anext(listener), await anext(listener)
    assert (first.action, second.action) == ("create", "start")
    assert (first.status, first.id, first.from_) == ("create", "c1", "busybox")
    await listener.aclose()
    assert events.listeners == 0


async def test_a_listener_ends_at_its_moment() -> None:
    events = Events()
    events.emit("network", "create", "n1", {})
    listener = await events.subscribe(since_ns=0, until_ns=10**9, filters={})
    assert [event async for event in listener] == []


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({"type": ["container"]}, 2),
        ({"event": ["start", "pull"]}, 2),
        ({"label": ["a=1"]}, 1),
        ({"label": ["a", "b"]}, 0),
        ({"container": ["one"]}, 1),
        ({"image": ["busybox"]}, 3),
        ({"type": ["volume"]}, 0),
    ],
)
async def test_filters_choose_events(filters: dict[str, list[str]], count: int) -> None:
    events = Events()
    events.emit("container", "start", "c1", {"image": "busybox:latest", "name": "one", "a": "1"})
    events.emit("container", "health_status: healthy", "c2", {"image": "busybox", "name": "two"})
    events.emit("image", "pull", "busybox:latest", {"name": "busybox"})
    listener = await events.subscribe(since_ns=0, until_ns=2 * 10**18, filters=filters)
    found = 0
    while True:
        try:
            async with asyncio.timeout(0.02):
                await anext(listener)
        except TimeoutError:
            break
        found += 1
    assert found == count


async def test_an_unknown_filter_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="invalid filter 'color'"):
        await Events().subscribe(since_ns=None, until_ns=None, filters={"color": ["red"]})


def test_detach_keys_are_found_across_packets_and_false_starts_pass() -> None:
    keys = DetachKeys(parse_detach_keys(None))
    assert keys.feed(b"ab\x10") == (b"ab", False)
    assert keys.feed(b"c") == (b"\x10c", False)
    assert keys.feed(b"\x10\x10\x11") == (b"\x10", True)


@pytest.mark.parametrize(("text", "keys"), [("a", b"a"), ("ctrl-a,b", b"\x01b"), ("ctrl-@", b"\0"), ("", b"\x10\x11")])
def test_detach_keys_are_read_as_docker_writes_them(text: str, keys: bytes) -> None:
    assert parse_detach_keys(text) == keys


def test_detach_keys_that_make_no_sense_are_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"Invalid detach keys \(ctrl-\) provided"):
        parse_detach_keys("ctrl-")


class Process:
    """A process that echoes its input and ends with it."""

    def __init__(self) -> None:
        self.output: asyncio.Queue[list[tuple[int, bytes]]] = asyncio.Queue()
        self.closed = False

    async def read(self) -> list[tuple[int, bytes]]:
        return await self.output.get()

    async def write(self, data: bytes) -> None:
        self.output.put_nowait([(1, data)])

    async def close_stdin(self) -> None:
        self.output.put_nowait([])

    async def aclose(self) -> None:
        self.closed = True


class Client:
    """A client that types some packets, closes its side, and stays to listen."""

    def __init__(self, *packets: bytes) -> None:
        self.packets = [*packets, b""]
        self.heard: list[tuple[int, bytes]] = []
        self.gone = asyncio.Event()

    async def receive(self) -> bytes:
        return self.packets.pop(0)

    async def send(self, chunks: list[tuple[int, bytes]]) -> None:
        self.heard += chunks

    async def wait_closed(self) -> None:
        await self.gone.wait()


def attachment(*, tty: bool = False, detached: list[str] | None = None) -> Attachment:
    return Attachment(
        tty=tty,
        stdin=True,
        stdout=True,
        stderr=True,
        close_stdin=True,
        detach_keys=b"\x10\x11",
        on_detach=lambda: detached.append("detach") if detached is not None else None,
    )


async def test_output_goes_on_after_the_client_closed_its_side() -> None:
    process, client, one = Process(), Client(b"hello"), attachment()
    one.connect(process)
    await one.run(client)
    assert client.heard == [(1, b"hello")]
    assert process.closed


async def test_an_attachment_waits_for_the_start() -> None:
    process, client, one = Process(), Client(b"early"), attachment()
    running = asyncio.create_task(one.run(client))
    await asyncio.sleep(0)
    assert client.heard == []
    one.connect(process)
    await running
    assert client.heard == [(1, b"early")]


async def test_an_attachment_ends_when_there_will_be_no_start() -> None:
    one = attachment()
    running = asyncio.create_task(one.run(Client()))
    await asyncio.sleep(0)
    one.connect(None)
    await running


async def test_detach_keys_end_the_attachment_and_leave_the_process() -> None:
    told: list[str] = []
    process, one = Process(), attachment(tty=True, detached=told)
    one.connect(process)
    await one.run(Client(b"x\x10\x11y"))
    assert told == ["detach"]


async def test_a_client_that_vanishes_ends_its_attachment() -> None:
    process, client, one = Process(), Client(), attachment()
    process.close_stdin = client.gone.wait  # type: ignore[method-assign, assignment]  # the process does not end
    one.connect(process)
    running = asyncio.create_task(one.run(client))
    await asyncio.sleep(0)
    client.gone.set()
    await running
    assert process.closed


async def test_an_error_before_the_first_line_is_raised_from_the_call() -> None:
    async def work(emit: object) -> None:
        raise NotFound("no such thing")

    with pytest.raises(NotFound):
        await ProgressStream(work).ready()


async def test_an_error_after_the_first_line_is_raised_from_the_iteration() -> None:
    async def work(emit: object) -> None:
        emit(ProgressMessage(status="begun"))  # type: ignore[operator]  # a callable
        raise NotFound("no such thing")

    stream = await ProgressStream(work).ready()
    assert (await anext(stream)).status == "begun"
    with pytest.raises(NotFound):
        await anext(stream)


async def test_closing_a_stream_cancels_its_work() -> None:
    ended = asyncio.Event()

    async def work(emit: object) -> None:
        emit(ProgressMessage(status="begun"))  # type: ignore[operator]  # a callable
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    stream = await ProgressStream(work).ready()
    await stream.aclose()
    assert ended.is_set()


@pytest.mark.parametrize(
    ("policy", "code", "restarts", "by_user", "again"),
    [
        ("no", 1, 0, False, False),
        ("always", 0, 9, False, True),
        ("always", 0, 0, True, False),
        ("unless-stopped", 1, 0, False, True),
        ("on-failure", 0, 0, False, False),
        ("on-failure", 1, 1, False, True),
        ("on-failure", 1, 2, False, False),
    ],
)
def test_a_restart_policy_decides(policy: str, code: int, restarts: int, by_user: bool, again: bool) -> None:
    rule = RestartPolicy(name=policy, maximum_retry_count=2 if policy == "on-failure" else 0)
    assert should_restart(rule, code, restarts, stopped_by_user=by_user) is again


def test_always_forgets_a_users_stop_when_the_engine_starts() -> None:
    assert should_start_at_boot(RestartPolicy(name="always"), 0, 0, stopped_by_user=True)
    assert not should_start_at_boot(RestartPolicy(name="unless-stopped"), 0, 0, stopped_by_user=True)


def test_the_back_off_doubles_up_to_a_minute() -> None:
    waits = [next_backoff(0.0)]
    while len(waits) < 12:
        waits.append(next_backoff(waits[-1]))
    assert waits[:3] == [0.1, 0.2, 0.4]
    assert waits[-1] == 60.0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.5, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (200, "3 minutes"),
        (3600, "About an hour"),
        (7200, "2 hours"),
        (86400 * 3, "3 days"),
        (86400 * 30, "4 weeks"),
        (86400 * 100, "3 months"),
        (86400 * 800, "2 years"),
    ],
)
def test_durations_are_told_in_dockers_words(seconds: float, words: str) -> None:
    assert human_duration(seconds) == words


def test_states_are_told_in_dockers_words() -> None:
    second = 10**9
    assert status_text(State()) == "Created"
    assert status_text(State(status="running", started_at=second), 4 * second) == "Up 3 seconds"
    assert status_text(State(status="paused", started_at=second), 4 * second) == "Up 3 seconds (Paused)"
    ended = State(status="exited", started_at=second, finished_at=2 * second, exit_code=3)
    assert status_text(ended, 4 * second) == "Exited (3) 2 seconds ago"


def test_a_command_is_shown_on_one_line() -> None:
    assert command_text(["sh", "-c", "echo it's"]) == "sh -c 'echo it'\\''s'"


def test_what_others_need_is_started_first() -> None:
    needs = {"a": {"b", "c"}, "b": {"d"}, "c": set[str](), "d": set[str]()}
    assert needed_first(needs) == ["d", "b", "c", "a"]
    assert sorted(needed_first({"x": {"y"}, "y": {"x"}})) == ["x", "y"]


async def test_a_stream_that_is_closed_at_once_still_cleans_up() -> None:
    cleaned = []

    async def work(emit: Callable[[ProgressMessage], None]) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cleaned.append(True)

    await ProgressStream(work).aclose()
    assert cleaned
