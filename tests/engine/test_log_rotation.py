"""Logs that are rotated while they are written and read."""

import pytest

from support.calls import eventually
from support.daemon import Daemon

OPTIONS = ("--log-opt", "max-size=20k", "--log-opt", "max-file=50")
WRITER = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo line $i; [ $((i % 1000)) = 0 ] && sleep 1; done; true"


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_no_line_is_lost_at_a_rotation_by_readers_nor_followers(engine: Daemon, driver: str) -> None:
    box = engine.docker("run", "-d", "--log-driver", driver, *OPTIONS, "busybox", "sh", "-c", WRITER).stdout.strip()
    followed = engine.docker("logs", "-f", box).stdout.splitlines()
    expected = [f"line {number}" for number in range(1, 3001)]
    assert followed == expected
    assert engine.docker("logs", box).stdout.splitlines() == expected
    assert engine.docker("logs", "--tail", "1500", box).stdout.splitlines() == expected[-1500:]
    files = list((engine.folder / "data/containers" / box).glob("*-json.log*"))
    assert len(files) > 2
    assert any(file.suffix == ".gz" for file in files) == (driver == "local")


def test_one_file_is_what_docker_keeps_by_default_of_a_limited_log(engine: Daemon) -> None:
    script = "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo line $i; done; sleep 2.5; echo end; sleep 60"
    box = engine.docker("run", "-d", "--log-opt", "max-size=20k", "busybox", "sh", "-c", script).stdout.strip()
    eventually(lambda: engine.docker("logs", box).stdout == "end\n")
    assert len(list((engine.folder / "data/containers" / box).glob("*-json.log*"))) == 1


def test_limits_that_make_no_sense_are_refused(engine: Daemon) -> None:
    refused = engine.docker("run", "--log-opt", "max-file=0", "busybox", "true", check=False)
    assert "max-file cannot be less than 1" in refused.stderr
