"""Where the store keeps what: the one place for the names of its folders and files."""

from pathlib import Path
from typing import Final

import msgspec

_PRECIOUS: Final = ("snapshots", "containers", "volumes")


class Paths(msgspec.Struct, frozen=True):
    """The folders of one store. Below `data_root` is what must survive a reboot, below `exec_root` what need not.

    Everything below `data_root` must be on one file system: things appear and vanish by rename.
    """

    data_root: Path
    exec_root: Path

    @property
    def state(self) -> Path:
        """The database."""
        return self.data_root / "state.db"

    @property
    def lock(self) -> Path:
        """The file that is locked while an engine uses `data_root`."""
        return self.data_root / "lock"

    @property
    def reserve(self) -> Path:
        """Room for a start on a full disk."""
        return self.data_root / "reserve"

    @property
    def exec_lock(self) -> Path:
        """The file that is locked while an engine uses `exec_root`."""
        return self.exec_root / "lock"

    @property
    def blobs(self) -> Path:
        """Content: algorithm/two digits/digits."""
        return self.data_root / "blobs"

    @property
    def ingest(self) -> Path:
        """What is being written; nothing in here survives a start."""
        return self.data_root / "ingest"

    @property
    def layers(self) -> Path:
        """The layers' tars and indexes, or their unpacked directories."""
        return self.data_root / "layers"

    @property
    def snapshots(self) -> Path:
        """The writable directories: key/upper and key/work."""
        return self.data_root / "snapshots"

    @property
    def trash(self) -> Path:
        """What was removed and is being deleted."""
        return self.data_root / "trash"

    @property
    def empty(self) -> Path:
        """Two empty directories, a and b, for stacks that have too few layers."""
        return self.data_root / "empty"

    @property
    def layer_mounts(self) -> Path:
        """Where layers are mounted."""
        return self.exec_root / "layers"

    @property
    def rootfs(self) -> Path:
        """Where snapshots and views are mounted."""
        return self.exec_root / "rootfs"

    def held(self) -> list[str]:
        """The names of folders below `data_root` with something that nobody can fetch or make again."""
        return [name for name in _PRECIOUS if any((self.data_root / name).glob("*"))]

    def make(self) -> None:
        """Make the folders. Idempotent."""
        for top in (self.data_root, self.exec_root):
            top.mkdir(mode=0o711, parents=True, exist_ok=True)
        for folder in (self.blobs, self.ingest, self.layers, self.snapshots, self.trash, self.empty):
            folder.mkdir(mode=0o700, exist_ok=True)
        for folder in (self.empty / "a", self.empty / "b"):
            folder.mkdir(mode=0o755, exist_ok=True)
        for folder in (self.layer_mounts, self.rootfs):
            folder.mkdir(mode=0o711, exist_ok=True)
