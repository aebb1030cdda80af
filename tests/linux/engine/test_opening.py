"""A head start leaves nothing behind, whether somebody came to need it or not."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from scow.engine.config import EngineConfig
from scow.engine.opening import HeadStart
from scow.linux import cgroup
from scow.runtime import controllers
from scow.runtime.selection import NoRuntime


@pytest.fixture
def config(tmp_path: Path) -> Iterator[EngineConfig]:
    if os.geteuid() != 0:
        pytest.skip("containers need root")
    yield EngineConfig(data_root=tmp_path / "data", exec_root=tmp_path / "exec")
    controllers.release()


def groups() -> set[Path]:
    return set(cgroup.ROOT.glob("**/scow-check-*"))


@pytest.mark.parametrize("delay_s", [0, 0.01, 0.03, 0.06])
async def test_what_nobody_waits_for_ends_with_it(config: EngineConfig, delay_s: float) -> None:
    before = groups()
    head_start = HeadStart(config)
    await asyncio.sleep(delay_s)
    await head_start.aclose()
    assert head_start.nftables.pid is None
    assert not config.exec_root.exists() or not os.listdir(config.exec_root)
    async with asyncio.timeout(60):
        while not groups() <= before:  # noqa: ASYNC110  # engines beside us may be making their own
            await asyncio.sleep(0.02)


async def test_what_was_begun_is_there_for_who_needs_it(config: EngineConfig) -> None:
    head_start = HeadStart(config)
    try:
        runtimes, default = await head_start.runtimes()
        assert default in runtimes
        assert "nftables" in await asyncio.to_thread(head_start.nftables.run, "list tables", json=True)
    finally:
        await head_start.aclose()
    assert not os.listdir(config.exec_root)


async def test_a_runtime_that_is_not_there_is_told_to_who_needs_it(
    config: EngineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    head_start = HeadStart(config)
    try:
        with pytest.raises(NoRuntime):
            await head_start.runtimes()
    finally:
        await head_start.aclose()
