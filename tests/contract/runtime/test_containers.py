"""A container under its monitor, from creation to deletion: the same with every runtime."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from scow.errors import ScowError
from scow.linux.inotify import IN_CREATE, IN_MOVED_TO, Inotify
from scow.linux.process import identify
from scow.runtime.bundle import BundleMount
from scow.runtime.devices import host_devices
from scow.runtime.failures import CommandNotExecutable, CommandNotFound, RuntimeFailed
from scow.runtime.logs import read_log
from scow.runtime.monitor import Alive, Exited, Lost, NoSuchRun
from scow.runtime.user import ProcessUser
from scow.wire.container import ContainerConfig
from scow.wire.host_config import HostConfig, Ulimit
from support.containers import TIMEOUT_S, Machine, everything


async def made(path: Path) -> None:
    """Wait until there is something at a path."""
    changed = asyncio.Event()
    inotify = Inotify(lambda changes: changed.set())
    inotify.add(path.parent, IN_CREATE | IN_MOVED_TO)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while not await asyncio.to_thread(path.exists):
                await changed.wait()
                changed.clear()
    finally:
        inotify.close()


async def test_output_and_exit_code_arrive(machine: Machine) -> None:
    assert await machine.run("sh", "-c", "echo out; echo err >&2; exit 3") == ("out\n", "err\n", 3)


async def test_a_command_that_ends_at_once_loses_no_output(machine: Machine) -> None:
    for _ in range(5):
        assert await machine.run("echo", "x" * 1000) == ("x" * 1000 + "\n", "", 0)


async def test_all_of_a_large_output_arrives(machine: Machine) -> None:
    out, _, _ = await machine.run("seq", "1", "200000")
    assert out.splitlines() == [str(number) for number in range(1, 200001)]


async def test_a_signal_counts_from_128(machine: Machine) -> None:
    id = await machine.start("sleep", "60")
    await machine.monitors.kill(id, signal.SIGKILL)
    assert (await machine.ended(id)).exit_code == 137


@pytest.mark.parametrize(
    ("command", "kind", "words", "code"),
    [
        ("nope", CommandNotFound, "executable file not found in \\$PATH", 127),
        ("/bin/nope", CommandNotFound, "no such file or directory|executable file not found", 127),
        ("/etc/passwd", CommandNotExecutable, "permission denied", 126),
        ("/etc", CommandNotExecutable, "permission denied|is a directory", 126),
    ],
)
async def test_a_command_that_cannot_run_is_named_in_dockers_words(
    machine: Machine, command: str, kind: type[ScowError], words: str, code: int
) -> None:
    with pytest.raises(kind, match=words) as failure:
        await machine.create(command)
    assert f'exec: "{command}"' in str(failure.value)
    assert "OCI runtime create failed" in str(failure.value)
    assert getattr(failure.value, "exit_code") == code  # noqa: B009  # mypy doesn't see it on ScowError
    assert machine.monitors.known_ids() == set()


async def test_a_broken_mount_is_no_missing_command(machine: Machine, tmp_path: Path) -> None:
    mount = BundleMount(source=str(tmp_path), destination="/etc/passwd")
    with pytest.raises((CommandNotExecutable, RuntimeFailed), match=r"(?i)not a directory") as failure:
        await machine.create("true", mounts=[mount])
    assert getattr(failure.value, "exit_code") in (126, 128)  # noqa: B009  # as above


async def test_stdin_reaches_the_process_and_ends_with_close(machine: Machine) -> None:
    id = await machine.create("cat", config=ContainerConfig(open_stdin=True), stdin_once=True)
    stream = await machine.monitors.attach(id)
    await machine.monitors.start(id)
    data = os.urandom(300_000)
    reading = asyncio.create_task(everything(stream))
    await stream.write(data)
    await stream.close_stdin()
    assert (await reading)[1] == data
    assert (await machine.ended(id)).exit_code == 0


@contextlib.contextmanager
def suspended_monitor(machine: Machine, id: str) -> Iterator[None]:
    """conmon stands still, as it does on a busy machine."""
    monitor = int((machine.monitors.bundle(id) / "conmon.pid").read_text())
    os.kill(monitor, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(monitor, signal.SIGCONT)


async def process_ended(machine: Machine, id: str) -> None:
    """Wait until the container's process has ended; its monitor may not know."""
    ended = os.pidfd_open(machine.monitors.pid(id))
    loop = asyncio.get_running_loop()
    found = loop.create_future()
    loop.add_reader(ended, found.set_result, None)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await found
    finally:
        loop.remove_reader(ended)
        os.close(ended)


