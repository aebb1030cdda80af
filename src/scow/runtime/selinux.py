"""SELinux labels, where the kernel enforces or knows SELinux and the engine is told to use it: as dockerd's.

A container's processes run as `container_t` and its files are `container_file_t`, both in two categories of the
container's own, so that containers can't touch each other's files. runtime-spec config.md#process (selinuxLabel),
config-linux.md#mount-label.
"""

import contextlib
import errno
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from scow.errors import InvalidArgument

FILE_SYSTEM: Final = Path("/sys/fs/selinux")
SETTINGS: Final = Path("/etc/selinux")
XATTR: Final = "security.selinux"
PROCESS: Final = "system_u:system_r:container_t:s0"
FILE: Final = "system_u:object_r:container_file_t:s0"
PARTS: Final = ("user", "role", "type", "level")
DISABLE: Final = "disable"
CATEGORIES: Final = 1024


class Labels(NamedTuple):
    """What a container's processes run as, and what its files have."""

    process: str
    files: str

    @property
    def shared_files(self) -> str:
        """For files that several containers use (`:z`): without categories."""
        user, role, type_, level = self.files.split(":", 3)
        return ":".join((user, role, type_, level.partition(":")[0]))


def is_enabled(file_system: Path = FILE_SYSTEM) -> bool:
    """Whether the kernel has SELinux switched on."""
    return (file_system / "enforce").exists()


def base_labels(settings: Path = SETTINGS) -> Labels:
    """The labels that the machine's policy has for containers, docker's usual ones if it says none. Blocks."""
    found = {"process": PROCESS, "file": FILE}
    with contextlib.suppress(OSError):
        lines = (settings / "config").read_text().splitlines()
        policy = next((line.partition("=")[2].strip() for line in lines if line.startswith("SELINUXTYPE=")), "targeted")
        for line in (settings / policy / "contexts" / "lxc_contexts").read_text().splitlines():
            name, equals, value = line.partition("=")
            if equals and name.strip() in found:
                found[name.strip()] = value.strip().strip('"')
    return Labels(found["process"], found["file"])


def check_option(value: str) -> None:
    """Raise InvalidArgument, in docker's words, for the value of a `label=` that means nothing."""
    name, colon, rest = value.partition(":")
    if value in (DISABLE, "nested") or (colon and rest and name in (*PARTS, "filetype")):
        return
    raise InvalidArgument(
        f"bad label option \"{value}\", valid options 'disable' or \n"
        "'user, role, level, type, filetype' followed by ':' and a value"
    )


def labels_of(id: str, options: Sequence[str], base: Labels) -> Labels | None:
    """A container's labels by the values of its `label=` options; None if it is to have none.

    Raises InvalidArgument.
    """
    if DISABLE in options:
        return None
    process = dict(zip(PARTS, base.process.split(":", 3), strict=True))
    files = dict(zip(PARTS, base.files.split(":", 3), strict=True))
    process["level"] = files["level"] = level_of(id)
    for option in options:
        check_option(option)
        name, _, value = option.partition(":")
        if name == "filetype":
            files["type"] = value
        elif name in PARTS:
            process[name] = value
            if name in ("user", "level"):
                files[name] = value
    return Labels(":".join(process.values()), ":".join(files.values()))


def level_of(id: str) -> str:
    """Two categories that follow from the container's ID: the same after a restart, and hardly ever another's."""
    digest = hashlib.sha256(id.encode()).digest()
    first = int.from_bytes(digest[:4]) % CATEGORIES
    second = (first + 1 + int.from_bytes(digest[4:8]) % (CATEGORIES - 1)) % CATEGORIES
    return "s0:c{},c{}".format(*sorted((first, second)))


def relabel(top: str, label: str) -> None:
    """Give all files below a place a label, never through a symlink. Blocks. File systems without labels are left.

    Raises OSError, and InvalidArgument for places that no container should get.
    """
    if os.path.realpath(top) in ("/", "/usr", "/etc", "/home", "/root", "/tmp", "/var"):
        raise InvalidArgument(f"SELinux relabeling of {top} is not allowed")
    places = [top]
    for folder, folders, names in os.walk(top):
        places += [os.path.join(folder, name) for name in (*folders, *names)]
    for place in places:
        try:
            os.setxattr(place, XATTR, label.encode() + b"\0", follow_symlinks=False)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno == errno.ENOTSUP:
                return
            raise
