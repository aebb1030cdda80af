"""What of an engine is on the machine: everything that carries its marks, so that engines beside it don't matter."""

import json
import os
import subprocess
from pathlib import Path

from scow.engine.config import EngineConfig
from scow.network.model import tag_of


def traces(folder: Path) -> list[str]:
    """Mounts, links, nft tables, cgroups and processes of the engine below `folder`, in words."""
    engine_id = EngineConfig(data_root=folder / "data").engine_id
    tag = tag_of(engine_id)
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    found = [f"mount {path}" for path in mounts if path.startswith(str(folder))]
    found += [f"link {name}" for name in os.listdir("/sys/class/net") if tag[:6] in name]
    listed = subprocess.run(["nft", "-j", "list", "tables"], capture_output=True, check=True).stdout
    tables = [entry["table"]["name"] for entry in json.loads(listed)["nftables"] if "table" in entry]
    found += [f"table {name}" for name in tables if tag in name or engine_id in name]
    root = Path("/sys/fs/cgroup")
    found += [f"cgroup {path}" for path in (*root.glob(f"scow-{engine_id}"), *root.glob(f"*/scow-{engine_id}"))]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(folder) in command and "scow.registry" not in command:
                found.append(f"process {entry.name} {command[:100]}")
    return found
