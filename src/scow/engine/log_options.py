"""Log drivers and their options: which there are, and what they may be. dockerd's checks, in its words."""

import contextlib
import os
import re
from collections.abc import Mapping
from typing import Final

from scow.engine.log_limits import boolean, limits_of, parse_size
from scow.errors import InvalidArgument
from scow.runtime.syslog import parse_address, parse_facility, parse_format
from scow.wire.host_config import LogConfig

_COMMON: Final = frozenset(["env", "env-regex", "labels", "labels-regex", "tag"])
_CACHE: Final = ("cache-disabled", "cache-max-size", "cache-max-file", "cache-compress")
_MODE: Final = frozenset(["mode", "max-buffer-size"])

OPTIONS: Final[Mapping[str, frozenset[str] | None]] = {
    "json-file": _COMMON | {"max-file", "max-size", "compress"},
    "local": frozenset(["compress", "max-file", "max-size"]),
    "none": None,  # takes any, and needs none
    "journald": _COMMON,
    "syslog": _COMMON
    | {
        "syslog-address",
        "syslog-facility",
        "syslog-format",
        "syslog-tls-ca-cert",
        "syslog-tls-cert",
        "syslog-tls-key",
        "syslog-tls-skip-verify",
    },
}
"""What each driver understands, besides the delivery mode and the cache that every one has."""

FORWARDED: Final = frozenset(["journald", "syslog"])
"""Drivers whose lines go to another service as well. What they keep here is docker's cache for `docker logs`."""


def check_log_config(config: LogConfig) -> None:
    """Raise InvalidArgument for a driver that there isn't, or an option that it doesn't take."""
    driver, options = config.type or "json-file", config.config or {}
    if driver not in OPTIONS:
        raise InvalidArgument(f"logger: no log driver named '{driver}' is registered")
    _check_mode(options)
    for name in ("cache-disabled", "cache-compress"):
        if options.get(name) and boolean(options[name]) is None:
            raise InvalidArgument(f"invalid value for option {name}: {options[name]}")
    known = OPTIONS[driver]
    if known is None:
        return
    for name in options:
        if name not in known and name not in _MODE and name not in _CACHE:
            words = f"log driver {driver}" if driver == "local" else f"{driver} log driver"
            raise InvalidArgument(f"unknown log opt '{name}' for {words}")
    for name in ("labels-regex", "env-regex"):
        _check_pattern(options.get(name, ""))
    if driver == "syslog":
        _check_syslog(options)
    elif driver != "journald":
        _check_files(config)


def _check_mode(options: Mapping[str, str]) -> None:
    mode, buffer = options.get("mode", ""), options.get("max-buffer-size", "")
    if mode not in ("", "blocking", "non-blocking"):
        raise InvalidArgument(f"logger: logging mode not supported: {mode}")
    if not buffer:
        return
    if mode != "non-blocking":
        raise InvalidArgument("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
    try:
        parse_size(buffer)
    except InvalidArgument as error:
        raise InvalidArgument(f"error parsing option max-buffer-size: {error}") from error


def _check_files(config: LogConfig) -> None:
    options = config.config or {}
    limits = limits_of(config)
    if not limits.compress:
        return
    if config.type == "local" and limits.files < 2:
        raise InvalidArgument("compression cannot be enabled when max file count is 1")
    if config.type != "local" and (limits.files < 2 or "max-size" not in options):
        raise InvalidArgument("compress cannot be true when max-file is less than 2 or max-size is not set")


def _check_pattern(text: str) -> None:
    try:
        re.compile(text)
    except re.error as error:
        raise InvalidArgument(f"error parsing regexp: {error}: `{text}`") from error


def _check_syslog(options: Mapping[str, str]) -> None:
    address = parse_address(options.get("syslog-address", ""))
    if address.path:
        try:
            os.stat(address.path)
        except OSError as error:
            raise InvalidArgument(f"stat {address.path}: {(error.strerror or '').lower()}") from error
    parse_facility(options.get("syslog-facility", ""))
    parse_format(options.get("syslog-format", ""))


def attributes(config: LogConfig, labels: Mapping[str, str], env: list[str]) -> dict[str, str]:
    """Labels and variables that the options choose, by name or pattern: what travels with each line."""
    options = config.config or {}
    found: dict[str, str] = {}
    variables = dict(variable.split("=", 1) for variable in env if "=" in variable)
    for kind, values in (("labels", labels), ("env", variables)):
        chosen = [name.strip() for name in options.get(kind, "").split(",")] if options.get(kind) else []
        found |= {name: values[name] for name in chosen if name in values}
        pattern = options.get(f"{kind}-regex", "")
        if pattern:
            with contextlib.suppress(re.error):
                found |= {name: value for name, value in values.items() if re.search(pattern, name)}
    return found


def keeps_cache(config: LogConfig) -> bool:
    """Whether `docker logs` may read what was written: not with `none`, nor where the cache was switched off.

    docker reads a journal back itself, without a cache: here that is the file, whatever the option says.
    """
    if config.type == "none":
        return False
    return config.type not in FORWARDED - {"journald"} or not boolean((config.config or {}).get("cache-disabled", ""))
