"""How large a container's log may become, and in how many files it is kept. Options `max-size`, `max-file`, `compress`.

For drivers that send lines elsewhere it is docker's cache for `docker logs`: `cache-max-size` and so on.
"""

from typing import Final

import msgspec

from scow.errors import InvalidArgument
from scow.wire.host_config import LogConfig

DEFAULT_SIZE: Final = 100 << 20
"""Bytes of a file unless `max-size` says otherwise: an unwatched container can't fill the disk. Docker has no limit."""

DEFAULT_FILES: Final = 2
LOCAL_SIZE: Final = 20 << 20
LOCAL_FILES: Final = 5
BACKSTOP: Final = 1 << 30
"""So far beyond its limit conmon drops a log by itself: more than comes between two looks of the engine."""

_TRUE: Final = frozenset(["1", "t", "T", "TRUE", "true", "True"])
_FALSE: Final = frozenset(["0", "f", "F", "FALSE", "false", "False"])
_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class LogLimits(msgspec.Struct, frozen=True):
    """Bytes of one file, None for no limit; how many files there are, the current one included; whether older ones
    are compressed."""

    size: int | None
    files: int
    compress: bool = False

    @property
    def backstop(self) -> int | None:
        """The size at which conmon is to drop the log, if nobody has rotated it."""
        return None if self.size is None else self.size + BACKSTOP


def limits_of(config: LogConfig) -> LogLimits:
    """Read the options of a log driver. Raises InvalidArgument."""
    options = config.config or {}
    cached = config.type not in ("", "json-file", "local", "none")
    local = config.type == "local" or cached
    prefix = "cache-" if cached else ""
    text = options.get(f"{prefix}max-size", "").strip()
    if text == "-1":
        return LogLimits(None, 1)
    size = _size(text) if text else LOCAL_SIZE if local else DEFAULT_SIZE
    count = options.get(f"{prefix}max-file", "").strip()
    compress = options.get(f"{prefix}compress", "")
    compressed = boolean(compress) if compress else local
    if compressed is None:
        raise InvalidArgument(f'strconv.ParseBool: parsing "{compress}": invalid syntax')
    if not count:
        # With a size of the user's own docker keeps one file.
        return LogLimits(size, LOCAL_FILES if local else 1 if text else DEFAULT_FILES, compressed)
    if not (count.isascii() and count.isdigit()):
        raise InvalidArgument(f'strconv.Atoi: parsing "{count}": invalid syntax')
    if int(count) < 1:
        raise InvalidArgument("max-file cannot be less than 1")
    return LogLimits(size, int(count), compressed)


def _size(text: str) -> int:
    size = parse_size(text)
    if size <= 0:
        raise InvalidArgument("max-size must be a positive number")
    return size


def boolean(text: str) -> bool | None:
    """Read a truth value as Go does; None for what is none."""
    return True if text in _TRUE else False if text in _FALSE else None


def parse_size(text: str) -> int:
    """Read bytes with a unit (`10m`). Raises InvalidArgument."""
    number = text.lower().removesuffix("b").rstrip("kmg")
    unit = text.lower().removesuffix("b")[len(number) :]
    try:
        return int(float(number) * _UNITS[unit])
    except (KeyError, ValueError, OverflowError) as error:
        raise InvalidArgument(f"invalid size: '{text}'") from error
