"""Which foreign programs the kernel hands to an interpreter. Documentation/admin-guide/binfmt-misc.rst."""

import os
import struct
from pathlib import Path
from typing import Final

REGISTERED: Final = Path("/proc/sys/fs/binfmt_misc")
_MACHINES: Final = {  # ELF's class (1: 32 bit), byte order (1: little) and e_machine, by Go's word
    "386": (1, 1, 3),
    "amd64": (2, 1, 62),
    "arm": (1, 1, 40),
    "arm64": (2, 1, 183),
    "loong64": (2, 1, 258),
    "mips": (1, 2, 8),
    "mipsle": (1, 1, 8),
    "mips64": (2, 2, 8),
    "mips64le": (2, 1, 8),
    "ppc64": (2, 2, 21),
    "ppc64le": (2, 1, 21),
    "riscv64": (2, 1, 243),
    "s390x": (2, 2, 22),
}


def has_interpreter(architecture: str, folder: Path = REGISTERED) -> bool:
    """Whether programs for an architecture, as Go calls it, have an interpreter that containers can use.

    That is one that is registered with the flag F: it is open already, so it needn't be in the container's root.
    """
    if architecture not in _MACHINES:
        return False
    kind, order, machine = _MACHINES[architecture]
    sign = "<" if order == 1 else ">"
    head = b"\x7fELF" + bytes((kind, order, 1)) + bytes(9) + struct.pack(f"{sign}HHI", 2, machine, 1)
    try:
        names = os.listdir(folder)
    except OSError:
        return False
    return any(_takes(folder / name, head) for name in names if name not in ("register", "status"))


def _takes(entry: Path, head: bytes) -> bool:
    try:
        lines = entry.read_text(errors="replace").splitlines()
        if "enabled" not in lines:
            return False
        fields = dict(line.partition(" ")[::2] for line in lines)
        magic = bytes.fromhex(fields["magic"])
        mask = bytes.fromhex(fields["mask"]) if "mask" in fields else b"\xff" * len(magic)
        offset = int(fields.get("offset", "0"))
        part = head[offset : offset + len(magic)]
        return "F" in fields.get("flags:", "") and bytes(map(int.__and__, part, mask)) == bytes(
            map(int.__and__, magic, mask)
        )
    except (OSError, KeyError, ValueError):
        return False
