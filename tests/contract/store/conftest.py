"""Fixtures of the layers' contract: both forms over the same content, database and workers, leaving nothing behind."""

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from scow.linux import mount
from scow.store.content import Content
from scow.store.database import Database
from scow.store.layers import Layers, Snapshotter
from scow.store.workers import Workers


@pytest.fixture(params=["erofs", "overlay2"])
def snapshotter(request: pytest.FixtureRequest) -> Snapshotter:
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount and to make devices")
    if request.param == "erofs" and not mount.supported("erofs"):
        pytest.skip("this kernel has no EROFS")
    return request.param  # type: ignore[no-any-return]  # pytest's params are Any


@pytest.fixture
async def workers() -> AsyncIterator[Workers]:
    workers = Workers()
    yield workers
    await workers.aclose()


@pytest.fixture
def store_root(tmp_path: Path) -> Path:
    root = tmp_path / "store"
    for name in ("blobs", "ingest"):
        (root / name).mkdir(parents=True)
    return root


@pytest.fixture
def content(store_root: Path) -> Content:
    return Content(store_root / "blobs", store_root / "ingest")


@pytest.fixture
async def make_layers(
    tmp_path: Path, store_root: Path, content: Content, snapshotter: Snapshotter, workers: Workers
) -> AsyncIterator[Callable[..., Layers]]:
    """Makes Layers over the test's folder, also a second time as after a crash; nothing may be left of them."""
    db = Database.open(store_root / "state.db")
    made: list[Layers] = []

    def make(**options: Any) -> Layers:
        made.append(Layers(store_root, tmp_path / "run", content, db, workers, snapshotter, **options))
        return made[-1]

    yield make
    for layers in made:
        await layers.unmount_idle()
    await db.aclose()
    left = mount.mounts(tmp_path)
    for entry in reversed(left):
        mount.unmount(entry.target, lazy=True)
    assert left == []
    assert os.listdir(store_root / "ingest") == []


@pytest.fixture
async def layers(make_layers: Callable[..., Layers]) -> Layers:
    return make_layers()
