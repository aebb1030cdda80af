"""Mounts of a container: from binds, mounts, tmpfs and volumes as they are asked for to what will be mounted where.

Errors carry docker's words, with the field's text in them.
"""

import posixpath
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from scow.engine.local_volumes import check_name
from scow.engine.record import MountRecord
from scow.errors import InvalidArgument
from scow.wire.container import ContainerConfig
from scow.wire.host_config import DriverConfig, HostConfig, Mount, VolumeOptions

PROPAGATIONS: Final = frozenset({"private", "rprivate", "shared", "rshared", "slave", "rslave"})
LABELS: Final = frozenset({"z", "Z"})
CONSISTENCIES: Final = frozenset({"consistent", "cached", "delegated"})
ONE_OF: Final = (frozenset({"ro", "rw"}), PROPAGATIONS, LABELS, CONSISTENCIES, frozenset({"nocopy"}))
MODES: Final = frozenset().union(*ONE_OF)
_FROM_MODES: Final = MODES - PROPAGATIONS - {"nocopy"}


class InvalidMount(InvalidArgument):
    """A bind, volume or mount that can't be."""


def parse_bind(spec: str, driver: str) -> MountRecord:
    """Read `source:destination[:mode]` or `destination`, as in `-v`. Raises InvalidMount."""
    parts = spec.split(":")
    if len(parts) == 1:
        return _volume("", _destination(spec, parts[0]), driver, "", frozenset())
    if len(parts) > 3 or not all(parts[:2]):
        raise InvalidMount(f"invalid volume specification: '{spec}'")
    source, destination = parts[0], _destination(spec, parts[1])
    words = parts[2].split(",") if len(parts) == 3 and parts[2] else []
    modes = frozenset(words)
    if modes - MODES or any(len([word for word in words if word in group]) > 1 for group in ONE_OF):
        raise InvalidMount(f"invalid mode: {parts[2]}")
    mode = parts[2] if len(parts) == 3 else ""
    if source.startswith("/"):
        if "nocopy" in modes:
            raise InvalidMount(
                f"invalid volume specification: '{spec}': invalid mount config for type \"bind\": "
                "field VolumeOptions must not be specified"
            )
        propagation = next(iter(modes & PROPAGATIONS), "rprivate")
        return MountRecord(
            type="bind",
            source=posixpath.normpath(source),
            destination=destination,
            mode=mode,
            rw="ro" not in modes,
            propagation=propagation,
            create_source=True,
        )
    if driver in ("", "local"):
        try:
            check_name(source)
        except InvalidArgument as error:
            raise InvalidMount(str(error)) from error
    if modes & PROPAGATIONS:
        raise InvalidMount(
            f"invalid volume specification: '{spec}': invalid mount config for type \"volume\": "
            "field BindOptions must not be specified"
        )
    return _volume(source, destination, driver, mode or "z", modes)


def parse_volumes_from(spec: str) -> tuple[str, bool]:
    """Read `container[:mode]`, as in `--volumes-from`: the container, and whether only to read. Raises InvalidMount."""
    ref, colon, mode = spec.partition(":")
    if not ref:
        raise InvalidMount("volumes-from specification cannot be an empty string")
    words = mode.split(",") if colon else []
    if set(words) - _FROM_MODES or any(len([word for word in words if word in group]) > 1 for group in ONE_OF):
        raise InvalidMount(f"invalid mode: {mode}")
    return ref, "ro" in words


def parse_mount(mount: Mount) -> MountRecord:
    """Read one of HostConfig.Mounts, as in `--mount`. Raises InvalidMount."""
    kind = mount.type
    if kind not in ("bind", "volume", "tmpfs", "image"):
        if kind == "cluster":
            raise InvalidMount('invalid mount config for type "cluster": this engine has no swarm mode')
        raise InvalidMount(f'invalid mount config for type "{kind}": mount type unknown')
    if not mount.target:
        raise InvalidMount(f'invalid mount config for type "{kind}": field Target must not be empty')
    if not mount.target.startswith("/"):
        raise InvalidMount(
            f'invalid mount config for type "{kind}": '
            f"invalid mount path: '{mount.target}' mount path must be absolute"
        )
    destination = posixpath.normpath(mount.target)
    if destination == "/":
        raise InvalidMount(f"invalid mount config for type \"{kind}\": invalid specification: destination can't be '/'")
    for name, options, owner in (
        ("BindOptions", mount.bind_options, "bind"),
        ("VolumeOptions", mount.volume_options, "volume"),
        ("TmpfsOptions", mount.tmpfs_options, "tmpfs"),
        ("ImageOptions", mount.image_options, "image"),
    ):
        if options is not None and kind != owner:
            raise InvalidMount(f'invalid mount config for type "{kind}": field {name} must not be specified')
    if kind == "bind":
        return _bind_mount(mount, destination)
    if kind == "tmpfs":
        if mount.source:
            raise InvalidMount('invalid mount config for type "tmpfs": field Source must not be specified')
        words: list[str] = []
        if mount.tmpfs_options is not None:
            if mount.tmpfs_options.size_bytes:
                words.append(f"size={mount.tmpfs_options.size_bytes}")
            if mount.tmpfs_options.mode:
                words.append(f"mode={mount.tmpfs_options.mode:o}")
            words += ["=".join(option) for option in mount.tmpfs_options.options or []]
        return MountRecord(
            type="tmpfs", destination=destination, rw=not mount.read_only, options=tuple(words), from_mounts=True
        )
    if kind == "image":
        if not mount.source:
            raise InvalidMount('invalid mount config for type "image": field Source must not be empty')
        subpath = mount.image_options.subpath if mount.image_options else ""
        _check_subpath("image", subpath)
        return MountRecord(
            type="image", source=mount.source, destination=destination, rw=False, subpath=subpath, from_mounts=True
        )
    volume = mount.volume_options or VolumeOptions()
    config = volume.driver_config or DriverConfig()
    _check_subpath("volume", volume.subpath)
    if volume.subpath and not mount.source:
        raise InvalidMount('invalid mount config for type "volume": must not set Subpath when using anonymous volumes')
    return MountRecord(
        type="volume",
        name=mount.source,
        destination=destination,
        driver=config.name,
        mode="z",
        rw=not mount.read_only,
        no_copy=volume.no_copy,
        subpath=volume.subpath,
        anonymous=not mount.source,
        from_mounts=True,
        volume_labels=volume.labels or {},
        volume_options=config.options or {},
    )


