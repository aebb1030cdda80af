"""When something is done again: `every 6h`, or five fields as of cron, in UTC. Pure."""

import calendar
import re
from datetime import UTC, datetime, timedelta
from typing import Final

from scow.registry.settings import SettingsInvalid

_EVERY: Final = re.compile(r"every\s+(\d{1,6})\s*([smhd])\Z")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_NAMES: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
}
_FIELDS: Final = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
_PART: Final = re.compile(r"(?:(\*)|(\d{1,2})(?:-(\d{1,2}))?)(?:/(\d{1,2}))?\Z")
_WORDS: Final = {
    **{name.lower(): str(number) for number, name in enumerate(calendar.month_abbr) if name},
    **{name: str(number) for number, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))},
}
_YEARS: Final = 8
"""So far apart are two 29ths of February at most."""


class Schedule:
    """Says when the next time is."""

    def __init__(self, text: str, where: str) -> None:
        """Raises SettingsInvalid."""
        self._every: timedelta | None = None
        text = " ".join(text.lower().split())
        if (match := _EVERY.match(text)) is not None and int(match[1]):
            self._every = timedelta(seconds=int(match[1]) * _UNITS[match[2]])
            return
        fields = _NAMES.get(text, text).split(" ")
        if len(fields) != len(_FIELDS):
            raise SettingsInvalid(where, f"{text!r} is neither `every 6h` nor minute hour day month weekday")
        parsed = [_field(field, *names, where) for field, names in zip(fields, _FIELDS, strict=True)]
        self._minutes, self._hours, self._days, self._months, weekdays = parsed
        self._weekdays = {day % 7 for day in weekdays}  # 0 and 7 are Sunday
        # As cron has it: if both are restricted, either will do.
        self._either = fields[2] != "*" and fields[4] != "*"
        if self.next(datetime(2024, 1, 1, tzinfo=UTC)) is None:
            raise SettingsInvalid(where, f"{text!r} never comes")

    @property
    def is_fixed(self) -> bool:
        """Whether its times are those of the clock, whenever it was done last."""
        return self._every is None

    def next(self, after: datetime) -> datetime | None:
        """The first time after `after` (aware, UTC); None if there is none."""
        if self._every is not None:
            return after + self._every
        moment = after.replace(second=0, microsecond=0) + timedelta(minutes=1)
        last = after.year + _YEARS
        while moment.year <= last:
            if moment.month not in self._months:
                first = moment.replace(day=1, hour=0, minute=0)
                moment = (first + timedelta(days=32)).replace(day=1)
            elif not self._is_day(moment):
                moment = moment.replace(hour=0, minute=0) + timedelta(days=1)
            elif moment.hour not in self._hours:
                moment = moment.replace(minute=0) + timedelta(hours=1)
            elif moment.minute not in self._minutes:
                moment += timedelta(minutes=1)
            else:
                return moment
        return None

    def _is_day(self, moment: datetime) -> bool:
        day, weekday = moment.day in self._days, moment.isoweekday() % 7 in self._weekdays
        return day or weekday if self._either else day and weekday


def _field(text: str, name: str, low: int, high: int, where: str) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        match = _PART.match(_WORDS.get(part, part))
        first, last, step = low, high, 1
        if match is not None:
            step = int(match[4] or 1)
            if not match[1]:
                first = int(match[2])
                last = int(match[3]) if match[3] else high if match[4] else first
        if match is None or not (low <= first <= last <= high) or not step:
            raise SettingsInvalid(where, f"{part!r} is no {name}")
        found.update(range(first, last + 1, step))
    return found
