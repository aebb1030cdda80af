"""`--volume`, `--mount` and `--tmpfs`: what is mounted into a container."""

from __future__ import annotations

import os

from scow.cli.errors import CliError
from scow.cli.flags import parse_bool
from scow.cli.units import parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any


def parse_volumes(texts: Sequence[str]) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Split `--volume` values into binds and anonymous volumes. A relative source becomes an absolute path."""
    binds: list[str] = []
    anonymous: dict[str, dict[str, str]] = {}
    for text in texts:
        parts = text.split(":")
        if len(parts) == 1:
            if not text:
                raise CliError("invalid empty volume spec")
            anonymous[text] = {}
            continue
        if len(parts) > 3 or not parts[1]:
            raise CliError(f"invalid volume specification: '{text}'")
        if parts[0].startswith("."):
            parts[0] = os.path.abspath(parts[0])
        binds.append(":".join(parts))
    return binds, anonymous


def split_csv(text: str) -> list[str]:
    """Split a line of comma-separated values; a field may be in double quotes."""
    fields: list[str] = []
    field, quoted = "", False
    for letter in text:
        if letter == '"':
            quoted = not quoted
        elif letter == "," and not quoted:
            fields.append(field)
            field = ""
        else:
            field += letter
    return [*fields, field]


def _octal(text: str) -> int:
    return int(text, 8)


def _place(text: str) -> str:
    return os.path.abspath(text) if text.startswith(".") else text


# Where each key goes: the section of the mount, the field there, and how its value is read.
_FIELDS: dict[str, tuple[str, str, Callable[[str], object]]] = {
    "type": ("", "Type", str.lower),
    "source": ("", "Source", _place),
    "src": ("", "Source", _place),
    "target": ("", "Target", str),
    "dst": ("", "Target", str),
    "destination": ("", "Target", str),
    "readonly": ("", "ReadOnly", parse_bool),
    "ro": ("", "ReadOnly", parse_bool),
    "consistency": ("", "Consistency", str.lower),
    "bind-propagation": ("bind", "Propagation", str.lower),
    "bind-nonrecursive": ("bind", "NonRecursive", parse_bool),
    "bind-create-src": ("bind", "CreateMountpoint", parse_bool),
    "volume-nocopy": ("volume", "NoCopy", parse_bool),
    "volume-subpath": ("volume", "Subpath", str),
    "volume-driver": ("driver", "Name", str),
    "image-subpath": ("image", "Subpath", str),
    "tmpfs-size": ("tmpfs", "SizeBytes", parse_size),
    "tmpfs-mode": ("tmpfs", "Mode", _octal),
}
# Keys that may be given several times, each with a NAME=VALUE.
_PAIRS = {"volume-label": ("volume", "Labels"), "volume-opt": ("driver", "Options")}
_RECURSIVE: dict[str, dict[str, bool]] = {
    "enabled": {},
    "disabled": {"NonRecursive": True},
    "writable": {"ReadOnlyNonRecursive": True},
    "readonly": {"ReadOnlyForceRecursive": True},
}
_SWITCHES = ("readonly", "ro", "volume-nocopy", "bind-nonrecursive", "bind-create-src")
_OPTIONS = {"bind": "BindOptions", "volume": "VolumeOptions", "tmpfs": "TmpfsOptions", "image": "ImageOptions"}


def parse_mount(text: str) -> dict[str, Any]:
    """Understand one `--mount`. Raises ValueError."""
    mount: dict[str, Any] = {"Type": "volume"}
    sections: dict[str, dict[str, Any]] = {"": mount, "driver": {}, **{kind: {} for kind in _OPTIONS}}
    for field in split_csv(text):
        key, equals, value = field.partition("=")
        key = key.strip().lower()
        if not equals:
            if key not in _SWITCHES:
                raise ValueError(f"invalid field '{field}' must be a key=value pair")
            value = "true"
        if key in _FIELDS:
            section, name, convert = _FIELDS[key]
            try:
                sections[section][name] = convert(value)
            except ValueError:
                raise ValueError(f"invalid value for {key}: {value}") from None
        elif key in _PAIRS:
            section, name = _PAIRS[key]
            label, _, content = value.partition("=")
            sections[section].setdefault(name, {})[label] = content
        elif key == "bind-recursive":
            if value not in _RECURSIVE:
                raise ValueError(
                    f'invalid value for {key}: {value} (must be "enabled", "disabled", "writable", or "readonly")'
                )
            sections["bind"].update(_RECURSIVE[value])
        else:
            raise ValueError(f"unexpected key '{key}' in '{field}'")
    if sections["driver"]:
        sections["volume"]["DriverConfig"] = sections["driver"]
    if not mount.get("Target"):
        raise ValueError("target is required")
    for kind, name in _OPTIONS.items():
        if sections[kind]:
            if kind != mount["Type"]:
                raise ValueError(f"cannot mix '{kind}-*' options with mount type '{mount['Type']}'")
            mount[name] = sections[kind]
    return mount


def parse_tmpfs(texts: Sequence[str]) -> dict[str, str]:
    """Understand `--tmpfs` values: PATH[:OPTIONS]."""
    return {path: options for path, _, options in (text.partition(":") for text in texts)}
