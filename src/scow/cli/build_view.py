"""The progress of a build on a terminal: one line for each step that is done, and below it the step at work with the
last lines of its output, drawn anew as it goes. If a step fails, all that was kept of its output stays.
"""

from __future__ import annotations

import re
import time

from scow.cli.progress import show_progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TextIO

SHOWN = 6  # lines of output below the step at work
KEPT = 200  # lines of output that a failed step leaves
STEP = re.compile(r"Step (\d+)/(\d+) : (.*)", re.DOTALL)
MEANINGLESS = re.compile(r" ---> ([0-9a-f]{12}|Running in [0-9a-f]+)?|Removing intermediate container [0-9a-f]+")
CONTROLS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")
DIM, RED, GREEN, YELLOW, PLAIN = "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"


class BuildView:
    """Draws the messages of a build on `out`, a terminal of that many columns."""

    def __init__(self, out: TextIO, columns: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._columns = max(columns, 20)
        self._clock = clock
        self._step = ""
        self._since = 0.0
        self._cached = False
        self._output: list[str] = []
        self._layers: dict[str, str] = {}
        self._rest = ""
        self._drawn = 0

    def show(self, message: dict[str, Any]) -> None:
        """Take one message that is no error."""
        if message.get("stream"):
            *lines, self._rest = (self._rest + str(message["stream"])).split("\n")
            for line in lines:
                self._line(line)
        elif message.get("id") and message.get("status"):
            detail = show_progress(message.get("progressDetail") or {})
            self._layers[str(message["id"])] = f"{message['id']}: {message['status']} {detail}".rstrip()
        elif message.get("status"):
            self._keep(str(message["status"]))
        self._draw()

    def close(self, failed: bool = False) -> None:
        """Leave the terminal as it is to stay."""
        if self._rest:
            self._line(self._rest)
            self._rest = ""
        self._end(failed)
        self._out.flush()

    def _line(self, line: str) -> None:
        if step := STEP.fullmatch(line):
            self._end()
            number, total, text = step.groups()
            self._step = f"[{number:>{len(total)}}/{total}] {' '.join(CONTROLS.sub('', text).split())}"
            self._since = self._clock()
        elif line == " ---> Using cache":
            self._cached = True
        elif line.startswith("[Warning]"):
            self._end()
            self._write(f"{YELLOW}{CONTROLS.sub('', line)}{PLAIN}")
        elif line.startswith("Successfully "):
            self._end()
            self._write(line)
        elif not MEANINGLESS.fullmatch(line):
            self._keep(line)

    def _keep(self, line: str) -> None:
        text = CONTROLS.sub("", line.rstrip("\r").rpartition("\r")[2]).replace("\t", "    ")
        if text or not line:  # not what is left of a colour's end
            self._output.append(text)
            del self._output[:-KEPT]

    def _end(self, failed: bool = False) -> None:
        """Write the step that was at work as one line that stays."""
        self._erase()
        if self._step:
            mark = f"{RED}✗{PLAIN}" if failed else f"{GREEN}✓{PLAIN}"
            took = "cached" if self._cached else f"{self._clock() - self._since:.1f}s"
            self._write(f"{mark} {self._fit(self._step, took)} {DIM}{took}{PLAIN}")
        if failed:
            for line in self._output:
                self._write(f"  {line}")
        self._step, self._cached = "", False
        self._output.clear()
        self._layers.clear()

    def _draw(self) -> None:
        self._erase()
        if not self._step:
            return
        took = f"{self._clock() - self._since:.1f}s"
        lines = [*self._output, *self._layers.values()][-SHOWN:]
        if rest := CONTROLS.sub("", self._rest):
            lines = [*lines, rest][-SHOWN:]
        self._write(f"{YELLOW}•{PLAIN} {self._fit(self._step, took)} {DIM}{took}{PLAIN}")
        for line in lines:
            self._write(f"{DIM}  {line[: self._columns - 3]}{PLAIN}")
        self._drawn = 1 + len(lines)
        self._out.flush()

    def _fit(self, text: str, beside: str) -> str:
        room = self._columns - len(beside) - 4
        return text if len(text) <= room else text[: room - 1] + "…"

    def _erase(self) -> None:
        if self._drawn:
            self._out.write(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0

    def _write(self, line: str) -> None:
        self._out.write(line + "\n")
