"""Who may have a cache mount's directory when others have it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from scow.build.cache import Cache
from scow.build.cache_mounts import CacheMounts
from scow.store.database import Database


@asynccontextmanager
async def mounts_in(folder: Path) -> AsyncIterator[CacheMounts]:
    db = Database.open(folder / "state.db")
    Cache(db)  # makes the tables
    mounts = CacheMounts(db, folder)
    mounts.reconcile()
    try:
        yield mounts
    finally:
        await db.aclose()


async def test_shared_ones_are_had_together_and_private_ones_apart(tmp_path: Path) -> None:
    async with mounts_in(tmp_path) as mounts:
        async with mounts.mounted("a", "shared") as one, mounts.mounted("a", "shared") as two:
            assert one == two
            async with mounts.mounted("a", "private") as other:
                assert other != one
        async with mounts.mounted("a", "private") as again:
            assert again == one
        assert not any(mounts.in_use(each.id) for each in mounts.all())


async def test_a_locked_one_waits_for_all_others_and_they_for_it(tmp_path: Path) -> None:
    async with mounts_in(tmp_path) as mounts:
        order = []

        async def use(name: str, sharing: str) -> None:
            async with mounts.mounted("a", sharing):
                order.append(name)
                await asyncio.sleep(0.01)
                order.append(name)

        async with mounts.mounted("a", "shared"):
            waiting = [asyncio.create_task(use(name, kind)) for name, kind in (("x", "locked"), ("y", "locked"))]
            given_up = asyncio.create_task(use("never", "locked"))
            await asyncio.sleep(0.02)
            given_up.cancel()
            assert order == []
        await asyncio.gather(*waiting)
        assert order in (["x", "x", "y", "y"], ["y", "y", "x", "x"])
        async with mounts.mounted("a", "locked"):
            late = asyncio.create_task(use("z", "shared"))
            await asyncio.sleep(0.01)
            assert "z" not in order
        await late
        assert mounts.in_use(mounts.all()[0].id) is False


async def test_what_was_not_begun_to_the_end_is_begun_anew(tmp_path: Path) -> None:
    async with mounts_in(tmp_path) as mounts:

        async def broken(top: Path) -> None:
            (top / "half").touch()
            raise RuntimeError

        try:
            async with mounts.mounted("a", "shared", broken):
                raise AssertionError
        except RuntimeError:
            pass
        async with mounts.mounted("a", "shared") as path:
            assert list(path.iterdir()) == []
            (path / "kept").touch()
        async with mounts.mounted("a", "shared", broken) as path:
            assert [each.name for each in path.iterdir()] == ["kept"]
        await mounts.remove([each.id for each in mounts.all()])
        assert list((tmp_path / "mounts").iterdir()) == []
