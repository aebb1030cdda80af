"""`scow pull` and `scow push`: images from and to a registry."""

from __future__ import annotations

import sys

from scow.cli.command import Command
from scow.cli.errors import CliError
from scow.cli.flags import Flag, Options
from scow.cli.http import HttpError, quote
from scow.cli.jsontext import dumps
from scow.cli.names import parse_name
from scow.cli.progress import ProgressView
from scow.cli.pulling import pull as pull_image
from scow.cli.pulling import registry_header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from scow.cli.session import Session


def pull(session: Session, options: Options) -> None:
    """Pull an image, or all tags of a repository."""
    every, quiet = options.flag("all-tags"), options.flag("quiet")
    name = parse_name(options.args[0])
    if every and (name.tag or name.digest):
        raise CliError("tag can't be used with --all-tags/-a")
    if not every and not name.tag and not name.digest:
        name = parse_name(options.args[0], default_tag=True)
        if not quiet:
            session.print(f"Using default tag: {name.tag}")
    sys.stdout.flush()
    platform = options.text("platform") or session.environment.get("DOCKER_DEFAULT_PLATFORM", "")
    if options.flag("all-platforms") and options.changed("platform"):
        raise CliError("conflicting options: cannot specify both --platform and --all-platforms")
    pull_image(session, name, sys.stdout, platform, quiet, every, options.flag("all-platforms"))
    session.print(str(name))


def push(session: Session, options: Options) -> None:
    """Push an image, or all tags of a repository."""
    every, quiet = options.flag("all-tags"), options.flag("quiet")
    name = parse_name(options.args[0])
    if every and (name.tag or name.digest):
        raise CliError("tag can't be used with --all-tags/-a")
    query: dict[str, str] = {}
    if not every:
        if not name.tag and not name.digest:
            name = parse_name(options.args[0], default_tag=True)
            if not quiet:
                session.print(f"Using default tag: {name.tag}")
        query["tag"] = name.tag or name.digest
    if options.text("platform"):
        words = options.text("platform").split("/")
        query["platform"] = dumps(dict(zip(("os", "architecture", "variant"), words, strict=False)))
    sys.stdout.flush()
    response = session.engine.open(
        "POST", f"/images/{quote(name.full, '/:')}/push", query, headers=registry_header(session, name)
    )
    try:
        if quiet:
            for message in response.messages():
                if message.get("error"):
                    raise CliError(str(message["error"]))
            session.print(str(name))
        else:
            ProgressView(sys.stdout, sys.stdout.isatty()).show_all(response.messages())
    except HttpError as error:
        raise CliError(str(error)) from None
    session.engine.done(response)


TRUST = Flag("disable-content-trust", "", "bool", "Skip image verification", default=True, shown="true")

COMMANDS = {
    "pull": Command(
        pull,
        "NAME[:TAG|@DIGEST]",
        (
            Flag("all-platforms", "", "bool", "Keep a multi-platform image whole, to push or save it so"),
            Flag("all-tags", "a", "bool", "Download all tagged images in the repository"),
            TRUST,
            Flag("platform", "", "string", "Set platform if server is multi-platform capable"),
            Flag("quiet", "q", "bool", "Suppress verbose output"),
        ),
        1,
        1,
    ),
    "push": Command(
        push,
        "NAME[:TAG]",
        (
            Flag("all-tags", "a", "bool", "Push all tags of an image to the repository"),
            Flag("disable-content-trust", "", "bool", "Skip image signing", default=True, shown="true"),
            Flag(
                "platform", "", "string", "Push a platform-specific manifest as a single-platform image to the registry"
            ),
            Flag("quiet", "q", "bool", "Suppress verbose output"),
        ),
        1,
        1,
    ),
}
