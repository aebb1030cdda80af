"""cgroup controllers that crun wants as version 1 on a hybrid machine: mounted when needed, unmounted at the end.

On such a machine crun works only if version 2 holds no controller. One that does (hugetlb, mostly) is mounted beside
its v1 neighbours. The record of what was mounted is the machine's, not an engine's: whichever engine stops last can
take it away, and one that still needs a controller mounts it again at its next container.
"""

import logging
import os
from pathlib import Path
from typing import Final

from scow.linux import cgroup
from scow.linux.mount import MountFailed

log = logging.getLogger(__name__)

RECORD: Final = Path("/run/scow-mounted-controllers")
"""Names of the controllers that Scow has mounted. Gone after a reboot, as they are."""


def settle() -> bool:
    """Mount stray controllers; True if there were any and all are version 1 now. Idempotent."""
    stray = cgroup.stray_controllers()
    if not stray:
        return False
    _record({*stray, *_recorded()})
    try:
        made = cgroup.mount_stray_controllers()
    except (OSError, MountFailed) as error:
        log.warning("cgroup controllers stay with version 2, which crun refuses: %s", error)
        return False
    for point in made:
        log.info("mounted cgroup controller %s as version 1, as crun needs it on this machine", point)
    return True


def release() -> None:
    """Unmount what Scow has mounted, unless groups are left in it (another engine's containers); idempotent."""
    mounted = _recorded()
    if mounted:
        _record({name for name in mounted if not cgroup.unmount_controller(cgroup.ROOT / name)})


def _recorded() -> set[str]:
    try:
        return set(RECORD.read_text().split())
    except FileNotFoundError:
        return set()


def _record(names: set[str]) -> None:
    if not names:
        RECORD.unlink(missing_ok=True)
        return
    temporary = RECORD.with_name(f"{RECORD.name}.{os.getpid()}")
    temporary.write_text("".join(f"{name}\n" for name in sorted(names)))
    temporary.rename(RECORD)
