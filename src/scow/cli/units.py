"""Sizes, durations and ages in the words that docker's users know."""

from __future__ import annotations

DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")
SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def human_size(size: float, precision: int = 3) -> str:
    """Write bytes in powers of 1000: 13336 is "13.3kB"."""
    step = 0
    while size >= 1000 and step < len(DECIMAL) - 1:
        size /= 1000
        step += 1
    return f"{size:.{precision}g}{DECIMAL[step]}"


def bytes_size(size: float) -> str:
    """Write bytes in powers of 1024: 2048 is "2KiB"."""
    step = 0
    while size >= 1024 and step < len(BINARY) - 1:
        size /= 1024
        step += 1
    return f"{size:.4g}{BINARY[step]}"


def parse_size(text: str) -> int:
    """Understand a size in bytes ("64m", "1.5g", "1024"); units are powers of 1024. Raises ValueError."""
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = text[len(digits) :].strip().lower()
    try:
        number = float(digits)
        if not digits or digits[0] not in "0123456789." or not digits.replace(".", "", 1).isdigit():
            raise ValueError
    except ValueError:
        raise ValueError(f"invalid size: '{text}'") from None
    unit = unit.removesuffix("b").removesuffix("i") if unit != "b" else ""
    if unit and unit not in "kmgtp":
        raise ValueError(f"invalid suffix: '{text[len(digits) :].strip()}'")
    return int(number * 1024 ** (" kmgtp".index(unit) if unit else 0))


def human_duration(seconds: float) -> str:
    """Write a duration roughly: "2 minutes", "About an hour"."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    minutes = whole // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{int(seconds / 3600) // 24 // 365} years"


def parse_duration(text: str) -> int:
    """Understand a Go duration ("1m30s", "1.5h", "100ms") in nanoseconds. Raises ValueError in Go's words."""
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0
    total = 0.0
    while rest:
        digits = 0
        while digits < len(rest) and rest[digits] in "0123456789.":
            digits += 1
        letters = digits
        while letters < len(rest) and rest[letters] not in "0123456789.":
            letters += 1
        if not digits or rest[:digits].count(".") > 1 or rest[:digits] == ".":
            raise ValueError(f'time: invalid duration "{text}"')
        unit = rest[digits:letters]
        if not unit:
            raise ValueError(f'time: missing unit in duration "{text}"')
        if unit not in SECONDS:
            raise ValueError(f'time: unknown unit "{unit}" in duration "{text}"')
        total += float(rest[:digits]) * SECONDS[unit]
        rest = rest[letters:]
    if not text.lstrip("+-"):
        raise ValueError(f'time: invalid duration "{text}"')
    nanoseconds = round(total * 1e9)
    return -nanoseconds if text.startswith("-") else nanoseconds
