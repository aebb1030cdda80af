"""Moments that users write in filters: seconds since the epoch, RFC 3339, or how long ago as Go writes durations."""

import re
from datetime import UTC, datetime
from typing import Final

from scow.errors import InvalidArgument

_UNITS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART: Final = re.compile(r"([0-9]*\.?[0-9]+)(h|ms|m|s|us|µs|ns)")
_DURATION: Final = re.compile(rf"(?:{_PART.pattern})+")


def parse_moment(text: str, now: float) -> float:
    """Return seconds since the epoch; a duration counts back from `now`. Raises InvalidArgument."""
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return float(text)
    if _DURATION.fullmatch(text):
        return now - sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidArgument(f"invalid time: {text!r}: give RFC 3339, seconds since the epoch, or 10m") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
