"""Being ready for moves between control groups changes nothing but the time they take."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from scow.linux import group_moves
from scow.linux.group_moves import GroupMoves, own_group

pytestmark = pytest.mark.linux


def test_the_own_group_lists_this_process() -> None:
    group = own_group()
    assert group is not None
    assert str(os.getpid()) in (group / "cgroup.procs").read_text().split()


async def test_expecting_a_move_leaves_the_process_where_it_is() -> None:
    before = own_group()
    moves = GroupMoves()
    for _ in range(3):
        moves.expect()
    assert moves._asking is not None
    await moves._asking
    assert before is not None
    assert own_group() == before


async def test_the_process_is_never_moved_into_a_group_it_is_not_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told = tmp_path / "cgroup"
    told.write_text("5:pids:/somewhere/else\n0::/elsewhere\n")
    monkeypatch.setattr(group_moves, "_SELF", told)
    assert own_group() is None


async def test_an_expected_move_is_quick() -> None:
    group = own_group()
    assert group is not None
    for _ in range(100):
        await asyncio.sleep(0.1)
        moves = GroupMoves()
        moves.expect()
        assert moves._asking is not None
        await moves._asking
        begun = time.perf_counter()
        await asyncio.to_thread((group / "cgroup.procs").write_text, "0")
        if time.perf_counter() - begun < 0.004:  # a grace period takes at least two ticks
            return
    raise AssertionError("no move was quick")  # on a busy machine most are not
