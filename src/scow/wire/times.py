"""Instants as docker writes them: RFC 3339 with as many digits of the second's fraction as there are, in UTC."""

from datetime import datetime
from typing import Final

NEVER: Final = "0001-01-01T00:00:00Z"
"""Go's zero time: what an instant that hasn't come yet looks like on the wire."""


def format_time(time_ns: int) -> str:
    """Write an instant given in nanoseconds since the epoch, as Go's RFC3339Nano does."""
    seconds, nanos = divmod(time_ns, 1_000_000_000)
    days, rest = divmod(seconds, 86_400)
    date = datetime.fromordinal(719_163 + days)
    fraction = f".{nanos:09d}".rstrip("0") if nanos else ""
    return (
        f"{date.year:04d}-{date.month:02d}-{date.day:02d}T"
        f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}{fraction}Z"
    )


def format_datetime(moment: datetime | None) -> str:
    """Write an aware datetime, or NEVER for None."""
    if moment is None:
        return NEVER
    whole = int(moment.replace(microsecond=0).timestamp())
    return format_time(whole * 1_000_000_000 + moment.microsecond * 1_000)
