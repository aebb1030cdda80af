"""The progress of a build on a terminal: one line for each step that is done, and below them the steps at work with the
last lines of their output, drawn anew as they go. A step that fails leaves all that was kept of its output.
"""

from __future__ import annotations

import re
import time
from base64 import b64decode

from scow.cli.progress import show_progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TextIO

SHOWN = 6  # lines of output below all steps at work
KEPT = 200  # lines of output that a failed step leaves
LINE_LIMIT = 10_000  # characters of a line that are kept: some programs end none
CONTROLS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
COLOUR = re.compile(r"\x1b\[\d*m")
DIM, RED, GREEN, YELLOW, PLAIN = "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"


class _Step:
    """A step at work."""

    def __init__(self, name: str, since: float) -> None:
        self.name = " ".join(CONTROLS.sub("", name).split())
        self.since = since
        self.output: list[str] = []
        self.layers: dict[str, str] = {}
        self._rest = ""

    def hear(self, data: bytes) -> None:
        *lines, rest = (self._rest + data.decode("utf-8", "replace")).split("\n")
        self._rest = rest[-LINE_LIMIT:]
        self.output += [_plain(line) for line in lines]
        del self.output[:-KEPT]

    def lines(self) -> list[str]:
        """All that it wrote, and where its layers are."""
        rest = _plain(self._rest)
        return [*self.output, *([rest] if rest else []), *self.layers.values()]


class BuildView:
    """Draws the statuses of a build on `out`, a terminal whose `size` is asked each time: columns and lines."""

    def __init__(
        self,
        out: TextIO,
        size: Callable[[], tuple[int, int]],
        clock: Callable[[], float] = time.monotonic,
        colours: bool = True,
    ) -> None:
        self._out = out
        self._size = size
        self._clock = clock
        self._colours = colours
        self._steps: dict[str, _Step] = {}
        self._drawn = 0
        self._columns = 80

    def show(self, status: dict[str, Any]) -> None:
        """Take one status."""
        text = ""
        for vertex in status.get("vertexes") or ():
            if not str(vertex.get("name")).startswith("[internal]"):
                text += self._vertex(vertex)
        for log in status.get("logs") or ():
            if step := self._steps.get(str(log.get("vertex"))):
                step.hear(b64decode(log.get("data") or ""))
        for layer in status.get("statuses") or ():
            if step := self._steps.get(str(layer.get("vertex"))):
                detail = show_progress({"current": layer.get("current", 0), "total": layer.get("total", 0)}, 0)
                step.layers[str(layer.get("id"))] = f"{layer.get('id')}: {layer.get('name')} {detail}".rstrip()
        self._draw(text)

    def say(self, line: str) -> None:
        """Write a line that stays."""
        colours = (YELLOW, PLAIN) if line.startswith("[Warning]") else ("", "")
        self._draw(f"{colours[0]}{CONTROLS.sub('', line)}{colours[1]}\n")

    def tick(self) -> None:
        """Draw the times anew."""
        if self._steps:
            self._draw("")

    def close(self, failed: bool = False) -> None:
        """Leave the terminal as it is to stay; if all `failed`, with what steps at work have written."""
        text = "".join(self._ended(step, failed=True) for step in self._steps.values()) if failed else ""
        self._steps.clear()
        self._draw(text)

    def _vertex(self, vertex: dict[str, Any]) -> str:
        """Note a step that begins or ends; what is to stay of one that ended."""
        digest = str(vertex.get("digest"))
        if not vertex.get("completed"):
            self._steps.setdefault(digest, _Step(str(vertex.get("name")), self._clock()))
            return ""
        step = self._steps.pop(digest, None) or _Step(str(vertex.get("name")), self._clock())
        return self._ended(step, cached=bool(vertex.get("cached")), failed=bool(vertex.get("error")))

    def _ended(self, step: _Step, *, cached: bool = False, failed: bool = False) -> str:
        mark = f"{RED}✗{PLAIN}" if failed else f"{GREEN}✓{PLAIN}"
        took = "cached" if cached else f"{self._clock() - step.since:.1f}s"
        lines = [f"{mark} {self._beside(step.name, took)} {DIM}{took}{PLAIN}\n"]
        lines += [f"  {line}\n" for line in step.lines()] if failed else []
        return "".join(lines)

    def _draw(self, stays: str) -> None:
        """Write what is to stay above the steps at work, and these anew, in one go: terminals flicker less."""
        text = f"\r\x1b[{self._drawn}A\x1b[J" if self._drawn else ""
        columns, rows = self._size()
        self._columns = max(columns, 20)
        room = max(rows - 2, 1)
        steps = list(self._steps.values())[-room:]
        below = max(0, min(SHOWN, room - len(steps)))
        share = max(1, below // len(steps)) if steps and below else 0
        drawn = 0
        text += stays
        for step in steps:
            took = f"{self._clock() - step.since:.1f}s"
            text += f"{YELLOW}•{PLAIN} {self._beside(step.name, took)} {DIM}{took}{PLAIN}\n"
            lines = step.lines()[-min(share, below) :] if share and below else []
            below -= len(lines)
            text += "".join(f"{DIM}  {cut(line, self._columns - 3)}{PLAIN}\n" for line in lines)
            drawn += 1 + len(lines)
        self._drawn = drawn
        self._out.write(text if self._colours else COLOUR.sub("", text))
        self._out.flush()

    def _beside(self, text: str, took: str) -> str:
        """A step's name, so that its time fits beside it."""
        room = self._columns - len(took) - 4
        return text if width(text) <= room else cut(text, room - 1) + "…"


def _plain(line: str) -> str:
    """A line as it can be shown: without colours, and of what was written over what the last was."""
    return CONTROLS.sub("", line.rstrip("\r").rpartition("\r")[2]).replace("\t", "    ")


def width(text: str) -> int:
    """The columns that a text takes on a terminal."""
    return len(text) if text.isascii() else sum(map(_width, text))


def cut(text: str, columns: int) -> str:
    """As much of a text as fits into so many columns."""
    if text.isascii() or len(text) * 2 <= columns:
        return text[: max(columns, 0)]
    taken = 0
    for number, letter in enumerate(text):
        taken += _width(letter)
        if taken > columns:
            return text[:number]
    return text


def _width(letter: str) -> int:
    from unicodedata import combining, east_asian_width

    if combining(letter) or letter in "\u200b\u200d\ufe0f":
        return 0
    return 2 if east_asian_width(letter) in "WF" else 1