def _check_subpath(kind: str, subpath: str) -> None:
    """Raise InvalidMount for a path that isn't below its volume, before symlinks are looked at."""
    if subpath.startswith("/") or posixpath.normpath(subpath).split("/")[0] == "..":
        raise InvalidMount(f'invalid mount config for type "{kind}": subpath must be a relative path within the volume')


def _bind_mount(mount: Mount, destination: str) -> MountRecord:
    options = mount.bind_options
    if not mount.source:
        raise InvalidMount('invalid mount config for type "bind": field Source must not be empty')
    if not mount.source.startswith("/"):
        raise InvalidMount(
            f"invalid mount config for type \"bind\": invalid mount path: '{mount.source}' mount path must be absolute"
        )
    propagation = options.propagation if options else ""
    if propagation and propagation not in PROPAGATIONS:
        raise InvalidMount(f'invalid mount config for type "bind": invalid propagation mode: {propagation}')
    create = bool(options and options.create_mountpoint)
    if not create and not Path(mount.source).exists():
        raise InvalidMount(f'invalid mount config for type "bind": bind source path does not exist: {mount.source}')
    return MountRecord(
        type="bind",
        source=posixpath.normpath(mount.source),
        destination=destination,
        rw=not mount.read_only,
        propagation=propagation or "rprivate",
        create_source=create,
        options=("bind",) if options and options.non_recursive else (),
        read_only_alone=bool(options and options.read_only_non_recursive),
        from_mounts=True,
    )


def resolve_mounts(config: ContainerConfig, host: HostConfig, inherited: Iterable[MountRecord]) -> list[MountRecord]:
    """All mounts of a container, outer ones first.

    Inherited ones (`--volumes-from`) come first and give way to what is asked for; what the image declares as volumes
    gets an anonymous one where nothing else is mounted. Raises InvalidMount, also for two mounts at one place.
    """
    found: dict[str, MountRecord] = {mount.destination: mount for mount in inherited}
    asked: dict[str, MountRecord] = {}
    for bind in host.binds or []:
        _place(asked, parse_bind(bind, host.volume_driver))
    for mount in host.mounts or []:
        _place(asked, parse_mount(mount))
    for path, options in (host.tmpfs or {}).items():
        destination = _destination(path, path, tmpfs=True)
        _place(
            asked,
            MountRecord(
                type="tmpfs",
                destination=destination,
                mode=options,
                rw="ro" not in options.split(","),
                options=tuple(part for part in options.split(",") if part),
            ),
        )
    found.update(asked)
    for path in config.volumes or {}:
        # Images may say `VOLUME data`: as with docker that is a folder of the root.
        destination = _destination(path, f"/{path}" if path and not path.startswith("/") else path)
        if destination not in found:
            found[destination] = _volume("", destination, host.volume_driver, "", frozenset())
    return sorted(
        (_named(mount) for mount in found.values()), key=lambda mount: (mount.destination.count("/"), mount.destination)
    )


def _named(mount: MountRecord) -> MountRecord:
    if mount.type != "volume" or mount.name:
        return mount
    return msgspec.structs.replace(mount, name=secrets.token_hex(32), anonymous=True)


def _place(found: dict[str, MountRecord], mount: MountRecord) -> None:
    if mount.destination in found:
        raise InvalidMount(f"Duplicate mount point: {mount.destination}")
    found[mount.destination] = mount


def _volume(name: str, destination: str, driver: str, mode: str, modes: frozenset[str]) -> MountRecord:
    return MountRecord(
        type="volume",
        name=name,
        destination=destination,
        driver=driver,
        mode=mode,
        rw="ro" not in modes,
        no_copy="nocopy" in modes,
        anonymous=not name,
    )


def _destination(spec: str, path: str, *, tmpfs: bool = False) -> str:
    if tmpfs and not path.startswith("/"):
        raise InvalidMount(f"invalid mount path: '{path}' mount path must be absolute")
    if not path.startswith("/"):
        kind = "bind" if spec.startswith("/") and ":" in spec else "volume"
        raise InvalidMount(
            f"invalid volume specification: '{spec}': invalid mount config for type \"{kind}\": "
            f"invalid mount path: '{path}' mount path must be absolute"
        )
    clean = "/" + posixpath.normpath(path).lstrip("/")
    if clean == "/":
        kind = "bind" if spec.startswith("/") and ":" in spec else "volume"
        raise InvalidMount(
            f"invalid volume specification: '{spec}': invalid mount config for type \"{kind}\": "
            "invalid specification: destination can't be '/'"
        )
    return clean
