"""Durations as Go writes them: `1h30m`, `1.5s`, `300ms`."""

import re
from decimal import Decimal
from typing import Final

_UNITS: Final = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,
    "\u03bcs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PIECE: Final = re.compile(r"([0-9]*)(?:\.([0-9]*))?(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_LONGEST: Final = 60
_MOST: Final = (1 << 63) - 1


def parse_duration(text: str) -> int:
    """Nanoseconds. Raises ValueError in Go's words."""
    rest = text[1:] if text[:1] in ("+", "-") else text
    if rest == "0":
        return 0
    total, at = Decimal(0), 0
    while at < len(rest) <= _LONGEST:
        piece = _PIECE.match(rest, at)
        if piece is None or not (piece[1] or piece[2]):
            break
        total += Decimal(f"{piece[1] or 0}.{piece[2] or 0}") * _UNITS[piece[3]]
        at = piece.end()
    if not rest or at < len(rest) or total > _MOST:
        missing = bool(re.fullmatch(r"[0-9.]*[0-9][0-9.]*", rest))
        raise ValueError(f'time: {"missing unit in" if missing else "invalid"} duration "{text}"')
    return -int(total) if text[0] == "-" else int(total)
