"""The machine check tells what is so, and leaves nothing behind."""

import os
import subprocess
import sys
from pathlib import Path

from scow.linux import cgroup
from support.calls import eventually


def mounts() -> set[str]:
    return {line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines() if "cgroup" in line}


def test_the_check_prints_a_line_for_everything_and_leaves_the_machine_alone(exec_root: Path) -> None:
    before, groups = mounts(), set(cgroup.ROOT.glob("*/scow-check-*"))
    done = subprocess.run([sys.executable, "-m", "scow.runtime.check"], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    names = {line.split("  ")[0] for line in done.stdout.splitlines()}
    assert {"kernel", "overlayfs", "EROFS", "cgroups", "conmon", "seccomp profile", "nftables", "init"} <= names
    assert done.returncode == int("MISSING" in done.stdout)
    assert mounts() <= before | {str(cgroup.ROOT / name) for name in os.listdir(cgroup.ROOT)}
    eventually(lambda: set(cgroup.ROOT.glob("*/scow-check-*")) <= groups)  # engines beside us may have theirs
