"""Containers of each installed runtime, under monitors of their own; what is left behind fails the test."""

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from scow.linux import cgroup
from scow.runtime import controllers
from scow.runtime.selection import find_runtimes, self_check
from support.containers import BUSYBOX, Machine, make_rootfs


@pytest.fixture(scope="session")
def rootfs() -> Iterator[Path]:
    if not BUSYBOX.is_file():
        pytest.skip("busybox-static is not installed")
    folder = make_rootfs()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(params=["crun", "runc"])
async def machine(request: pytest.FixtureRequest, rootfs: Path) -> AsyncIterator[Machine]:
    if os.geteuid() != 0:
        pytest.skip("containers need root")
    runtime = find_runtimes({}).get(request.param)
    if runtime is None:
        pytest.skip(f"{request.param} is not installed")
    before = set(os.listdir("/proc/self/fd"))
    root = Path(tempfile.mkdtemp(prefix="scow-rt-"))
    try:
        controllers.settle()
        problem = await self_check(runtime, root)
        if problem is not None:
            pytest.skip(f"{request.param} does not work here: {problem}")
        machine = Machine(root, runtime, rootfs)
        try:
            yield machine
        finally:
            for id in machine.monitors.known_ids():
                await machine.monitors.delete(id)
            await machine.monitors.aclose()
            assert cgroup.remove(machine.group)
            assert not list((root / "containers").iterdir())
            assert not list((root / "oci").iterdir())
            assert not list((root / "exits").iterdir())
    finally:
        controllers.release()
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(root)
    # What is slow to close is closed by the loop's threads: wait for them.
    await asyncio.get_running_loop().shutdown_default_executor()
    assert set(os.listdir("/proc/self/fd")) <= before
