"""What containers and commands say when the exec root, as a rule a small tmpfs, is full."""

import contextlib
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from scow.linux import cgroup, mount
from scow.runtime import controllers
from scow.runtime.oci_runtime import OciRuntime
from scow.runtime.room import NoRoom
from scow.runtime.selection import choose_runtimes, find_runtimes
from support.containers import Machine


@pytest.fixture
def small_root(exec_root: Path) -> Iterator[Path]:
    mount.mount("none", exec_root, "tmpfs", 0, "size=1m")
    yield exec_root
    mount.unmount(exec_root, lazy=True)


@pytest.fixture
def runtime() -> OciRuntime:
    found = find_runtimes({})
    if not found:
        pytest.skip("neither crun nor runc is installed")
    controllers.settle()
    return next(iter(found.values()))


@pytest.fixture
async def machine(small_root: Path, runtime: OciRuntime, rootfs: Path) -> AsyncIterator[Machine]:
    machine = Machine(small_root, runtime, rootfs)
    yield machine
    for id in machine.monitors.known_ids():
        await machine.monitors.delete(id)
    await machine.monitors.aclose()
    assert cgroup.remove(machine.group)


def fill(root: Path) -> None:
    with contextlib.suppress(OSError), (root / "filling").open("ab", buffering=0) as disk:
        while True:
            disk.write(bytes(4096))


async def test_commands_and_containers_name_the_full_folder_and_run_when_there_is_room_again(machine: Machine) -> None:
    box = await machine.start("sleep", "600")
    fill(machine.root)
    full = f"{machine.root}: no space left on device"
    with pytest.raises(NoRoom, match=full):
        await machine.exec(box, "true")
    with pytest.raises(NoRoom, match=full):
        await machine.create("true")
    with pytest.raises(NoRoom, match=full):
        await machine.monitors.update(box, {})
    (machine.root / "filling").unlink()
    assert await (await machine.exec(box, "true")).wait() == 0
    assert (await machine.run("true"))[2] == 0


async def test_a_runtime_that_fails_for_want_of_room_is_quoted_with_the_reason(
    machine: Machine, tmp_path: Path
) -> None:
    program = tmp_path / "crun"
    program.write_text(f"#!/bin/sh\nhead -c 2M /dev/zero > {machine.root}/filling 2>&-\necho write to fd >&2\nexit 1\n")
    program.chmod(0o755)
    machine.monitors._runtime = OciRuntime(name="crun", path=program)
    with pytest.raises(NoRoom, match=f"write to fd: {machine.root}: no space left on device"):
        await machine.create("true")


async def test_an_exit_code_that_cannot_be_written_is_said_to_be_lost(machine: Machine) -> None:
    box = await machine.start("sleep", "600")
    fill(machine.root)
    await machine.monitors.kill(box, signal.SIGKILL)
    ended = await machine.ended(box)
    assert ended.error == f"the exit code is lost: {machine.root}/exits: no space left on device"


async def test_no_runtime_is_to_blame_for_a_full_disk(small_root: Path, runtime: OciRuntime) -> None:
    fill(small_root)
    with pytest.raises(NoRoom, match=f"^{small_root}: no space left on device$"):
        await choose_runtimes("", {}, small_root)
    (small_root / "filling").unlink()
    assert shutil.which(runtime.name) is not None
    assert (await choose_runtimes("", {}, small_root))[1] == runtime.name
