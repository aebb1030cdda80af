"""Devices: nodes of the host that a container sees, and the rules that let it use them.

runtime-spec config-linux.md#devices and #allowed-device-list.
"""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from scow.errors import InvalidArgument
from scow.wire.host_config import DeviceMapping

_RULE: Final = re.compile(r"(?P<type>[acb]) (?P<major>\d+|\*):(?P<minor>\d+|\*) (?P<access>[rwm]{1,3})")
# Not the host's: the container's own /dev has these from mounts, or they would be the engine's terminal.
_SKIPPED_FOLDERS: Final = frozenset({"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"})
_SKIPPED: Final = frozenset({"/dev/console", "/dev/ptmx"})

ALLOW_ALL: Final[dict[str, Any]] = {"allow": True, "access": "rwm"}


class InvalidDevice(InvalidArgument):
    """A device that can't be given to a container."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f'error gathering device information while adding custom device "{path}": {reason}')
        self.path = path


class InvalidDeviceRule(InvalidArgument):
    """A device rule that can't be read."""

    def __init__(self, rule: str) -> None:
        super().__init__(f"invalid device cgroup rule format: '{rule}'")
        self.rule = rule


def parse_rule(text: str) -> dict[str, Any]:
    """Read `c 1:3 rwm` as the runtime wants it. Raises InvalidDeviceRule."""
    match = _RULE.fullmatch(text)
    if match is None:
        raise InvalidDeviceRule(text)
    rule: dict[str, Any] = {"allow": True, "type": match["type"], "access": match["access"]}
    for name in ("major", "minor"):
        if match[name] != "*":  # left out it means all; crun would write a -1 to the control group as it is
            rule[name] = int(match[name])
    return rule


def host_devices(root: Path = Path("/dev")) -> list[dict[str, Any]]:
    """All device nodes of the machine, for a privileged container."""
    return [_node(path, str(path)) for path in _walk(root) if str(path) not in _SKIPPED]


def mapped_devices(mapping: DeviceMapping) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Nodes and rules of one mapping; a folder stands for the devices below it. Raises InvalidDevice."""
    source, access = mapping.path_on_host, mapping.cgroup_permissions or "rwm"
    destination = mapping.path_in_container or source
    try:
        resolved = Path(os.path.realpath(source, strict=True))
    except OSError as error:
        raise InvalidDevice(source, (error.strerror or "").lower()) from error
    if resolved.is_dir():
        paths = list(_walk(resolved))
        nodes = [_node(path, destination + str(path)[len(str(resolved)) :]) for path in paths]
    else:
        nodes = [_node(resolved, destination)] if _is_device(resolved) else []
    if not nodes:
        raise InvalidDevice(source, "not a device node")
    rules = [
        {"allow": True, "type": node["type"], "major": node["major"], "minor": node["minor"], "access": access}
        for node in nodes
    ]
    return nodes, rules


def _walk(root: Path) -> Iterator[Path]:
    try:
        entries = sorted(root.iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.is_symlink():
            continue
        if entry.is_dir():
            if entry.name not in _SKIPPED_FOLDERS:
                yield from _walk(entry)
        elif _is_device(entry):
            yield entry


def device_type(status: os.stat_result) -> str:
    """The letter of a device node's kind: `b` or `c`."""
    return "b" if stat.S_ISBLK(status.st_mode) else "c"


def _is_device(path: Path) -> bool:
    try:
        mode = path.lstat().st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def _node(path: Path, destination: str) -> dict[str, Any]:
    status = path.lstat()
    return {
        "path": destination,
        "type": device_type(status),
        "major": os.major(status.st_rdev),
        "minor": os.minor(status.st_rdev),
        "fileMode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
    }
