"""`scow commit` and `scow import`: images from containers and from tars."""

from __future__ import annotations

import sys

from scow.cli.command import Command
from scow.cli.errors import CliError
from scow.cli.flags import Flag, Options
from scow.cli.http import HttpError, quote
from scow.cli.names import parse_name
from scow.cli.progress import ProgressView
from scow.cli.tarfiles import opened, pieces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from scow.cli.session import Session


def commit(session: Session, options: Options) -> None:
    """Make an image of a container, and print its ID."""
    query = {"container": options.args[0], "author": options.text("author"), "comment": options.text("message")}
    if len(options.args) > 1:
        name = parse_name(options.args[1], default_tag=True)
        if name.digest:
            raise CliError("refusing to create a tag with a digest reference")
        query |= {"repo": name.full, "tag": name.tag}
    if not options.flag("pause") or options.flag("no-pause"):
        query["pause"] = "0"
    words = [f"{key}={quote(value)}" for key, value in query.items()]
    words += [f"changes={quote(change)}" for change in options.texts("change")]
    answer = session.engine.call("POST", f"/commit?{'&'.join(words)}")
    session.print(answer["Id"])


def import_image(session: Session, options: Options) -> None:
    """Make an image of a file, of stdin, or of what the engine finds at a URL."""
    source, name = options.args[0], options.args[1] if len(options.args) > 1 else ""
    if name:
        parse_name(name)
    remote = source.startswith(("http://", "https://"))
    words = [f"fromSrc={quote(source) if remote else '-'}", f"repo={quote(name)}"]
    words += [f"message={quote(options.text('message'))}"] if options.text("message") else []
    words += [f"platform={quote(options.text('platform'))}"] if options.text("platform") else []
    words += [f"changes={quote(change)}" for change in options.texts("change")]
    path = f"/images/create?{'&'.join(words)}"
    sys.stdout.flush()
    if remote:
        response = session.engine.open("POST", path)
    else:
        headers = {"Content-Type": "application/x-tar"}
        with opened(source) as file:
            response = session.engine.open("POST", path, headers=headers, data=pieces(file))
    try:
        ProgressView(sys.stdout, sys.stdout.isatty()).show_all(response.messages())
    except HttpError as error:
        raise CliError(str(error)) from None
    session.engine.done(response)


CHANGE = Flag("change", "c", "list", "Apply Dockerfile instruction to the created image")

COMMANDS = {
    "commit": Command(
        commit,
        "CONTAINER [REPOSITORY[:TAG]]",
        (
            Flag("author", "a", "string", 'Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")'),
            CHANGE,
            Flag("message", "m", "string", "Commit message"),
            Flag("no-pause", "", "bool", "Disable pausing container during commit"),
            Flag("pause", "p", "bool", "Pause container during commit", default=True, shown="true"),
        ),
        1,
        2,
    ),
    "import": Command(
        import_image,
        "file|URL|- [REPOSITORY[:TAG]]",
        (
            CHANGE,
            Flag("message", "m", "string", "Set commit message for imported image"),
            Flag("platform", "", "string", "Set platform if server is multi-platform capable"),
        ),
        1,
        2,
    ),
}
