"""Commands in a running container: the same with every runtime."""

import asyncio
import os
import select
import signal

import pytest

from scow.errors import ScowError
from scow.runtime.failures import CommandNotExecutable, CommandNotFound
from scow.runtime.monitor import NoSuchRun, Paused
from scow.runtime.user import ProcessUser
from scow.wire.container import ContainerConfig
from support.containers import Machine, everything


@pytest.fixture
async def box(machine: Machine) -> str:
    return await machine.start("sleep", "600")


async def test_output_and_exit_code(machine: Machine, box: str) -> None:
    process = await machine.exec(box, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert await everything(process) == {1: b"out\n", 2: b"err\n"}
    assert await process.wait() == 3


async def test_stdin_and_its_end(machine: Machine, box: str) -> None:
    process = await machine.exec(box, "cat", stdin=True)
    data = os.urandom(3_000_000)
    reading = asyncio.create_task(everything(process))
    await process.write(data)
    await process.close_stdin()
    assert (await reading)[1] == data
    assert await process.wait() == 0


async def test_without_stdin_there_is_none(machine: Machine, box: str) -> None:
    process = await machine.exec(box, "cat")
    assert await process.wait() == 0
    await process.aclose()


async def test_environment_user_folder(machine: Machine, box: str) -> None:
    process = await machine.exec(
        box,
        "sh",
        "-c",
        "echo $A $B $HOME; pwd; id -u",
        config=ContainerConfig(env=["A=1", "B=2"]),
        env=("B=3",),
        cwd="/tmp",
        user=ProcessUser(uid=1000, gid=1000, home="/home/ann"),
    )
    assert (await everything(process))[1] == b"1 3 /home/ann\n/tmp\n1000\n"


async def test_privileged_has_more_capabilities(machine: Machine, box: str) -> None:
    script = "busybox grep CapEff /proc/self/status"
    plain = await everything(await machine.exec(box, "sh", "-c", script))
    more = await everything(await machine.exec(box, "sh", "-c", script, privileged=True))
    assert plain[1].split()[1] == b"00000000a80425fb"
    assert int(more[1].split()[1], 16) & (1 << 21)  # CAP_SYS_ADMIN


async def test_a_terminal_with_size_and_resize(machine: Machine, box: str) -> None:
    script = "stty size; trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.05; done"
    process = await machine.exec(box, "sh", "-c", script, tty=True, stdin=True, console_size=(40, 100))
    seen = b""
    while b"ready" not in seen:
        seen += b"".join(data for _, data in await process.read())
    await process.resize(50, 120)
    seen += (await everything(process))[1]
    assert seen.split(b"\r\n")[:3] == [b"40 100", b"ready", b"50 120"]
    assert await process.wait() == 5


async def test_a_terminal_takes_input(machine: Machine, box: str) -> None:
    process = await machine.exec(box, "sh", tty=True, stdin=True)
    await process.write(b"echo $((40+2)); exit 6\n")
    assert b"42\r\n" in (await everything(process))[1]
    assert await process.wait() == 6


async def test_short_commands_on_terminals_lose_nothing(machine: Machine, box: str) -> None:
    # Three at once: with crun copying between two terminals, some such commands came back without output.
    async def ask(count: int) -> list[dict[int, bytes]]:
        return [await everything(await machine.exec(box, "busybox", "tty", tty=True)) for _ in range(count)]

    answers = [answer for each in await asyncio.gather(ask(20), ask(20), ask(20)) for answer in each]
    assert [answer for answer in answers if not answer.get(1, b"").startswith(b"/dev/pts/")] == []


@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.parametrize(
    ("command", "kind", "words", "code"),
    [
        ("nope", CommandNotFound, "executable file not found in \\$PATH", 127),
        ("/etc/passwd", CommandNotExecutable, "permission denied", 126),
    ],
)
async def test_a_command_that_cannot_run(
    machine: Machine, box: str, command: str, kind: type[ScowError], words: str, code: int, tty: bool
) -> None:
    with pytest.raises(kind, match=words) as failure:
        await machine.exec(box, command, tty=tty)
    assert str(failure.value).startswith("OCI runtime exec failed: exec failed: unable to start container process")
    assert getattr(failure.value, "exit_code") == code  # noqa: B009  # mypy doesn't see it on ScowError


async def test_a_missing_folder_is_named(machine: Machine, box: str) -> None:
    with pytest.raises(CommandNotFound, match=r"/nowhere.*no such file or directory"):
        await machine.exec(box, "true", cwd="/nowhere")


async def test_a_detached_command_runs_by_itself(machine: Machine, box: str) -> None:
    process = await machine.exec(box, "sh", "-c", "echo lots; exit 9", attached=False)
    assert await process.wait() == 9
    await process.aclose()


async def test_a_detached_command_with_a_terminal_is_not_held_up(machine: Machine, box: str) -> None:
    process = await machine.exec(box, "seq", "1", "20000", attached=False, tty=True)
    async with asyncio.timeout(60):
        assert await process.wait() == 0
    await process.aclose()


async def test_its_pid_can_be_signalled(machine: Machine, box: str) -> None:
    process = await machine.exec(box, "sleep", "60")
    os.kill(process.pid, signal.SIGKILL)
    assert await process.wait() == 137
    await process.aclose()


async def test_what_it_leaves_behind_does_not_hold_its_output_open(machine: Machine, box: str) -> None:
    if machine.runtime.name == "runc":
        pytest.skip("runc's exec copies the streams itself and waits for their end")
    process = await machine.exec(box, "sh", "-c", "sleep 600 & echo started")
    async with asyncio.timeout(60):
        assert (await everything(process))[1] == b"started\n"


async def test_only_running_containers(machine: Machine) -> None:
    with pytest.raises(NoSuchRun):
        await machine.exec("f" * 64, "true")


async def test_a_container_that_is_just_ending_is_not_running(machine: Machine, box: str) -> None:
    pid = machine.monitors.pid(box)
    ended = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    # Without the event loop, so that nobody has been told of the end when the command is to start.
    select.select([ended], [], [], 10)
    os.close(ended)
    with pytest.raises(NoSuchRun, match=f"container {box} is not running"):
        await machine.exec(box, "true")


async def test_a_paused_container_is_said_to_be_paused(machine: Machine, box: str) -> None:
    await machine.monitors.pause(box)
    with pytest.raises(Paused, match=f"Container {box} is paused, unpause the container before exec"):
        await machine.exec(box, "true")
    await machine.monitors.resume(box)
    assert (await everything(await machine.exec(box, "echo", "again")))[1] == b"again\n"


async def test_the_end_of_the_container_ends_it(machine: Machine, box: str) -> None:
    process = await machine.exec(box, "sleep", "60")
    await machine.monitors.kill(box, signal.SIGKILL)
    await machine.ended(box)
    assert await process.wait() == 137
    await process.aclose()
