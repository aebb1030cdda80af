"""What a process has used and no longer needs goes back to the system, once there is a pause."""

import asyncio
import subprocess
import sys

import pytest

from scow.registry import heaps
from scow.registry.heaps import Tidying


@pytest.fixture
def trims(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    done: list[str] = []
    monkeypatch.setattr(heaps, "trim", lambda: done.append("trimmed"))
    return done


async def test_heaps_are_trimmed_once_for_all_that_was_done(trims: list[str]) -> None:
    tidying = Tidying(after_s=0.01)
    for _ in range(100):
        tidying.note()
    assert trims == []
    async with asyncio.timeout(60):
        while not trims:  # noqa: ASYNC110  # nothing else tells
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    assert trims == ["trimmed"]
    tidying.note()
    async with asyncio.timeout(60):
        while len(trims) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await tidying.aclose()


async def test_nothing_is_trimmed_after_the_end(trims: list[str]) -> None:
    tidying = Tidying(after_s=0.01)
    tidying.note()
    await tidying.aclose()
    await asyncio.sleep(0.05)
    assert trims == []


def test_trimming_works_here() -> None:
    heaps.trim()


PROBE = """
import os, signal
from scow.registry import supervisor
from scow.registry.settings import Settings

trims = []
supervisor.trim = lambda: trims.append(os.getpid())

def work(post):
    os.write(post.ready, b"1" if trims == [os.getppid()] else b"0")
    return 0

def end(url):
    os.kill(os.getpid(), signal.SIGTERM)

settings = Settings(listen="127.0.0.1:0", workers=2)
print(supervisor.Supervisor(settings, work, lambda: settings, end).run())
"""


def test_workers_begin_with_heaps_that_are_trimmed() -> None:
    # In a process of its own: a supervisor has no threads beside it, and workers are forked from it.
    out = subprocess.run([sys.executable, "-c", PROBE], check=True, capture_output=True, text=True, timeout=60)
    assert out.stdout == "0\n"
