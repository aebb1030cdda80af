"""Fixtures of the store's tests that need root."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from scow.linux import mount
from scow.oci.digest import DiffID, sha256
from scow.store.database import Database
from scow.store.snapshots import Snapshots
from scow.store.trash import Trash


@pytest.fixture(autouse=True)
def root_and_no_mount_left(tmp_path: Path) -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount")
    yield
    left = mount.mounts(tmp_path)
    for entry in reversed(left):
        mount.unmount(entry.target, lazy=True)
    assert left == []


class FolderLayers:
    """Layers that are plain directories, with the counts that mounting them would need."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.held: dict[DiffID, int] = {}

    def add(self, name: str, files: dict[str, str]) -> DiffID:
        diff_id = DiffID(sha256(name.encode()))
        folder = self._root / diff_id.partition(":")[2][:12]
        folder.mkdir(parents=True)
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        return diff_id

    def folder(self, diff_id: DiffID) -> Path:
        return self._root / diff_id.partition(":")[2][:12]

    def find(self, diff_id: DiffID) -> Path | None:
        return self.folder(diff_id) if self.folder(diff_id).exists() else None

    async def lower(self, diff_id: DiffID) -> Path:
        self.held[diff_id] = self.held.get(diff_id, 0) + 1
        return self.folder(diff_id)

    async def release(self, diff_id: DiffID) -> None:
        self.held[diff_id] -= 1
        if not self.held[diff_id]:
            del self.held[diff_id]


class Boat:
    """Snapshots over folders in a temporary directory, which can be left as by a crash and opened again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("snapshots", "rootfs", "empty/a", "empty/b", "trash"):
            (root / name).mkdir(parents=True)
        self.layers = FolderLayers(root / "layers")
        self.open()

    def open(self) -> None:
        self.db = Database.open(self.root / "state.db")
        self.trash = Trash(self.root / "trash")
        self.snapshots = Snapshots(
            self.root / "snapshots", self.root / "rootfs", self.root / "empty", self.layers, self.db, self.trash
        )

    async def aclose(self) -> None:
        await self.trash.aclose()
        await self.db.aclose()

    async def crash(self) -> None:
        """Forget what was in memory, keep files and mounts, and open again."""
        await self.aclose()
        self.layers.held.clear()
        self.open()


@pytest.fixture
async def boat(tmp_path: Path) -> AsyncIterator[Boat]:
    boat = Boat(tmp_path)
    yield boat
    for key in list(boat.snapshots.keys()):
        await boat.snapshots.remove(key)
    await boat.aclose()
