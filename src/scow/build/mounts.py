"""The options of `RUN --mount`. Dockerfile reference, "RUN --mount".

A mount is checked twice: when the file is parsed, so that misspelt options show at once, and when its turn comes, since
values may contain variables.
"""

import csv
from collections.abc import Callable, Mapping
from typing import Final, Literal, cast

import msgspec

from scow.build.errors import DockerfileError, quoted
from scow.build.suggest import nearest

MountType = Literal["bind", "cache", "tmpfs", "secret", "ssh"]
Sharing = Literal["shared", "private", "locked"]

TYPES: Final = ("bind", "cache", "secret", "ssh", "tmpfs")
SHARINGS: Final = ("shared", "private", "locked")
_ALIASES: Final = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly", "rw": "readwrite"}
_ALL: Final = ("type", "from", "source", "target", "readonly", "readwrite", "id", "sharing", "required", "size", "mode")
_KEYS: Final = (*_ALL, "uid", "gid", "env", *_ALIASES)
_ONLY: Final = {
    "sharing": ("cache",),
    "required": ("secret", "ssh"),
    "size": ("tmpfs",),
    "mode": ("cache", "secret", "ssh"),
    "uid": ("cache", "secret", "ssh"),
    "gid": ("cache", "secret", "ssh"),
    "env": ("secret",),
    "from": ("bind", "cache"),
    "id": ("cache", "secret", "ssh"),
}
"""Options that only mounts of some types have."""
_UNITS: Final = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_TRUE: Final = frozenset(["1", "t", "T", "TRUE", "true", "True"])
_FALSE: Final = frozenset(["0", "f", "F", "FALSE", "false", "False"])


class MountFlag(msgspec.Struct, frozen=True):
    """A `--mount` as written: its options in order, with their short names spelt out; None for one without value."""

    options: tuple[tuple[str, str | None], ...]
    text: str

    def option(self, key: str) -> str | None:
        """The last value given for an option, as written."""
        return dict(self.options).get(key)

    @property
    def source_stage(self) -> str:
        """`from=`: the stage, named context or image that is mounted; empty for the build context (or nothing)."""
        return self.option("from") or ""


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """A mount of a RUN step, checked, with its variables replaced."""

    type: MountType
    target: str = ""
    """Where; relative to the working directory if it doesn't start with a slash. Empty: secrets in an environment
    variable, secrets and sockets at their default places."""
    source: str = ""
    source_stage: str = ""
    readonly: bool = False
    id: str = ""
    """Of caches (never empty), secrets (never empty) and agents (`default` unless given)."""
    sharing: Sharing = "shared"
    required: bool = False
    size: int | None = None  # bytes
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    env: str = ""


def parse_mount_flag(text: str) -> MountFlag:
    """Read the value of `--mount`. Raises DockerfileError for what is wrong whatever the variables are."""
    if "\n" in text or "\0" in text:
        raise DockerfileError("invalid mount: a line break", token="--mount")
    try:
        fields = next(csv.reader([text], strict=True), [])
    except (csv.Error, StopIteration) as error:
        raise DockerfileError(f"failed to parse csv mounts: {error}", token=text) from error
    options: list[tuple[str, str | None]] = []
    for field in fields:
        key, equals, value = field.partition("=")
        key = _ALIASES.get(key.strip().lower(), key.strip().lower())
        if key not in _ALL and key not in _KEYS:
            suggestion = nearest(key, _KEYS)
            raise DockerfileError(
                f"unexpected key '{key}' in '{field}'"
                if equals
                else f"invalid field '{field}' must be a key=value pair",
                token=field,
                suggestion=suggestion,
            )
        if not equals and key not in ("readonly", "readwrite", "required"):
            raise DockerfileError(f"invalid field '{field}' must be a key=value pair", token=field)
        if key == "from" and "$" in value.rstrip("$"):
            why = "'from' doesn't support variable expansion, define alias stage instead"
            raise DockerfileError(why, token=field)
        options.append((key, value if equals else None))
    flag = MountFlag(tuple(options), text)
    if not any(value and "$" in value for _, value in options):
        resolve_mount(flag, lambda value: value)
    elif "$" not in (flag.option("type") or ""):
        _check_keys(flag, _type_of(flag.option("type")))
    return flag


