"""cgroup controllers that crun wants as version 1 on a hybrid machine: mounted when needed, unmounted at the end.

On such a machine crun works only if version 2 holds no controller. One that does (hugetlb, mostly) is mounted beside
its v1 neighbours; what was mounted is written down first, so that the engine that stops last can take it away again.
"""

import logging
from pathlib import Path
from typing import Final

from scow.linux import cgroup
from scow.linux.mount import MountFailed

log = logging.getLogger(__name__)

_FILE: Final = "mounted-controllers"


def settle(exec_root: Path) -> bool:
    """Mount stray controllers; True if there were any and all are version 1 now. Idempotent."""
    stray = cgroup.stray_controllers()
    if not stray:
        return False
    record = exec_root / _FILE
    record.write_text("".join(f"{name}\n" for name in sorted({*stray, *_recorded(exec_root)})))
    try:
        made = cgroup.mount_stray_controllers()
    except (OSError, MountFailed) as error:
        log.warning("cgroup controllers stay with version 2, which crun refuses: %s", error)
        return False
    for point in made:
        log.info("mounted cgroup controller %s as version 1, as crun needs it on this machine", point)
    return True


def release(exec_root: Path) -> None:
    """Unmount what `settle` has mounted, unless groups are left in it (another engine's); idempotent."""
    for name in _recorded(exec_root):
        cgroup.unmount_controller(cgroup.ROOT / name)
    (exec_root / _FILE).unlink(missing_ok=True)


def _recorded(exec_root: Path) -> list[str]:
    try:
        return (exec_root / _FILE).read_text().split()
    except FileNotFoundError:
        return []
