"""Showing a build while it goes: drawn on a terminal, as docker's lines, as BuildKit's JSON, or not at all."""

from __future__ import annotations

import os
import sys
from threading import Event, Lock, Thread

from scow.cli.build_status import Statuses
from scow.cli.build_view import BuildView
from scow.cli.errors import CliError
from scow.cli.http import HttpError
from scow.cli.jsontext import dumps
from scow.cli.progress import ProgressView

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, TextIO

TICK_S = 0.5


def draws(out: TextIO, progress: str) -> bool:
    """Whether progress of a mode is drawn on `out`."""
    return progress == "tty" or (progress == "auto" and out.isatty() and os.environ.get("TERM") != "dumb")


def show_build(out: TextIO, messages: Iterator[dict[str, Any]], quiet: bool, progress: str) -> dict[str, Any]:
    """Show the progress; what the engine tells of the result. Raises CliError with a failed command's exit code."""
    if quiet:
        return _quietly(messages)
    if progress == "rawjson":
        return _as_json(out, messages)
    if draws(out, progress):
        return _drawn(out, messages)
    made: dict[str, Any] = {}
    view = ProgressView(out, out.isatty())
    try:
        for message in messages:
            made = _made(message) or made
            view.show(message)
    except HttpError as error:
        raise CliError(str(error)) from None
    out.flush()
    return made


def _made(message: dict[str, Any]) -> dict[str, Any] | None:
    found = message.get("aux")
    return found if isinstance(found, dict) and found.get("ID") else None


def _quietly(messages: Iterator[dict[str, Any]]) -> dict[str, Any]:
    """Show nothing, unless it fails: then what the engine has kept."""
    made: dict[str, Any] = {}
    heard: list[str] = []
    view = ProgressView(sys.stderr, False)
    try:
        for message in messages:
            made = _made(message) or made
            if message.get("stream"):
                heard.append(str(message["stream"]))
            elif message.get("error"):
                sys.stderr.write("".join(heard))
                view.show(message)
    except HttpError as error:
        raise CliError(str(error)) from None
    return {"ID": heard[-1].strip() if heard else "", **made}


def _as_json(out: TextIO, messages: Iterator[dict[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    statuses = Statuses()
    view = ProgressView(out, False)
    try:
        for message in messages:
            made = _made(message) or made
            for status in statuses.take(message):
                print(dumps(status), file=out, flush=True)
            if message.get("error"):
                view.show(message)
    except HttpError as error:
        raise CliError(str(error)) from None
    return made


def _drawn(out: TextIO, messages: Iterator[dict[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    statuses, lock, done = Statuses(), Lock(), Event()
    view = BuildView(out, lambda: _size(out), colours=not os.environ.get("NO_COLOR"))
    failure = ProgressView(out, False)

    def tick() -> None:
        while not done.wait(TICK_S):
            with lock:
                view.tick()

    Thread(target=tick, daemon=True).start()
    failed = True
    try:
        for message in messages:
            made = _made(message) or made
            with lock:
                for status in statuses.take(message):
                    view.show(status)
                while statuses.said:
                    view.say(statuses.said.pop(0))
            if message.get("error"):
                failure.show(message)
        failed = False
    except HttpError as error:
        raise CliError(str(error)) from None
    finally:
        done.set()
        with lock:
            view.close(failed)
    return made


def _size(out: TextIO) -> tuple[int, int]:
    try:
        size = os.get_terminal_size(out.fileno())
    except OSError:
        return 80, 24
    return size.columns or 80, size.lines or 24
