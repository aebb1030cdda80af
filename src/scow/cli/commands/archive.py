"""`scow save` and `scow load`: images as archives."""

from __future__ import annotations

import sys

from scow.cli.command import Command
from scow.cli.errors import CliError
from scow.cli.flags import Flag, Options
from scow.cli.http import HttpError, quote
from scow.cli.jsontext import dumps
from scow.cli.progress import ProgressView
from scow.cli.tarfiles import check_output, opened, pieces, write_output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from scow.cli.session import Session


def save(session: Session, options: Options) -> None:
    """Write images as one archive."""
    output = options.text("output")
    check_output(session, output, "save image")
    query = [f"names={quote(name)}" for name in options.args]
    if platform := _platform(session, options):
        query.append(f"platform={quote(platform)}")
    response = session.engine.open("GET", f"/images/get?{'&'.join(query)}")
    write_output(response, output, "save image")
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
    with opened(path or "-") as source:
        response = session.engine.open("POST", "/images/load", query, headers=headers, data=pieces(source))
    try:
        ProgressView(sys.stdout, sys.stdout.isatty()).show_all(response.messages())
    except HttpError as error:
        raise CliError(str(error)) from None
    session.engine.done(response)


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
