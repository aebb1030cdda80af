"""The progress of pull and push: lines that move on a terminal, one line for each status elsewhere."""

from __future__ import annotations

import os

from scow.cli.errors import CliError
from scow.cli.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, TextIO

BAR = 50
WIDE = 110  # columns from which there is room for a bar


def show_progress(detail: dict[str, Any], columns: int = 200) -> str:
    """Draw a bar and the numbers; "" if there is nothing to measure."""
    current, total = detail.get("current") or 0, detail.get("total") or 0
    units = detail.get("units") or ""
    if current <= 0 and total <= 0:
        return ""

    def number(value: int) -> str:
        return f"{value}" if units else human_size(value, 4)

    if total <= 0:
        return f"{number(current)} {units}" if units else f"{number(current):>8}"
    bar = ""
    if columns > WIDE:
        done = min(BAR, int(current / total * 100) // 2)
        bar = f"[{'=' * done}>{' ' * (BAR - done)}] "
    if detail.get("hidecounts"):
        return bar
    if current > total:
        return bar + f"{number(current):>8}"
    return bar + f"{number(current):>8}/{number(total)}" + (f" {units}" if units else "")


class ProgressView:
    """Shows a stream of progress messages on `out`. `auxiliary` collects what the messages' `aux` carry."""

    def __init__(self, out: TextIO, terminal: bool) -> None:
        self.out = out
        self.terminal = terminal
        self.auxiliary: list[Any] = []
        self._lines: dict[str, int] = {}

    def show_all(self, messages: Iterable[dict[str, Any]]) -> None:
        """Show messages as they come. Raises CliError when one of them is an error."""
        for message in messages:
            self.show(message)
        self.out.flush()

    def show(self, message: dict[str, Any]) -> None:
        if message.get("aux") is not None:
            self.auxiliary.append(message["aux"])
            return
        error = message.get("errorDetail") or ({"message": message["error"]} if message.get("error") else None)
        if error:
            self.out.flush()
            code = error.get("code")
            raise CliError(str(error.get("message", "")), code if isinstance(code, int) and 0 < code < 126 else 1)
        key = message.get("id") or ""
        up = 0
        if key and message.get("progressDetail") is not None:
            if key not in self._lines:
                self._lines[key] = len(self._lines)
                if self.terminal:
                    self.out.write("\n")
            up = len(self._lines) - self._lines[key]
        else:
            # A line that is not progress ends the block of moving lines above it.
            self._lines = {}
        if not self.terminal:
            self._plain(message, key)
            return
        if up:
            self.out.write(f"\x1b[{up}A")
        self._moving(message, key)
        if key and up:
            self.out.write(f"\x1b[{up}B")
        self.out.flush()

    def _plain(self, message: dict[str, Any], key: str) -> None:
        if show_progress(message.get("progressDetail") or {}):
            return
        if message.get("stream"):
            self.out.write(message["stream"])
        else:
            self.out.write((f"{key}: " if key else "") + f"{message.get('status', '')}\n")
        self.out.flush()

    def _moving(self, message: dict[str, Any], key: str) -> None:
        detail = message.get("progressDetail")
        end = "\n"
        if not message.get("stream") and detail is not None:
            self.out.write("\x1b[2K\r")
            end = "\r"
        if key:
            self.out.write(f"{key}: ")
        if message.get("stream"):
            self.out.write(message["stream"])
        elif detail is not None:
            self.out.write(f"{message.get('status', '')} {show_progress(detail, self._columns())}{end}")
        else:
            self.out.write(f"{message.get('status', '')}{end}")

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self.out.fileno()).columns
        except OSError:
            return 200