async def test_a_start_waits_until_the_monitor_has_accepted_all_who_are_attached(machine: Machine) -> None:
    # conmon may look at the container's process before it looks at who is there, and takes one of these at a time.
    id = await machine.create("echo", "x")
    with suspended_monitor(machine, id):
        streams = [await machine.monitors.attach(id, stdin=False) for _ in range(3)]
        start = asyncio.create_task(machine.monitors.start(id))
        ended = asyncio.create_task(process_ended(machine, id))
        done, _ = await asyncio.wait([start, ended], timeout=0.1)  # a look at what must not happen, however long
        assert not done
    await start
    assert [(await everything(stream))[1] for stream in streams] == [b"x\n"] * 3
    await ended
    assert (await machine.ended(id)).exit_code == 0


async def test_more_can_attach_than_may_wait_for_the_monitor(machine: Machine) -> None:
    id = await machine.create("echo", "x")
    streams = [await machine.monitors.attach(id, stdin=False) for _ in range(20)]
    await machine.monitors.start(id)
    assert [(await everything(stream))[1] for stream in streams] == [b"x\n"] * 20
    assert (await machine.ended(id)).exit_code == 0


async def test_a_reader_that_reads_no_more_can_be_cut_off(machine: Machine) -> None:
    id = await machine.create("seq", "1", "100000000")
    stream = await machine.monitors.attach(id, stdin=False)
    await machine.monitors.start(id)
    begin = await stream.read()
    await machine.monitors.kill(id, signal.SIGKILL)
    await process_ended(machine, id)
    machine.monitors.cut(id)
    assert (await machine.ended(id)).exit_code == 137
    rest = (await everything(stream))[1]
    assert (begin[0][1] + rest).startswith(b"1\n2\n3\n")


async def test_a_deletion_waits_until_the_monitor_touches_nothing_any_more(machine: Machine) -> None:
    # Its exit file, and the end of its attach socket, would befall the container's next run.
    id = await machine.start("sleep", "60")
    monitor = int((machine.monitors.bundle(id) / "conmon.pid").read_text())
    with suspended_monitor(machine, id):
        deletion = asyncio.create_task(machine.monitors.delete(id))
        await process_ended(machine, id)
        done, _ = await asyncio.wait([deletion], timeout=0.1)  # a look at what must not happen, however long
        assert not done
    await deletion
    assert identify(monitor) is None
    assert not (machine.root / "exits" / id).exists()


