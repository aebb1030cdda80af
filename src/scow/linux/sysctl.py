"""Kernel parameters under /proc/sys (sysctl(8)); of the calling thread's namespace for those of the network."""

from pathlib import Path
from typing import Final

_ROOT: Final = Path("/proc/sys")


def read(name: str) -> str:
    """Return a parameter, named with slashes since link names hold dots: `net/ipv4/ip_forward`."""
    return (_ROOT / name).read_text().strip()


def write(name: str, value: str) -> None:
    (_ROOT / name).write_text(value)


def ensure(name: str, value: str) -> bool:
    """Set a parameter unless it has the value already; tell whether it had to be changed."""
    if read(name) == value:
        return False
    write(name, value)
    return True


def exists(name: str) -> bool:
    """Whether this kernel has the parameter."""
    return (_ROOT / name).exists()
