"""Values in a query string, read as docker's daemon reads them."""

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from scow.errors import InvalidArgument

Query = Mapping[str, str]
Filters = dict[str, list[str]]

_FALSE: Final = frozenset({"", "0", "no", "false", "none"})
_INTEGER: Final = re.compile(r"[+-]?[0-9]+")
_TIMESTAMP: Final = re.compile(r"(-?[0-9]+)(?:\.([0-9]{1,9})[0-9]*)?")


class BadNumber(InvalidArgument):
    """A parameter should be a whole number, and isn't."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f'invalid value for "{name}": strconv.Atoi: parsing "{text}": invalid syntax')


class BadTimestamp(InvalidArgument):
    """A parameter should be a time, and isn't."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f'invalid value for "{name}": "{text}" is not a timestamp in seconds since the epoch')


class BadFilters(InvalidArgument):
    """The `filters` parameter has neither of the shapes that clients send."""

    def __init__(self) -> None:
        super().__init__("invalid filter")


def boolean(query: Query, name: str, default: bool = False) -> bool:
    """Read a flag: empty, 0, no, false and none are false in any case, all else is true."""
    text = query.get(name)
    return default if text is None else text.strip().lower() not in _FALSE


def optional_integer(query: Query, name: str) -> int | None:
    """Read a whole number, None if it is absent or empty. Raises BadNumber."""
    text = query.get(name, "")
    if text == "":
        return None
    if not _INTEGER.fullmatch(text) or abs(int(text)) >= 1 << 63:
        raise BadNumber(name, text)
    return int(text)


def integer(query: Query, name: str) -> int:
    """Read a whole number that has to be there. Raises BadNumber."""
    value = optional_integer(query, name)
    if value is None:
        raise BadNumber(name, "")
    return value


def timestamp(query: Query, name: str) -> int | None:
    """Read `seconds[.nanoseconds]` as nanoseconds since the epoch, None if absent or 0. Raises BadTimestamp."""
    text = query.get(name, "")
    if text in ("", "0"):
        return None
    parts = _TIMESTAMP.fullmatch(text)
    if parts is None:
        raise BadTimestamp(name, text)
    # Not as a float: that has no room for the last digits of a time of today.
    return int(parts[1]) * 1_000_000_000 + int((parts[2] or "").ljust(9, "0"))


def filters(query: Query, name: str = "filters") -> Filters:
    """Read filters, as `{"k":{"v":true}}` or, from old clients, `{"k":["v"]}`. Raises BadFilters."""
    text = query.get(name, "")
    if not text:
        return {}
    try:
        shape = msgspec.json.decode(text, type=dict[str, dict[str, bool] | list[str] | None])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadFilters from error
    return {key: list(values) for key, values in shape.items() if values}
