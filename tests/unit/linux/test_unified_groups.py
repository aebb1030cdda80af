"""Version 2 of control groups, from files as Linux 6.12 writes them: counters, out of memory, freezing, limits."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from scow.linux import cgroup
from scow.runtime import limits, stats
from scow.wire.host_config import HostConfig

GROUP = "/scow-test/box"
FILES = {
    "cgroup.procs": "101\n102\n",
    "cgroup.events": "populated 1\nfrozen 0\n",
    "cgroup.freeze": "0\n",
    "cpu.stat": "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\nnice_usec 0\ncore_sched.force_idle_usec 0\n"
    "nr_periods 7\nnr_throttled 3\nthrottled_usec 9\nnr_bursts 0\nburst_usec 0\n",
    "memory.current": "4096\n",
    "memory.max": "max\n",
    "memory.stat": "anon 1024\nfile 2048\ninactive_file 512\n",
    "memory.events": "low 0\nhigh 0\nmax 12\noom 2\noom_kill 1\noom_group_kill 0\n",
    "pids.current": "2\n",
    "pids.max": "max\n",
    "io.stat": "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n253:0 \n",
}


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / GROUP.lstrip("/")
    folder.mkdir(parents=True)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    monkeypatch.setattr(cgroup, "is_unified", lambda: True)
    for cached in (limits._limits_swap, limits.limits_weight):
        cached.cache_clear()
    yield folder
    for cached in (limits._limits_swap, limits.limits_weight):
        cached.cache_clear()


def test_counters(group: Path) -> None:
    cpu = stats.cpu(GROUP)
    usage = cpu.cpu_usage
    assert (usage.total_usage, usage.usage_in_usermode, usage.usage_in_kernelmode) == (1_500_000, 1_000_000, 500_000)
    throttling = cpu.throttling_data
    assert (throttling.periods, throttling.throttled_periods, throttling.throttled_time) == (7, 3, 9000)
    memory = stats.memory(GROUP)
    assert (memory.usage, memory.limit, memory.failcnt) == (4096, stats.machine_memory(), 2)
    assert memory.stats == {"anon": 1024, "file": 2048, "inactive_file": 512}
    (group / "memory.max").write_text("65536\n")
    assert stats.memory(GROUP).limit == 65536
    pids = stats.pids(GROUP)
    assert (pids.current, pids.limit) == (2, 2**64 - 1)
    counters = [(each.major, each.op, each.value) for each in stats.block_io(GROUP).io_service_bytes_recursive or []]
    assert counters == [(8, "read", 4096), (8, "write", 8192), (253, "read", 0), (253, "write", 0)]


def test_processes_and_memory_that_ran_out(group: Path) -> None:
    below = group / "child"
    below.mkdir()
    (below / "cgroup.procs").write_text("103\n")
    assert cgroup.processes(GROUP) == [101, 102, 103]
    assert cgroup.oom_kills(GROUP) == 1
    (group / "memory.events").write_text("oom 5\noom_kill 0\noom_group_kill 3\n")
    assert cgroup.oom_kills(GROUP) == 0
    (group / "memory.events").unlink()
    assert cgroup.oom_kills(GROUP) == 0
    assert list(cgroup.group_paths(GROUP)) == [group]


def test_freezing(group: Path) -> None:
    assert not cgroup.is_frozen(GROUP)
    cgroup.set_frozen(GROUP, True)
    assert (group / "cgroup.freeze").read_text() == "1"
    (group / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    assert cgroup.is_frozen(GROUP)


@pytest.mark.usefixtures("group")
def test_limits_that_version_2_does_not_have_are_left_out() -> None:
    host = HostConfig(
        memory=1 << 26, memory_swap=1 << 27, memory_swappiness=5, oom_kill_disable=True, blkio_weight=300, pids_limit=9
    )
    assert limits.resources(host) == {
        "memory": {"limit": 1 << 26, "swap": 1 << 27},
        "blockIO": {"weight": 300},
        "pids": {"limit": 9},
    }
