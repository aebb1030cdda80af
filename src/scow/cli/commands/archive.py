"""`scow save` and `scow load`: images as archives."""

from __future__ import annotations

import os
import sys

from scow.cli.command import Command
from scow.cli.errors import CliError
from scow.cli.flags import Flag, Options
from scow.cli.http import HttpError, quote
from scow.cli.jsontext import dumps
from scow.cli.progress import ProgressView

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from scow.cli.session import Session

PIECE = 1 << 20


def save(session: Session, options: Options) -> None:
    """Write images as one archive."""
    output = options.text("output")
    if not output and session.is_terminal(1):
        raise CliError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    folder = os.path.dirname(output)
    if output and not os.path.isdir(folder or "."):
        raise CliError(
            f"failed to save image: invalid output path: directory {folder!r} does not exist".replace("'", '"')
        )
    query = [f"names={quote(name)}" for name in options.args]
    if platform := _platform(session, options):
        query.append(f"platform={quote(platform)}")
    response = session.engine.open("GET", f"/images/get?{'&'.join(query)}")
    if output:
        temporary = os.path.join(folder, f".tmp-{os.path.basename(output)}{os.getpid()}")
        try:
            with open(temporary, "wb") as file:
                response.copy_to(file.fileno())
            os.replace(temporary, output)
        except BaseException as error:
            if os.path.lexists(temporary):
                os.unlink(temporary)
            if isinstance(error, HttpError):
                raise CliError(str(error)) from None
            raise
    else:
        sys.stdout.flush()
        try:
            response.copy_to(1)
        except HttpError as error:
            raise CliError(str(error)) from None
    session.engine.done(response)


def load(session: Session, options: Options) -> None:
    """Load images from an archive or stdin."""
    path = options.text("input")
    if not path and session.is_terminal(0):
        raise CliError("requested load from stdin, but stdin is empty")
    quiet = options.flag("quiet") or not session.is_terminal(1)
    query = {"quiet": "1" if quiet else "0"}
    if platform := _platform(session, options):
        query["platform"] = platform
    headers = {"Content-Type": "application/x-tar"}
    source: BinaryIO = open(path, "rb") if path else sys.stdin.buffer  # noqa: SIM115 - closed below, unless it is stdin
    try:
        response = session.engine.open("POST", "/images/load", query, headers=headers, data=_pieces(source))
    finally:
        if path:
            source.close()
    try:
        ProgressView(sys.stdout, sys.stdout.isatty()).show_all(response.messages())
    except HttpError as error:
        raise CliError(str(error)) from None
    session.engine.done(response)


def _pieces(source: BinaryIO) -> Iterator[bytes]:
    while data := source.read(PIECE):
        yield data


def _platform(session: Session, options: Options) -> str:
    """The platform that was asked for, as JSON, "" if none was. Raises CliError if the engine is too old for it."""
    text = options.text("platform")
    if not text:
        return ""
    if not session.engine.at_least(48):
        raise CliError('"--platform" requires API version 1.48, but the engine supports less')
    words = text.split("/")
    if len(words) < 2 or not all(words):
        raise CliError(f'invalid platform "{text}": expected os/architecture[/variant]')
    return dumps(dict(zip(("os", "architecture", "variant"), words, strict=False)))


PLATFORM = 'only the given platform variant. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")'

COMMANDS = {
    "save": Command(
        save,
        "IMAGE [IMAGE...]",
        (
            Flag("output", "o", "string", "Write to a file, instead of STDOUT"),
            Flag("platform", "", "string", f"Save {PLATFORM}"),
        ),
        1,
        None,
    ),
    "load": Command(
        load,
        "",
        (
            Flag("input", "i", "string", "Read from tar archive file, instead of STDIN"),
            Flag("platform", "", "string", f"Load {PLATFORM}"),
            Flag("quiet", "q", "bool", "Suppress the load output"),
        ),
    ),
}
