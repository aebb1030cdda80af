"""JSON by the interpreter's C scanner, without the `json` package: that imports `re`, a third of the start-up time."""

from __future__ import annotations

import _json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Rules:
    """What the C scanner asks its context for."""

    strict = False
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float


_scan = _json.make_scanner(_Rules)  # type: ignore[arg-type]  # any object with these attributes will do
_quote = _json.encode_basestring


def loads(text: str | bytes | bytearray) -> Any:
    """Decode one JSON value. Raises ValueError."""
    if not isinstance(text, str):
        text = text.decode("utf-8", "replace")
    text = text.strip()
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        raise ValueError("no JSON value") from None
    if end != len(text):
        raise ValueError(f"text after the JSON value, at {end}")
    return value


def dumps(value: object, sort: bool = False) -> str:
    """Encode without blanks, as Go does. Keys keep their order unless `sort`."""
    if isinstance(value, str):
        return str(_quote(value))
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e21 else repr(value)
    if isinstance(value, dict):
        items = sorted(value.items()) if sort else value.items()
        return "{" + ",".join(f"{_quote(str(key))}:{dumps(item, sort)}" for key, item in items) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(dumps(item, sort) for item in value) + "]"
    raise TypeError(f"{type(value).__name__} has no JSON form")


def indent(text: str, prefix: str = "", step: str = "    ") -> str:
    """Lay out JSON text on lines without touching its values, as Go's json.Indent does."""
    import re

    out: list[str] = []
    depth = 0
    after_open = False
    for token in re.findall(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s"{}\[\],:]+', text):
        if token in "}]":
            depth -= 1
            if not after_open:
                out.append("\n" + prefix + step * depth)
            out.append(token)
            after_open = False
            continue
        if after_open:
            out.append("\n" + prefix + step * depth)
            after_open = False
        if token in "{[":
            out.append(token)
            depth += 1
            after_open = True
        elif token == ",":
            out.append(",\n" + prefix + step * depth)
        elif token == ":":
            out.append(": ")
        else:
            out.append(token)
    return "".join(out)
