"""`scow logs`: what a container has written."""

from __future__ import annotations

import sys
import time

from scow.cli.command import Command
from scow.cli.errors import CliError
from scow.cli.flags import Flag, Options
from scow.cli.http import HttpError, quote
from scow.cli.pump import FrameReader, write_all
from scow.cli.timestamps import parse_point

TYPE_CHECKING = False
if TYPE_CHECKING:
    from scow.cli.session import Session


def logs(session: Session, options: Options) -> None:
    """Print a container's log, and follow it if asked."""
    container = options.args[0]
    details = session.engine.get(f"/containers/{quote(container)}/json")
    query = {"stdout": "1", "stderr": "1", "tail": options.text("tail")}
    for name in ("since", "until"):
        if options.text(name):
            try:
                query[name] = parse_point(options.text(name), time.time())
            except ValueError as error:
                raise CliError(f'invalid value for "{name}": {error}') from None
    for name in ("timestamps", "details", "follow"):
        if options.flag(name):
            query[name] = "1"
    sys.stdout.flush()
    response = session.engine.open("GET", f"/containers/{details['Id']}/logs", query)
    frames = FrameReader(lambda stream, data: write_all(2 if stream == 2 else 1, data))
    raw = bool(details["Config"].get("Tty"))
    try:
        for piece in response.pieces():
            if raw:
                write_all(1, piece)
            else:
                frames.feed(piece)
    except HttpError as error:
        raise CliError(str(error)) from None
    session.engine.done(response)


COMMANDS = {
    "logs": Command(
        logs,
        "CONTAINER",
        (
            Flag("details", "", "bool", "Show extra details provided to logs"),
            Flag("follow", "f", "bool", "Follow log output"),
            Flag(
                "since",
                "",
                "string",
                'Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)',
            ),
            Flag(
                "tail", "n", "string", "Number of lines to show from the end of the logs", default="all", shown='"all"'
            ),
            Flag("timestamps", "t", "bool", "Show timestamps"),
            Flag(
                "until",
                "",
                "string",
                'Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)',
            ),
        ),
        1,
        1,
    )
}
