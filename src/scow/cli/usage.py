"""The text of `--help`: laid out as docker's is, wrapped to the terminal."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from scow.cli.command import Command
    from scow.cli.flags import Flag

ORPHAN = 5  # columns that a last word may stick out, rather than stand alone on a line


def terminal_width() -> int:
    """Columns to fill: one less than the terminal on stdin has, or than 80."""
    try:
        return (os.get_terminal_size(0).columns or 80) - 1
    except OSError:
        return 79


def _first_line(text: str, width: int) -> tuple[str, str]:
    if width + ORPHAN > len(text):
        return text, ""
    cut = max(text.rfind(blank, 0, width) for blank in " \t\n")
    if cut <= 0:
        return text, ""
    newline = text.rfind("\n", 0, width)
    if 0 < newline < cut:
        cut = newline
    return text[:cut], text[cut + 1 :]


def wrap(text: str, indent: int, columns: int) -> str:
    """Wrap `text` so that it stands at column `indent`; the first line's indent is the caller's."""
    width = columns - indent
    lead = ""
    if width < 24:
        indent, width = 16, columns - 16
        lead = "\n" + " " * indent
    if width < 24:
        return lead + text
    lines: list[str] = []
    while True:
        line, text = _first_line(text, width - ORPHAN)
        lines.extend(line.split("\n"))
        if not text:
            return lead + ("\n" + " " * indent).join(lines)


def flag_lines(flags: Sequence[Flag], columns: int) -> list[str]:
    """Describe flags, sorted by name, in two columns."""
    rows: list[tuple[str, str]] = []
    for flag in sorted(flags, key=lambda flag: flag.name):
        if flag.hidden:
            continue
        left = f"  -{flag.short}, --{flag.name}" if flag.short else f"      --{flag.name}"
        if flag.kind != "bool":
            left += f" {flag.kind}"
        rows.append((left, flag.about + (f" (default {flag.shown})" if flag.shown else "")))
    indent = max((len(left) for left, _ in rows), default=0) + 3
    return [left.ljust(indent) + wrap(about, indent, columns) for left, about in rows]


def command_help(program: str, path: str, aliases: Sequence[str], about: str, command: Command) -> str:
    """The whole help text of one command."""
    lines = [f"Usage:  {program} {path}{command.arguments_text()}", "", command.long or about]
    if len(aliases) > 1:
        lines += ["", "Aliases:", "  " + ", ".join(f"{program} {alias}" for alias in aliases)]
    if any(not flag.hidden for flag in command.flags):
        lines += ["", "Options:", *flag_lines(command.flags, terminal_width())]
    return "\n".join(lines)
