"""Capabilities: names, what this engine itself has, and what a container gets. capabilities(7)."""

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Final

from scow.errors import InvalidArgument, NotSupported
from scow.runtime.profile import DEFAULT_CAPABILITIES

# In the order of their numbers.
NAMES: Final = (
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID"),
    *("CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST"),
    *("CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO"),
    *("CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE"),
    *("CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE"),
    *("CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM"),
    *("CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE"),
)
_ALL: Final = "ALL"


class UnknownCapability(InvalidArgument):
    """No capability has this name."""

    def __init__(self, field: str, name: str) -> None:
        super().__init__(f'invalid {field}: unknown capability: "{name}"')
        self.name = name


class CapabilityMissing(NotSupported):
    """The engine can't give what it doesn't have."""

    def __init__(self, name: str) -> None:
        super().__init__(f"cannot add capability {name}: the engine itself does not have it on this machine")
        self.name = name


@cache
def bounding_set() -> frozenset[str]:
    """The capabilities that this process may hand on."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            bits = int(line.split()[1], 16)
            return frozenset(name for number, name in enumerate(NAMES) if bits >> number & 1)
    return frozenset(NAMES)


def container_capabilities(
    add: Sequence[str] | None,
    drop: Sequence[str] | None,
    *,
    privileged: bool,
    available: frozenset[str],
) -> list[str]:
    """What a container gets, in the kernel's order. Raises UnknownCapability, CapabilityMissing.

    `ALL` in either list counts for everything that is `available`; names go with or without CAP_, in any case.
    Defaults that the engine lacks are left out.
    """
    if privileged:
        return _ordered(available)
    added, dropped = _normalise("CapAdd", add or ()), _normalise("CapDrop", drop or ())
    explicit = added - {_ALL}
    for name in sorted(explicit - dropped):
        if name not in available:
            raise CapabilityMissing(name)
    if _ALL in added:
        return _ordered(available - dropped)
    if _ALL in dropped:
        return _ordered(explicit)
    return _ordered((frozenset(DEFAULT_CAPABILITIES) & available) - dropped | explicit)


def _ordered(names: Iterable[str]) -> list[str]:
    return sorted(names, key=NAMES.index)


def _normalise(field: str, names: Iterable[str]) -> frozenset[str]:
    found = set()
    for name in names:
        upper = name.strip().upper()
        if upper == _ALL:
            found.add(_ALL)
            continue
        full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
        if full not in NAMES:
            raise UnknownCapability(field, full)
        found.add(full)
    return frozenset(found)
