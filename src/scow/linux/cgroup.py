"""Control groups as this machine has them: version 1, hybrid or version 2, and the paths of a container's groups."""

import contextlib
import os
from collections.abc import Iterator
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Final

from scow.linux.mount import UnmountFailed, mount, unmount

ROOT: Final = Path("/sys/fs/cgroup")
UNIFIED: Final = ROOT / "unified"  # where a hybrid machine keeps version 2


class CgroupMode(StrEnum):
    """How controllers are laid out."""

    V1 = "v1"
    HYBRID = "hybrid"  # controllers in v1 hierarchies, an (ideally empty) v2 one beside them
    V2 = "v2"
    NONE = "none"


def mode() -> CgroupMode:
    """What is mounted at /sys/fs/cgroup."""
    if (ROOT / "cgroup.controllers").exists():
        return CgroupMode.V2
    if not any(ROOT.glob("*/cgroup.procs")):
        return CgroupMode.NONE
    return CgroupMode.HYBRID if (UNIFIED / "cgroup.controllers").exists() else CgroupMode.V1


@cache
def is_unified() -> bool:
    """Whether the machine has version 2 only; doesn't change while it runs."""
    return mode() is CgroupMode.V2


def stray_controllers() -> list[str]:
    """Controllers that version 2 still holds on a hybrid machine: crun refuses to work beside them."""
    if mode() is not CgroupMode.HYBRID:
        return []
    return (UNIFIED / "cgroup.controllers").read_text().split()


def mount_stray_controllers() -> list[Path]:
    """Mount each stray controller as version 1, as its neighbours are, and return the new mount points.

    Raises OSError or MountFailed if the kernel doesn't let a controller go (version 2 groups use it).
    """
    made = []
    for name in stray_controllers():
        point = ROOT / name
        point.mkdir(exist_ok=True)
        try:
            mount("cgroup", point, "cgroup", 0, name)
        except BaseException:
            with contextlib.suppress(OSError):
                point.rmdir()
            raise
        made.append(point)
    return made


def unmount_controller(point: Path) -> bool:
    """Undo `mount_stray_controllers`, unless groups live in the hierarchy (another engine's); True if it is gone."""
    if not point.exists():
        return True
    try:
        if any(entry.is_dir() for entry in point.iterdir()):
            return False
        unmount(point)
        point.rmdir()
    except (OSError, UnmountFailed):
        return False
    return True


def group_paths(path: str) -> Iterator[Path]:
    """The existing folders of a group in all hierarchies, for a runtime's `cgroupsPath` (absolute)."""
    relative = path.lstrip("/")
    if is_unified():
        candidates: Iterator[Path] = iter([ROOT / relative])
    else:
        candidates = (hierarchy / relative for hierarchy in sorted(ROOT.iterdir()) if not hierarchy.is_symlink())
    return (candidate for candidate in candidates if candidate.is_dir())


def controller_path(path: str, controller: str) -> Path:
    """Where a group's files of one controller are: `memory`, `pids`, `freezer`..."""
    relative = path.lstrip("/")
    return ROOT / relative if is_unified() else ROOT / controller / relative


def processes(path: str) -> list[int]:
    """The pids in a group and the groups below it, as this pid namespace sees them."""
    folder = controller_path(path, "freezer")
    found: list[int] = []
    for parent, _, files in os.walk(folder):
        if "cgroup.procs" in files:
            with contextlib.suppress(OSError):
                found += [int(line) for line in (Path(parent) / "cgroup.procs").read_text().split()]
    return found


def oom_kills(path: str) -> int:
    """How often the kernel's OOM killer ended a process in this group; 0 where it can't be told."""
    name = "memory.events" if is_unified() else "memory.oom_control"
    try:
        text = (controller_path(path, "memory") / name).read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill ")), 0)


def lift_process_limit(path: str) -> None:
    """Let a group have as many processes as those above it may. Raises OSError."""
    (controller_path(path, "pids") / "pids.max").write_text("max")


def set_frozen(path: str, frozen: bool) -> None:
    """Ask the kernel to freeze or thaw all processes of a group; see `is_frozen`. Raises OSError."""
    folder = controller_path(path, "freezer")
    if is_unified():
        (folder / "cgroup.freeze").write_text("1" if frozen else "0")
    else:
        (folder / "freezer.state").write_text("FROZEN" if frozen else "THAWED")


def is_frozen(path: str) -> bool:
    """Whether all processes of a group are frozen by now. Raises OSError."""
    folder = controller_path(path, "freezer")
    if is_unified():
        return "frozen 1" in (folder / "cgroup.events").read_text().splitlines()
    return (folder / "freezer.state").read_text().strip() == "FROZEN"


def remove(path: str) -> bool:
    """Remove a group that has no processes, and those below it, from all hierarchies; False if some remain."""
    clean = True
    for folder in list(group_paths(path)):
        for parent, _, _ in os.walk(folder, topdown=False):
            try:
                os.rmdir(parent)  # the files in it are the kernel's and go with it
            except FileNotFoundError:
                continue
            except OSError:
                clean = False
    return clean