async def test_a_monitor_that_stands_still_is_ended_with_its_container(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scow.runtime.conmon.END_TIMEOUT_S", 0.01)
    id = await machine.start("sleep", "60")
    monitor = int((machine.monitors.bundle(id) / "conmon.pid").read_text())
    os.kill(monitor, signal.SIGSTOP)
    await machine.monitors.delete(id)
    assert identify(monitor) is None


async def test_several_attached_see_the_same_and_a_reader_leaves_stdin_alone(machine: Machine) -> None:
    id = await machine.create("cat", config=ContainerConfig(open_stdin=True), stdin_once=True)
    writer = await machine.monitors.attach(id)
    reader = await machine.monitors.attach(id, stdin=False)
    leaver = await machine.monitors.attach(id, stdin=False)
    await machine.monitors.start(id)
    await writer.write(b"one\n")
    assert await leaver.read() == [(1, b"one\n")]
    await leaver.aclose()
    await writer.write(b"two\n")
    await writer.close_stdin()
    assert (await everything(reader))[1] == b"one\ntwo\n"
    assert (await everything(writer))[1] == b"one\ntwo\n"
    assert (await machine.ended(id)).exit_code == 0


async def test_without_stdin_once_an_end_of_input_is_kept_from_the_process(machine: Machine) -> None:
    id = await machine.create("cat", config=ContainerConfig(open_stdin=True))
    first = await machine.monitors.attach(id)
    await machine.monitors.start(id)
    await first.write(b"a\n")
    assert await first.read() == [(1, b"a\n")]
    await first.aclose()
    second = await machine.monitors.attach(id)
    await second.write(b"b\n")
    assert await second.read() == [(1, b"b\n")]
    await second.aclose()
    await machine.monitors.kill(id, signal.SIGKILL)
    assert (await machine.ended(id)).exit_code == 137


async def test_a_closed_attachment_ends_a_read_under_way(machine: Machine) -> None:
    id = await machine.start("sleep", "60")
    stream = await machine.monitors.attach(id)
    reading = asyncio.create_task(stream.read())
    await asyncio.sleep(0)
    await stream.aclose()
    assert await reading == []
    with pytest.raises(BrokenPipeError):
        await stream.write(b"x")


async def test_a_terminal_has_a_size_that_can_change(machine: Machine) -> None:
    script = "stty size; trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.05; done"
    host = HostConfig(console_size=[40, 100])
    id = await machine.create("sh", "-c", script, config=ContainerConfig(tty=True, open_stdin=True), host=host)
    stream = await machine.monitors.attach(id)
    await machine.monitors.start(id)
    seen = b""
    while b"ready" not in seen:
        seen += b"".join(data for _, data in await stream.read())
    await machine.monitors.resize(id, 50, 120)
    seen += (await everything(stream))[1]
    assert seen.split(b"\r\n")[:3] == [b"40 100", b"ready", b"50 120"]
    assert (await machine.ended(id)).exit_code == 5


async def test_the_log_has_every_line_with_its_stream(machine: Machine) -> None:
    id = await machine.start("sh", "-c", "echo one; echo two >&2; echo three")
    await machine.ended(id)
    lines = [line async for batch in read_log(machine.log_path(id)) for line in batch]
    assert sorted((line.stream, line.data) for line in lines) == [(1, b"one\n"), (1, b"three\n"), (2, b"two\n")]


async def test_a_renamed_log_is_reopened(machine: Machine) -> None:
    id = await machine.create("cat", config=ContainerConfig(open_stdin=True))
    stream = await machine.monitors.attach(id)
    await machine.monitors.start(id)
    await stream.write(b"old\n")
    assert await stream.read() == [(1, b"old\n")]
    path = machine.log_path(id)
    path.rename(path.with_suffix(".1"))
    await machine.monitors.reopen_log(id)
    await made(path)
    await stream.write(b"new\n")
    assert await stream.read() == [(1, b"new\n")]
    await stream.aclose()
    files = [path.with_suffix(".1"), path]
    lines = [line.data async for batch in read_log(files) for line in batch]
    assert lines == [b"old\n", b"new\n"]


async def test_pause_stops_it_and_resume_lets_it_go_on(machine: Machine) -> None:
    id = await machine.create("sh", "-c", "while :; do echo tick; sleep 0.01; done")
    stream = await machine.monitors.attach(id)
    await machine.monitors.start(id)
    assert await stream.read()
    await machine.monitors.pause(id)
    with contextlib.suppress(TimeoutError):
        while True:  # what was on its way
            await asyncio.wait_for(stream.read(), 0.1)
    await machine.monitors.resume(id)
    async with asyncio.timeout(60):
        assert await stream.read()
    await stream.aclose()


async def test_a_paused_container_can_be_deleted(machine: Machine) -> None:
    id = await machine.start("sleep", "60")
    pid = machine.monitors.pid(id)
    await machine.monitors.pause(id)
    await machine.monitors.delete(id)
    assert identify(pid) is None


async def test_kill_all_reaches_every_process(machine: Machine) -> None:
    id = await machine.create("sh", "-c", "trap '' TERM; sleep 60 & echo up; wait; echo down")
    stream = await machine.monitors.attach(id)
    await machine.monitors.start(id)
    assert await stream.read() == [(1, b"up\n")]
    await machine.monitors.kill(id, signal.SIGTERM)  # ignored
    await machine.monitors.kill(id, signal.SIGKILL, all=True)
    await everything(stream)
    assert (await machine.ended(id)).exit_code == 137


async def test_deletion_ends_what_runs_and_is_no_exit(machine: Machine) -> None:
    id = await machine.start("sleep", "60")
    pid = machine.monitors.pid(id)
    await machine.monitors.delete(id)
    assert identify(pid) is None
    assert id not in machine.exits
    with pytest.raises(NoSuchRun):
        await machine.monitors.start(id)
    await machine.monitors.delete(id)


async def test_a_created_container_can_be_deleted_unstarted(machine: Machine) -> None:
    id = await machine.create("sleep", "60")
    pid = machine.monitors.pid(id)
    await machine.monitors.delete(id)
    assert identify(pid) is None


async def test_memory_that_runs_out_is_reported(machine: Machine) -> None:
    id = await machine.start(
        "dd",
        "if=/dev/zero",
        "of=/dev/null",
        "bs=64M",
        "count=1",
        host=HostConfig(memory=12 << 20, memory_swap=12 << 20),
    )
    ended = await machine.ended(id)
    assert (ended.exit_code, ended.oom_killed) == (137, True)


async def test_what_ends_by_a_signal_is_not_out_of_memory(machine: Machine) -> None:
    id = await machine.start("sleep", "60", host=HostConfig(memory=32 << 20))
    await machine.monitors.kill(id, signal.SIGKILL)
    assert not (await machine.ended(id)).oom_killed


async def test_environment_user_and_folder(machine: Machine) -> None:
    config = ContainerConfig(env=["A=b c", "PATH=/bin"], working_dir="/tmp")
    user = ProcessUser(uid=1000, gid=1000, additional_gids=(1000, 50), home="/home/ann")
    out, _, _ = await machine.run(
        "sh", "-c", "id -u; id -G; pwd; echo $A $HOME $HOSTNAME; hostname", config=config, user=user
    )
    assert out.splitlines() == ["1000", "1000 50", "/tmp", "b c /home/ann box", "box"]


async def test_default_capabilities_and_seccomp_hold(machine: Machine) -> None:
    out, _, _ = await machine.run(
        "sh", "-c", "grep -E 'CapEff|CapBnd|Seccomp:|NoNewPrivs' /proc/self/status".replace("grep", "busybox grep")
    )
    status = dict(line.split(":\t") for line in out.splitlines())
    assert status["CapEff"] == status["CapBnd"] == "00000000a80425fb"
    assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "0")


