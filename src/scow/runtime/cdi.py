"""Devices described by files: the Container Device Interface, by which `--gpus` and `--device vendor/class=name` work.

A file in a spec directory names a kind (`nvidia.com/gpu`), its devices, and for each what it changes in a container:
variables, device nodes, mounts, hooks. Vendors' tools write them, in JSON or YAML. CDI specification 0.8.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from scow.errors import Internal
from scow.runtime.devices import device_type
from scow.wire.host_config import DeviceRequest

SPEC_DIRS: Final = ("/etc/cdi", "/var/run/cdi")
GPU_KINDS: Final = ("nvidia.com/gpu", "amd.com/gpu", "intel.com/gpu")
"""What a request for `gpu` can mean: the first of which there are devices."""

ALL: Final = "all"
_ACCESS: Final = "rwm"


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Names are the specification's; what isn't known is passed over."""


class DeviceNode(_Part, frozen=True, kw_only=True):
    """A device node in the container; what is left open follows the host's node."""

    path: str
    host_path: str = ""
    type: str = ""
    major: int | None = None
    minor: int | None = None
    file_mode: int | None = None
    permissions: str = ""
    uid: int | None = None
    gid: int | None = None


class Mount(_Part, frozen=True, kw_only=True):
    """A path of the host in the container."""

    host_path: str
    container_path: str
    type: str = ""
    options: list[str] | None = None


class Hook(_Part, frozen=True, kw_only=True):
    """A program that the runtime runs at a point of a container's life. runtime-spec config.md#posix-platform-hooks."""

    hook_name: str
    path: str
    args: list[str] | None = None
    env: list[str] | None = None
    timeout: int | None = None


class Edits(_Part, frozen=True, kw_only=True):
    """What devices change in a container."""

    env: list[str] | None = None
    device_nodes: list[DeviceNode] | None = None
    mounts: list[Mount] | None = None
    hooks: list[Hook] | None = None
    additional_gids: list[int] | None = msgspec.field(name="additionalGids", default=None)


class _Device(_Part, frozen=True, kw_only=True):
    name: str
    container_edits: Edits = Edits()


class _File(_Part, frozen=True, kw_only=True):
    kind: str
    devices: list[_Device] = []
    container_edits: Edits = Edits()


class NoDeviceDriver(Internal):
    """Nobody here can give what a device request asks. 500 and these words are docker's."""

    def __init__(self, request: DeviceRequest) -> None:
        listed = " ".join(f"[{' '.join(names)}]" for names in request.capabilities or [])
        super().__init__(f'could not select device driver "{request.driver}" with capabilities: [{listed}]')


class UnknownDevices(Internal):
    """No file describes these devices."""

    def __init__(self, names: Sequence[str], reason: str = "") -> None:
        super().__init__(f"CDI device injection failed: unresolvable CDI devices {', '.join(names)}{reason}")


