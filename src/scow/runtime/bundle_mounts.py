"""The mounts of a bundle: the defaults, what was asked for over them, what privileges or a read-only root change."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from scow.errors import InvalidArgument
from scow.runtime import profile
from scow.wire.host_config import HostConfig

_SHARED: Final = ("shared", "rshared")
_SLAVE: Final = ("slave", "rslave")
# A read-only root leaves these writable: without them next to nothing runs.
_KEPT_WRITABLE: Final = frozenset({"/proc", "/dev/pts", "/dev/shm", "/dev/mqueue", "/dev"})
_TMPFS_DEFAULTS: Final = ("noexec", "nosuid", "nodev")
_TMPFS_FLAGS: Final = {
    **{name: name.removeprefix("no") for name in ("noexec", "nosuid", "nodev", "nodiratime", "noatime", "norelatime")},
    **{name: name for name in ("exec", "suid", "dev", "diratime", "atime", "relatime")},
    **{"ro": "rw", "rw": "rw", "sync": "sync", "async": "sync", "defaults": "defaults"},
    **{"strictatime": "strictatime", "nostrictatime": "strictatime"},
}
_TMPFS_VALUES: Final = frozenset({"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"})


class BundleMount(msgspec.Struct, frozen=True, kw_only=True):
    """A mount that the engine has made ready: `bind` of an existing source, or `tmpfs`."""

    source: str
    destination: str
    type: str = "bind"
    rw: bool = True
    propagation: str = ""  # of a bind; "" is rprivate
    recursive: bool = True  # a bind of what is mounted below, too
    read_only_below: bool = True  # if it is read-only, so is what is mounted below
    options: Sequence[str] = ()  # of a tmpfs


def spec_mounts(
    mounts: Sequence[BundleMount], host: HostConfig, shared_memory: Path | None, *, writable_cgroups: bool = False
) -> list[dict[str, Any]]:
    """All mounts in the order in which they are made: parents first. Raises InvalidArgument for tmpfs options."""
    taken = {mount.destination for mount in mounts}
    shm = _shared_memory(host, shared_memory)
    found: list[dict[str, Any]] = []
    for destination, kind, source, defaults in profile.DEFAULT_MOUNTS:
        if destination in taken or ("/dev" in taken and destination.startswith("/dev/")):
            continue
        options = list(defaults)
        mount: dict[str, Any] = {"destination": destination, "type": kind, "source": source, "options": options}
        if destination == "/dev/shm":
            if shm is None:
                continue
            mount |= shm
        writable = {"/sys": host.privileged, "/sys/fs/cgroup": host.privileged or writable_cgroups}
        if writable.get(destination):
            options.remove("ro")
        elif host.readonly_rootfs and destination not in _KEPT_WRITABLE and "ro" not in options:
            options.append("ro")
        found.append(mount)
    # By depth, as docker sorts them: a mount below another one's destination comes later.
    by_depth = sorted(mounts, key=lambda mount: mount.destination.rstrip("/").count("/"))
    found += [_tmpfs(mount) if mount.type == "tmpfs" else _bind(mount) for mount in by_depth]
    return found


def rootfs_propagation(mounts: Sequence[BundleMount]) -> str:
    """What the root's propagation has to be, so that the mounts' works; "" leaves it to the runtime."""
    kinds = {mount.propagation for mount in mounts}
    if kinds.intersection(_SHARED):
        return "shared"
    return "rslave" if kinds.intersection(_SLAVE) else ""


def _shared_memory(host: HostConfig, shared_memory: Path | None) -> dict[str, Any] | None:
    """What /dev/shm is: the container's own, the host's, a shared one, or none."""
    if host.ipc_mode == "none":
        return None
    if host.ipc_mode == "host":
        return {"type": "bind", "source": "/dev/shm", "options": ["rbind", "rprivate"]}
    if shared_memory is not None:
        return {"type": "bind", "source": str(shared_memory), "options": ["rbind", "rprivate"]}
    size = host.shm_size or profile.DEFAULT_SHM_SIZE
    return {"options": ["nosuid", "noexec", "nodev", "mode=1777", f"size={size}"]}


def _bind(mount: BundleMount) -> dict[str, Any]:
    # Resolved here: crun looks at a symlink itself to tell a file from a folder.
    source = os.path.realpath(mount.source)
    options = ["rbind" if mount.recursive else "bind"]
    if not mount.rw:
        options.append("ro")
        # What is mounted below becomes read-only too, as since docker 25. crun 1.8 can't do that to a file.
        if mount.recursive and mount.read_only_below and os.path.isdir(source):
            options.append("rro")
    options.append(mount.propagation or "rprivate")
    return {"destination": mount.destination, "type": "bind", "source": source, "options": options}


def _tmpfs(mount: BundleMount) -> dict[str, Any]:
    options: dict[str, str] = {}  # what an option is about -> the option; the last one counts
    for option in (*_TMPFS_DEFAULTS, *mount.options, *(() if mount.rw else ("ro",))):
        name, equals, _ = option.partition("=")
        if equals and name in _TMPFS_VALUES:
            about = name
        elif not equals and name in _TMPFS_FLAGS:
            about = _TMPFS_FLAGS[name]
        elif not equals and name in ("private", "rprivate", "shared", "rshared", "slave", "rslave"):
            about = "propagation"
        elif not option:
            continue
        else:
            raise InvalidArgument(f'invalid tmpfs option ["{option}"]')
        options.pop(about, None)
        options[about] = option
    return {"destination": mount.destination, "type": "tmpfs", "source": "tmpfs", "options": list(options.values())}
