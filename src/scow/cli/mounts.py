"""`--volume`, `--mount` and `--tmpfs`: what is mounted into a container."""

from __future__ import annotations

import os

from scow.cli.errors import CliError
from scow.cli.flags import parse_bool
from scow.cli.units import parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
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


def _bool(key: str, value: str) -> bool:
    try:
        return parse_bool(value)
    except ValueError:
        raise ValueError(f"invalid value for {key}: {value}") from None


def parse_mount(text: str) -> dict[str, Any]:
    """Understand one `--mount`. Raises ValueError."""
    mount: dict[str, Any] = {"Type": "volume"}
    bind: dict[str, Any] = {}
    volume: dict[str, Any] = {}
    tmpfs: dict[str, Any] = {}
    driver: dict[str, Any] = {}
    image: dict[str, Any] = {}
    for field in split_csv(text):
        key, equals, value = field.partition("=")
        key = key.strip().lower()
        if not equals:
            if key not in ("readonly", "ro", "volume-nocopy", "bind-nonrecursive", "bind-create-src"):
                raise ValueError(f"invalid field '{field}' must be a key=value pair")
            value = "true"
        if key == "type":
            mount["Type"] = value.lower()
        elif key in ("source", "src"):
            mount["Source"] = os.path.abspath(value) if value.startswith(".") else value
        elif key in ("target", "dst", "destination"):
            mount["Target"] = value
        elif key in ("readonly", "ro"):
            mount["ReadOnly"] = _bool(key, value)
        elif key == "consistency":
            mount["Consistency"] = value.lower()
        elif key == "bind-propagation":
            bind["Propagation"] = value.lower()
        elif key == "bind-nonrecursive":
            bind["NonRecursive"] = _bool(key, value)
        elif key == "bind-recursive":
            settings = {
                "enabled": {},
                "disabled": {"NonRecursive": True},
                "writable": {"ReadOnlyNonRecursive": True},
                "readonly": {"ReadOnlyForceRecursive": True},
            }
            if value not in settings:
                raise ValueError(
                    f'invalid value for {key}: {value} (must be "enabled", "disabled", "writable", or "readonly")'
                )
            bind.update(settings[value])
        elif key == "bind-create-src":
            bind["CreateMountpoint"] = _bool(key, value)
        elif key == "volume-nocopy":
            volume["NoCopy"] = _bool(key, value)
        elif key == "volume-subpath":
            volume["Subpath"] = value
        elif key == "volume-label":
            name, _, content = value.partition("=")
            volume.setdefault("Labels", {})[name] = content
        elif key == "volume-driver":
            driver["Name"] = value
        elif key == "volume-opt":
            name, _, content = value.partition("=")
            driver.setdefault("Options", {})[name] = content
        elif key == "image-subpath":
            image["Subpath"] = value
        elif key == "tmpfs-size":
            try:
                tmpfs["SizeBytes"] = parse_size(value)
            except ValueError:
                raise ValueError(f"invalid value for {key}: {value}") from None
        elif key == "tmpfs-mode":
            try:
                tmpfs["Mode"] = int(value, 8)
            except ValueError:
                raise ValueError(f"invalid value for {key}: {value}") from None
        else:
            raise ValueError(f"unexpected key '{key}' in '{field}'")
    if driver:
        volume["DriverConfig"] = driver
    kind = mount["Type"]
    if not mount.get("Target"):
        raise ValueError("target is required")
    for options, name, owner in (
        (bind, "BindOptions", "bind"),
        (volume, "VolumeOptions", "volume"),
        (tmpfs, "TmpfsOptions", "tmpfs"),
        (image, "ImageOptions", "image"),
    ):
        if options:
            if kind != owner:
                raise ValueError(f"cannot mix '{owner}-*' options with mount type '{kind}'")
            mount[name] = options
    return mount


def parse_tmpfs(texts: Sequence[str]) -> dict[str, str]:
    """Understand `--tmpfs` values: PATH[:OPTIONS]."""
    return {path: options for path, _, options in (text.partition(":") for text in texts)}
