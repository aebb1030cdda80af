"""Fixtures of the layers' contract: both forms over the same content, database and workers, leaving nothing behind."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

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
async def layers(tmp_path: Path, snapshotter: Snapshotter, workers: Workers) -> AsyncIterator[Layers]:
    root = tmp_path / "store"
    for name in ("blobs", "ingest"):
        (root / name).mkdir(parents=True)
    db = Database.open(root / "state.db")
    layers = Layers(root, tmp_path / "run", Content(root / "blobs", root / "ingest"), db, workers, snapshotter)
    yield layers
    await layers.unmount_idle()
    await db.aclose()
    left = mount.mounts(tmp_path)
    for entry in reversed(left):
        mount.unmount(entry.target, lazy=True)
    assert left == []
    assert os.listdir(root / "ingest") == []