async def test_masked_and_read_only_paths(machine: Machine) -> None:
    out, err, _ = await machine.run(
        "sh", "-c", "wc -c < /proc/keys; ls /sys/firmware; echo 1 > /proc/sys/kernel/panic; touch /sys/x"
    )
    assert out == "0\n"
    assert err.count("Read-only file system") == 2


async def test_privileged_sees_devices_and_may_mount(machine: Machine) -> None:
    script = "busybox grep Seccomp: /proc/self/status; ls /dev; mount -t tmpfs t /tmp && echo mounted"
    out, _, _ = await machine.run("sh", "-c", script, host=HostConfig(privileged=True))
    assert out.startswith("Seccomp:\t0\n")
    assert out.endswith("mounted\n")
    assert {node["path"] for node in host_devices() if node["path"].count("/") == 2} <= {
        f"/dev/{name}" for name in out.split()
    }


async def test_binds_and_tmpfs(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from outside")
    mounts = [
        BundleMount(source=str(tmp_path), destination="/mnt/ro", rw=False),
        BundleMount(source=str(tmp_path), destination="/mnt/rw"),
        BundleMount(source="tmpfs", destination="/scratch", type="tmpfs", options=("size=1m", "mode=1777")),
    ]
    out, err, _ = await machine.run(
        "sh",
        "-c",
        "cat /mnt/ro/file; touch /mnt/ro/x; echo back > /mnt/rw/y; busybox grep /scratch /proc/mounts",
        mounts=mounts,
    )
    assert out.startswith("from outsidetmpfs /scratch tmpfs rw,nosuid,nodev,noexec")
    assert "size=1024k" in out
    assert "Read-only file system" in err
    assert (tmp_path / "y").read_text() == "back\n"


async def test_read_only_root(machine: Machine) -> None:
    _, err, _ = await machine.run("touch", "/x", host=HostConfig(readonly_rootfs=True))
    assert "Read-only file system" in err


async def test_limits_are_set(machine: Machine) -> None:
    host = HostConfig(memory=64 << 20, pids_limit=20, ulimits=[Ulimit(name="nofile", soft=100, hard=200)])
    out, _, _ = await machine.run("sh", "-c", "ulimit -Sn; ulimit -Hn", host=host)
    assert out.split() == ["100", "200"]


async def test_open_files_are_not_limited_unasked(machine: Machine) -> None:
    import resource

    out, _, _ = await machine.run("sh", "-c", "ulimit -Hn")
    assert int(out) == resource.getrlimit(resource.RLIMIT_NOFILE)[1]


async def test_init_reaps_and_passes_the_exit_code_on(machine: Machine) -> None:
    out, _, code = await machine.run("sh", "-c", "echo $$; exit 7", init=True)
    assert (int(out) > 1, code) == (True, 7)


async def test_another_engine_process_finds_it_again(machine: Machine) -> None:
    alive = await machine.start("sleep", "60")
    pid = machine.monitors.pid(alive)
    ended = await machine.start("sh", "-c", "exit 4")
    await machine.ended(ended)
    await machine.monitors.aclose()
    machine.exits.clear()
    machine.monitors = machine.open_monitors()
    assert await machine.monitors.probe(alive) == Alive(pid)
    found = await machine.monitors.probe(ended)
    assert isinstance(found, Exited)
    assert found.exit.exit_code == 4
    assert await machine.monitors.probe("f" * 64) == Lost()
    await machine.monitors.kill(alive, signal.SIGTERM)
    await machine.monitors.kill(alive, signal.SIGKILL)
    assert (await machine.ended(alive)).exit_code == 137


async def test_a_killed_monitor_ends_its_container(machine: Machine) -> None:
    id = await machine.start("sleep", "60")
    pid = machine.monitors.pid(id)
    os.kill(int((machine.monitors.bundle(id) / "conmon.pid").read_text()), signal.SIGKILL)
    assert (await machine.ended(id)).exit_code == 137
    await machine.monitors.delete(id)
    assert identify(pid) is None


async def test_a_creation_that_is_cancelled_is_undone(machine: Machine) -> None:
    creating = asyncio.create_task(machine.create("sleep", "60"))
    while not list((machine.root / "containers").iterdir()):  # noqa: ASYNC110  # its bundle: then it is under way
        await asyncio.sleep(0)
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    await machine.monitors.aclose()
    machine.monitors = machine.open_monitors()
    assert machine.monitors.known_ids() == set()


async def test_many_at_once(machine: Machine) -> None:
    results = await asyncio.gather(*(machine.run("sh", "-c", f"echo {n}; exit {n}") for n in range(8)))
    assert results == [(f"{n}\n", "", n) for n in range(8)]


async def test_joined_namespaces_and_memory_are_the_other_containers(machine: Machine) -> None:
    first = await machine.create(
        "sh", "-c", "echo shared > /dev/shm/f; mv /dev/shm/f /dev/shm/file; sleep 60", shares_memory=True
    )
    proc = Path(f"/proc/{machine.monitors.pid(first)}/ns")
    await machine.monitors.start(first)
    await made(machine.monitors.shared_memory(first) / "file")
    out, _, _ = await machine.run(
        "sh",
        "-c",
        "busybox ps; cat /dev/shm/file",
        pid_namespace=proc / "pid",
        ipc_namespace=proc / "ipc",
        shared_memory=machine.monitors.shared_memory(first),
    )
    assert "sleep 60" in out
    assert out.splitlines()[-1] == "shared"


async def test_a_profile_holds_for_the_first_container_and_for_later_ones(machine: Machine) -> None:
    # Later ones may get the filter that was compiled for the first.
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 71}],
    }
    host = HostConfig(security_opt=[f"seccomp={json.dumps(profile)}"])
    for _ in range(3):
        _, err, code = await machine.run("busybox", "mkdir", "/tmp/x", host=host)
        assert (err, code) == ("mkdir: can't create directory '/tmp/x': Protocol error\n", 1)
    id = await machine.start("sleep", "60", host=host)
    output = await everything(await machine.exec(id, "busybox", "mkdir", "/tmp/x", host=host))
    assert output[2] == b"mkdir: can't create directory '/tmp/x': Protocol error\n"
    _, err, code = await machine.run("busybox", "mkdir", "/tmp/x")
    assert (err, code) == ("", 0)
    assert await machine.run("busybox", "rmdir", "/tmp/x") == ("", "", 0)
