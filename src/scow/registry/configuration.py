"""Reads the configuration: a TOML file, then SCOW_REGISTRY_* of the environment."""

import difflib
import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from scow.registry.checks import check
from scow.registry.settings import Settings, SettingsInvalid, Table

PREFIX: Final = "SCOW_REGISTRY_"
_LINK: Final = re.compile(
    PREFIX + r"(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)\Z"
)
"""What Kubernetes sets in every container of a namespace that has a service of the name scow-registry."""


def read_settings(path: Path | None, environment: Mapping[str, str] | None = None) -> Settings:
    """Read a file, if there is one, and the environment, which wins. Raises SettingsInvalid naming what is wrong."""
    document: dict[str, Any] = {}
    if path is not None:
        try:
            document = tomllib.loads(path.read_bytes().decode())
        except OSError as error:
            raise SettingsInvalid(str(path), error.strerror or str(error)) from error
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise SettingsInvalid(str(path), f"not UTF-8 (at line {line})") from error
        except tomllib.TOMLDecodeError as error:
            raise SettingsInvalid(str(path), str(error)) from error
        _refuse_unknown(document, Settings, "", str(path))
    used = sorted(name for name in environment or {} if name.startswith(PREFIX) and not _LINK.match(name))
    for name in used:
        _override(document, name, (environment or {})[name])
    source = " and ".join([*([str(path)] if path is not None else []), *used]) or "settings"
    try:
        settings = msgspec.convert(document, Settings)
    except msgspec.ValidationError as error:
        raise SettingsInvalid(source, str(error)) from error
    try:
        check(settings)
    except SettingsInvalid as error:
        raise SettingsInvalid(source, str(error)) from error
    return settings


def keys(table: type[Table] = Settings, before: str = "") -> Iterator[tuple[str, Any]]:
    """All keys that are no tables, with dots (`gc.grace_s`; `policies[].keep_last` in a list), and their types."""
    for name, kind in typing.get_type_hints(table, include_extras=True).items():
        inner, many = _table_of(kind)
        if inner is None:
            yield before + name, kind
        else:
            yield from keys(inner, f"{before}{name}{'[]' if many else ''}.")


def lists(table: type[Table] = Settings, before: str = "") -> Iterator[tuple[str, Any]]:
    """All keys that are lists of tables, outside of such lists, and their types."""
    for name, kind in typing.get_type_hints(table, include_extras=True).items():
        inner, many = _table_of(kind)
        if many:
            yield before + name, kind
        elif inner is not None:
            yield from lists(inner, f"{before}{name}.")


def _table_of(kind: Any) -> tuple[type[Table] | None, bool]:
    """The table that a type is or may be, and whether there is a list of them."""
    if isinstance(kind, type) and not isinstance(kind, types.GenericAlias):
        return (kind, False) if issubclass(kind, Table) else (None, False)
    for part in typing.get_args(kind):
        inner, _ = _table_of(part)
        if inner is not None:
            return inner, typing.get_origin(kind) is list
    return None, False


def _refuse_unknown(document: dict[str, Any], table: type[Table], before: str, source: str) -> None:
    known = typing.get_type_hints(table, include_extras=True)
    for name, value in document.items():
        if name not in known:
            raise SettingsInvalid(source, f"unknown key {before}{name}{_nearest(name, known)}")
        inner, _ = _table_of(known[name])
        if inner is not None:
            for number, part in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(part, dict):
                    where = f"{before}{name}{f'[{number}]' if isinstance(value, list) else ''}."
                    _refuse_unknown(part, inner, where, source)


def _nearest(name: str, known: typing.Iterable[str]) -> str:
    found = difflib.get_close_matches(name, known, 1, 0.5)
    return f", did you mean {found[0]}?" if found else f"; known here: {', '.join(sorted(known))}"


def _override(document: dict[str, Any], name: str, text: str) -> None:
    known = (*((key, kind) for key, kind in keys() if "[]" not in key), *lists())
    variables = {PREFIX + key.replace(".", "_").upper(): (key, kind) for key, kind in known}
    if name not in variables:
        raise SettingsInvalid(name, f"unknown variable{_nearest(name, variables)}")
    key, kind = variables[name]
    value = _value(name, text, kind)
    *tables, last = key.split(".")
    for table in tables:
        inner = document.setdefault(table, {})
        if not isinstance(inner, dict):
            return  # a mistake in the file, which is found there
        document = inner
    document[last] = value


def _value(name: str, text: str, kind: Any) -> Any:
    """What a variable says. Its text is not repeated where it may be a secret."""
    if typing.get_origin(kind) in (list, dict):
        table, _ = _table_of(kind)
        try:
            value = tomllib.loads(f"value = {text}")["value"]
            for number, each in enumerate(value if table is not None and isinstance(value, list) else ()):
                if table is not None and isinstance(each, dict):
                    _refuse_unknown(each, table, f"[{number}].", name)
            msgspec.convert(value, kind)
        except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
            raise SettingsInvalid(name, f"not a TOML value like {_example(kind)}: {error}") from error
        return value
    if kind is str or str in typing.get_args(kind):
        return text
    try:
        return msgspec.convert(text.lower() if kind is bool else text, kind, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsInvalid(name, f"{error}: {text[:100]!r}") from error


def _example(kind: Any) -> str:
    if _table_of(kind)[0] is not None:
        return '[{name = "a"}]'
    if typing.get_origin(kind) is list:
        return '["a", "b"]'
    return '{a = ["b"]}' if typing.get_origin(typing.get_args(kind)[1]) is list else '{a = "b"}'
