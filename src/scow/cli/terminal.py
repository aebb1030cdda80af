"""The user's terminal: raw mode with a certain way back, its size, and the keys that detach."""

from __future__ import annotations

import os
import termios

from scow.cli.errors import CliError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

DEFAULT_DETACH_KEYS = "ctrl-p,ctrl-q"
CONTROL = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


class RawMode:
    """Puts the terminal `descriptor` in raw mode as long as the context lasts; nothing if it is no terminal.

    Output processing is off too: what a container's terminal sends has its line ends already.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._before: list[object] | None = None

    def __enter__(self) -> RawMode:
        if not os.isatty(self.descriptor):
            return self
        self._before = termios.tcgetattr(self.descriptor)
        mode = termios.tcgetattr(self.descriptor)
        mode[0] &= ~(
            termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
            | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON
        )  # fmt: skip
        mode[1] &= ~termios.OPOST
        mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        mode[6][termios.VMIN] = 1
        mode[6][termios.VTIME] = 0
        termios.tcsetattr(self.descriptor, termios.TCSANOW, mode)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()

    def restore(self) -> None:
        """Put the terminal back; may be called again."""
        if self._before is not None:
            termios.tcsetattr(self.descriptor, termios.TCSADRAIN, self._before)  # type: ignore[arg-type]  # typeshed wants its own alias of this list
            self._before = None


def size_of(descriptor: int) -> tuple[int, int] | None:
    """Rows and columns of a terminal, None if it is none (or has no size)."""
    try:
        size = os.get_terminal_size(descriptor)
    except OSError:
        return None
    return (size.lines, size.columns) if size.lines or size.columns else None


def parse_detach_keys(text: str) -> bytes:
    """Understand "ctrl-p,ctrl-q" or "a,b" as the bytes that the keys send. Raises CliError."""
    keys = bytearray()
    for key in text.split(","):
        if len(key) == 1:
            keys.append(ord(key) & 0xFF)
        elif key.startswith("ctrl-") and len(key) == 6 and ("a" <= key[5] <= "z" or key[5] in CONTROL):
            keys.append(CONTROL[key[5]] if key[5] in CONTROL else ord(key[5]) - 96)
        else:
            raise CliError(f'invalid detach keys ({text}): Unknown character: "{key}"')
    return bytes(keys)


class DetachFilter:
    """Watches typed bytes for the detach keys; a sequence that is not completed is passed on."""

    def __init__(self, keys: bytes) -> None:
        self.keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Return what is to be sent on, and whether the keys were completed."""
        keys = self.keys
        if not keys:
            return data, False
        out = bytearray()
        for byte in data:
            if byte == keys[self._matched]:
                self._matched += 1
                if self._matched == len(keys):
                    return bytes(out), True
                continue
            if self._matched:
                out += keys[: self._matched]
                self._matched = 0
                if byte == keys[0]:
                    self._matched = 1
                    if len(keys) == 1:
                        return bytes(out), True
                    continue
            out.append(byte)
        return bytes(out), False