class Registry:
    """The devices of some spec directories, of which a later one overrides an earlier. Reading blocks."""

    def __init__(self, folders: Iterable[str] = SPEC_DIRS) -> None:
        self._found: dict[str, tuple[_File, _Device]] = {}
        self.problems: list[str] = []  # files that could not be read, and why
        for folder in folders:
            for path in _files(Path(folder)):
                self._read(path)

    def _read(self, path: Path) -> None:
        try:
            data = path.read_bytes()
            decode = msgspec.json.decode if path.suffix == ".json" else msgspec.yaml.decode
            file = decode(data, type=_File)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            self.problems.append(f"{path}: {error}")
            return
        for device in file.devices:
            self._found[f"{file.kind}={device.name}"] = file, device

    def names(self) -> list[str]:
        """All devices, as `kind=name`."""
        return sorted(self._found)

    def select(self, requests: Iterable[DeviceRequest]) -> list[str]:
        """Names of the devices that requests mean. Raises NoDeviceDriver."""
        chosen: list[str] = []
        for request in requests:
            if request.driver == "cdi":
                chosen += request.device_ids or []
                continue
            kinds = {name.partition("=")[0] for name in self._found}
            vendor = request.driver
            kind = next((kind for kind in GPU_KINDS if kind in kinds and (not vendor or kind.startswith(vendor))), "")
            asks_gpu = any("gpu" in names for names in request.capabilities or []) or vendor == "nvidia"
            if not asks_gpu or not kind:
                raise NoDeviceDriver(request)
            chosen += [f"{kind}={name}" for name in self._gpus(kind, request)]
        return list(dict.fromkeys(chosen))

    def _gpus(self, kind: str, request: DeviceRequest) -> list[str]:
        if request.device_ids:
            return request.device_ids
        names = [name.partition("=")[2] for name in self._found if name.startswith(f"{kind}=")]
        if request.count < 0:
            return [ALL] if ALL in names else names
        return [str(number) for number in range(request.count or 1)]

    def edits(self, names: Sequence[str]) -> list[Edits]:
        """What the named devices change; a file's common part comes once. Raises UnknownDevices."""
        unknown = [name for name in names if name not in self._found]
        if unknown:
            raise UnknownDevices(unknown, f" ({'; '.join(self.problems)})" if self.problems else "")
        files: list[_File] = []
        found: list[Edits] = []
        for name in names:
            file, device = self._found[name]
            if not any(each is file for each in files):
                files.append(file)
                found.append(file.container_edits)
            found.append(device.container_edits)
        return found


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix in (".json", ".yaml", ".yml"))
    except OSError:
        return []


def apply(edits: Iterable[Edits], spec: dict[str, Any]) -> None:
    """Change a config.json by edits. Raises UnknownDevices for a node that the machine doesn't have."""
    for edit in edits:
        process, linux = spec["process"], spec["linux"]
        for variable in edit.env or ():
            name = variable.partition("=")[0]
            process["env"] = [each for each in process["env"] if each.partition("=")[0] != name] + [variable]
        for node in edit.device_nodes or ():
            made, access = _node(node)
            linux["devices"] = [each for each in linux["devices"] if each["path"] != made["path"]] + [made]
            rule = {"allow": True, **{key: made[key] for key in ("type", "major", "minor")}, "access": access}
            linux["resources"]["devices"].append(rule)
        for mount in edit.mounts or ():
            spec["mounts"].append(
                {
                    "destination": mount.container_path,
                    "source": mount.host_path,
                    "type": mount.type or "bind",
                    "options": mount.options or ["rbind", "rprivate"],
                }
            )
        for hook in edit.hooks or ():
            entry = {"path": hook.path, "args": hook.args, "env": hook.env, "timeout": hook.timeout}
            kept = {key: value for key, value in entry.items() if value is not None}
            spec.setdefault("hooks", {}).setdefault(hook.hook_name, []).append(kept)
        gids = process["user"]["additionalGids"]
        gids += [gid for gid in edit.additional_gids or () if gid not in gids]


def _node(node: DeviceNode) -> tuple[dict[str, Any], str]:
    source = node.host_path or node.path
    kind, major, minor = node.type, node.major, node.minor
    mode, uid, gid = node.file_mode, node.uid, node.gid
    if not kind or major is None or minor is None:
        try:
            status = os.stat(source)
        except OSError as error:
            raise UnknownDevices([node.path], f": {source}: {(error.strerror or '').lower()}") from error
        kind = kind or device_type(status)
        major = os.major(status.st_rdev) if major is None else major
        minor = os.minor(status.st_rdev) if minor is None else minor
        mode = status.st_mode & 0o7777 if mode is None else mode
        uid = status.st_uid if uid is None else uid
        gid = status.st_gid if gid is None else gid
    made: dict[str, Any] = {"path": node.path, "type": kind, "major": major, "minor": minor}
    made |= {key: value for key, value in (("fileMode", mode), ("uid", uid), ("gid", gid)) if value is not None}
    return made, node.permissions or _ACCESS
