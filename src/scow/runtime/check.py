"""What this machine offers to an engine: `python -m scow.runtime.check` prints it, and ends with 1 if it isn't enough.

Each line names one thing, whether it is there, and what it is or what to do. `script/setup` and `scow system check`
run this module.
"""

import asyncio
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from scow.errors import ScowError
from scow.linux import cgroup
from scow.runtime import controllers
from scow.runtime.capabilities import bounding_set
from scow.runtime.conmon import PROGRAM as CONMON
from scow.runtime.init import find_init
from scow.runtime.room import NoRoom
from scow.runtime.seccomp import NoDefaultProfile, default_profile_path
from scow.runtime.selection import find_runtimes, self_check
from scow.store.layer_mounts import MountMode, probe

_NEEDED = ("CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SYS_CHROOT", "CAP_MKNOD", "CAP_SETUID", "CAP_SETGID", "CAP_CHOWN")
_HELPFUL = ("CAP_SYS_RESOURCE", "CAP_SYS_PTRACE", "CAP_SYS_MODULE")


class Finding(NamedTuple):
    """One thing of the machine."""

    name: str
    ok: bool
    detail: str
    essential: bool = True


def check_machine() -> list[Finding]:
    """Look at everything. Nothing of the machine is changed for longer than the look takes."""
    return [
        _kernel(),
        _privileges(),
        _overlayfs(),
        _erofs(),
        _cgroups(),
        _conmon(),
        *_runtimes(),
        _seccomp(),
        _nftables(),
        _init(),
    ]


def _kernel() -> Finding:
    release = os.uname().release
    numbers = tuple(int(part) for part in re.findall(r"\d+", release)[:2])
    return Finding("kernel", numbers >= (5, 11), f"{release} {platform.machine()} (5.11 or later is needed)")


def _privileges() -> Finding:
    missing = [name for name in _NEEDED if name not in bounding_set()]
    lacking = [name for name in _HELPFUL if name not in bounding_set()]
    if os.geteuid() != 0 or missing:
        return Finding(
            "privileges", False, f"root with all capabilities is needed; missing: {', '.join(missing) or '-'}"
        )
    note = f", without {', '.join(lacking)}" if lacking else ""
    return Finding("privileges", True, f"root{note}")


def _filesystems() -> set[str]:
    lines = Path("/proc/filesystems").read_text().splitlines()
    return {line.split()[-1] for line in lines if line.strip()}


def _has_filesystem(name: str) -> bool:
    if name in _filesystems():
        return True
    # Not loaded yet is as good as there; the first mount loads it.
    modprobe = shutil.which("modprobe", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if modprobe is None:
        return False
    return subprocess.run([modprobe, "-q", name], check=False).returncode == 0 and name in _filesystems()


def _overlayfs() -> Finding:
    ok = _has_filesystem("overlay")
    return Finding("overlayfs", ok, "available" if ok else "the kernel has no overlayfs: containers need it")


def _erofs() -> Finding:
    """Mount a small index as the store does: what a kernel's number promises, its configuration may not hold."""
    try:
        with tempfile.TemporaryDirectory(prefix="scow-check-", dir="/var/tmp") as folder:
            mode = probe(Path(folder))
    except OSError as error:
        return Finding("EROFS", False, f"could not be tried: {error}", essential=False)
    if mode is MountMode.NONE:
        return Finding("EROFS", False, "not in this kernel: layers are unpacked instead (overlay2)", essential=False)
    how = "from files" if mode is MountMode.FILES else "by loop devices"
    return Finding("EROFS", True, f"mounts layers {how}")


def _cgroups() -> Finding:
    mode = cgroup.mode()
    if mode is cgroup.CgroupMode.NONE:
        return Finding("cgroups", False, "none are mounted at /sys/fs/cgroup")
    stray = cgroup.stray_controllers()
    if stray:
        detail = f"{mode}; version 2 holds {', '.join(stray)}, which the engine mounts as version 1 for crun"
        return Finding("cgroups", True, detail)
    return Finding("cgroups", True, str(mode))


def _conmon() -> Finding:
    if not CONMON.is_file():
        return Finding("conmon", False, f"{CONMON} is missing: install the package conmon")
    said = subprocess.run([CONMON, "--version"], capture_output=True, text=True, check=False).stdout
    return Finding("conmon", bool(said), said.splitlines()[0] if said else f"{CONMON} does not run")


def _runtimes() -> list[Finding]:
    runtimes = find_runtimes({})
    if not runtimes:
        return [Finding("runtime", False, "neither crun nor runc is installed")]
    if not CONMON.is_file() or os.geteuid() != 0:
        return [Finding(f"runtime {name}", False, f"{found.path}, not tried") for name, found in runtimes.items()]
    problems = asyncio.run(_try_runtimes())
    works = any(problem is None for problem in problems.values())
    return [
        Finding(
            f"runtime {name}",
            problem is None,
            f"{runtimes[name].path} makes containers" if problem is None else problem,
            essential=not works,
        )
        for name, problem in problems.items()
    ]


async def _try_runtimes() -> dict[str, str | None]:
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="scow-check-"))
    try:
        await asyncio.to_thread(controllers.settle)
        return {name: await self_check(runtime, folder) for name, runtime in find_runtimes({}).items()}
    except NoRoom as error:
        return dict.fromkeys(find_runtimes({}), str(error))
    finally:
        await asyncio.to_thread(controllers.release)
        await asyncio.to_thread(shutil.rmtree, folder, True)


def _seccomp() -> Finding:
    path = default_profile_path()
    return Finding("seccomp profile", path is not None, str(path) if path else str(NoDefaultProfile()))


def _nftables() -> Finding:
    program = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is None:
        return Finding("nftables", False, "install the package nftables")
    said = subprocess.run([program, "list", "tables"], capture_output=True, text=True, check=False)
    if said.returncode != 0:
        return Finding("nftables", False, said.stderr.strip().splitlines()[0] if said.stderr else "nft failed")
    return Finding("nftables", True, program)


def _init() -> Finding:
    try:
        return Finding("init", True, str(find_init()), essential=False)
    except ScowError as error:
        return Finding("init", False, str(error), essential=False)


def main(write: Callable[[str], object] = sys.stdout.write) -> int:
    """Print all findings; 1 if something essential is missing."""
    findings = check_machine()
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        mark = "ok" if finding.ok else ("MISSING" if finding.essential else "without")
        write(f"{finding.name:<{width}}  {mark:<7}  {finding.detail}\n")
    return 0 if all(finding.ok or not finding.essential for finding in findings) else 1


if __name__ == "__main__":
    sys.exit(main())
