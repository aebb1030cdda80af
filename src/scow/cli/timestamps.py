"""Points in time: RFC 3339 from the wire, `--since` from the user, and Go's way to print them."""

from __future__ import annotations

import time

from scow.cli.units import parse_duration


def days_from_civil(year: int, month: int, day: int) -> int:
    """Count the days from 1970-01-01 to a date of the Gregorian calendar."""
    year -= month <= 2
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468


def parse_rfc3339(text: str) -> float:
    """Understand "2024-05-01T10:00:00.5+02:00" as seconds since 1970. Raises ValueError."""
    day, mark, clock = text.replace("t", "T").partition("T")
    if not mark:
        raise ValueError(f"not a time: {text}")
    offset = 0
    zone = clock[8:].lstrip(".0123456789")
    if zone not in ("Z", "z", ""):
        hours, _, minutes = zone[1:].partition(":")
        offset = (int(hours) * 3600 + int(minutes or "0") * 60) * (-1 if zone[0] == "-" else 1)
    year, month, date = (int(part) for part in day.split("-"))
    hour, minute, second = clock[: len(clock) - len(zone)].split(":")
    return days_from_civil(year, month, date) * 86400 + int(hour) * 3600 + int(minute) * 60 + float(second) - offset


def local_time(seconds: float) -> str:
    """Write a time as Go's Time.String does: "2024-05-01 10:00:00 +0200 CEST"."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(seconds))


def local_rfc3339(seconds: float) -> str:
    """Write a time in the local zone: "2024-05-01T10:00:00+02:00"."""
    text = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))
    return text[:-5] + "Z" if text.endswith("+0000") else text[:-2] + ":" + text[-2:]


def parse_point(text: str, now: float) -> str:
    """Understand `--since`: a Unix time, a duration before `now`, or (parts of) a date. Returns "seconds.nanoseconds".

    Raises ValueError.
    """
    try:
        nanoseconds = parse_duration(text)
        moment = round(now * 1e9) - nanoseconds
        return f"{moment // 10**9}.{moment % 10**9:09d}"
    except ValueError:
        pass
    if text.replace(".", "", 1).isdigit() and "-" not in text:
        return text
    day, mark, clock = text.partition("T")
    parts = day.split("-")
    zone = ""
    for sign in ("Z", "+", "-"):
        if sign in clock:
            clock, _, tail = clock.partition(sign)
            zone = sign + tail
            break
    fields = clock.split(":") if mark else []
    if not all(part.isdigit() for part in parts) or len(parts[0]) != 4:
        raise ValueError(f'failed to parse value as time or duration: "{text}"')
    full_day = "-".join([*parts, "01", "01"][:3])
    full = f"{full_day}T{':'.join([*fields, '00', '00', '00'][:3])}"
    if zone:
        seconds = parse_rfc3339(full + zone)
    else:
        whole, _, fraction = full.partition(".")
        seconds = time.mktime(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + float(f"0.{fraction or 0}")
    return f"{int(seconds)}.{round(seconds % 1 * 1e9):09d}"