def resolve_mount(flag: MountFlag, expand: Callable[[str], str]) -> Mount:
    """The mount that `flag` means once `expand` has replaced variables. Raises DockerfileError."""
    values = {key: None if value is None else expand(value) for key, value in flag.options}
    kind = _type_of(values.get("type"))
    _check_keys(flag, kind)
    target, source, name = values.get("target") or "", values.get("source") or "", values.get("id") or ""
    if kind in ("bind", "cache", "tmpfs") and not target:
        raise DockerfileError(f"invalid {kind} mount: target is required", token=flag.text)
    if kind == "secret":
        name, source = _secret_id(flag, name, source, target), ""
    elif kind == "ssh":
        name = name or "default"
    elif kind == "cache":
        name = name or target
    sharing = values.get("sharing") or "shared"
    if sharing not in SHARINGS:
        raise DockerfileError(
            f"unsupported sharing value {quoted(sharing)}", token=sharing, suggestion=nearest(sharing, SHARINGS)
        )
    return Mount(
        type=kind,
        target=target,
        source=source,
        source_stage=values.get("from") or "",
        readonly=_readonly(flag, values, kind),
        id=name,
        sharing=cast(Sharing, sharing),
        required=_boolean("required", values, default=False),
        size=_size(values.get("size")),
        mode=_number("mode", values, 8),
        uid=_number("uid", values, 10),
        gid=_number("gid", values, 10),
        env=values.get("env") or "",
    )


def _type_of(text: str | None) -> MountType:
    kind = "bind" if text is None else text
    if kind not in TYPES:
        raise DockerfileError(f"unsupported mount type {quoted(kind)}", token=kind, suggestion=nearest(kind, TYPES))
    return cast(MountType, kind)


def _check_keys(flag: MountFlag, kind: str) -> None:
    for key, _ in flag.options:
        if kind not in _ONLY.get(key, TYPES):
            raise DockerfileError(f"unexpected key '{key}' for mount type '{kind}'", token=key)


def _secret_id(flag: MountFlag, name: str, source: str, target: str) -> str:
    if name and source:
        raise DockerfileError("both id and source can't be set on a secret mount", token=flag.text)
    if found := name or source or target.rstrip("/").rpartition("/")[2]:
        return found
    raise DockerfileError("invalid secret mount. one of source, target required", token=flag.text)


def _readonly(flag: MountFlag, values: Mapping[str, str | None], kind: str) -> bool:
    readonly = kind == "bind"
    for key, _ in flag.options:  # the last word counts
        if key in ("readonly", "readwrite"):
            readonly = _boolean(key, values, default=False) is (key == "readonly")
    return readonly


def _boolean(key: str, values: Mapping[str, str | None], *, default: bool) -> bool:
    if key not in values:
        return default
    value = values[key]
    if value is None or value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise DockerfileError(f"invalid value for {key}: {value}", token=value or key)


def _number(key: str, values: Mapping[str, str | None], base: int) -> int | None:
    value = values.get(key)
    if value is None:
        return None
    digits = "01234567" if base == 8 else "0123456789"
    if not value or len(value) > 12 or not all(letter in digits for letter in value) or int(value, base) >= 1 << 32:
        raise DockerfileError(f"invalid value {value} for {key}", token=value or key)
    return int(value, base)


def _size(value: str | None) -> int | None:
    """Bytes, with docker's units: `64m`, `1.5GiB`."""
    if value is None:
        return None
    text = value.strip().lower()
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz ")
    unit = text[len(number) :].strip().removesuffix("ib").removesuffix("b")
    whole, _, fraction = number.partition(".")
    fine = len(number) < 20 and (whole + fraction).isascii() and (whole + fraction).isdigit() and unit in _UNITS
    if not fine:
        raise DockerfileError(f"invalid value for size: {value}", token=value or "size")
    return int(float(number) * _UNITS[unit])
