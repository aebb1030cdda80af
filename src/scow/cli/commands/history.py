"""`scow history`: the steps that made an image."""

from __future__ import annotations

import time

from scow.cli.command import Command
from scow.cli.commands.ps import ellipsis
from scow.cli.flags import Flag, Options
from scow.cli.http import quote
from scow.cli.jsontext import dumps
from scow.cli.listing import format_flag, print_listing
from scow.cli.timestamps import local_rfc3339
from scow.cli.units import human_duration, human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from scow.cli.session import Session


def history(session: Session, options: Options) -> None:
    """Show the history of an image."""
    trunc, human = not options.flag("no-trunc"), options.flag("human")
    now = time.time()
    query = {}
    if options.text("platform"):
        words = options.text("platform").split("/")
        query["platform"] = dumps(dict(zip(("os", "architecture", "variant"), words, strict=False)))
    items = session.engine.get(f"/images/{quote(options.args[0], '/:@')}/history", query) or []

    def identifier(item: dict[str, Any]) -> str:
        return str(item["Id"]).removeprefix("sha256:")[:12] if trunc else str(item["Id"])

    def created_by(item: dict[str, Any]) -> str:
        text = (item.get("CreatedBy") or "").replace("\t", " ")
        return ellipsis(text, 45) if trunc else text

    def since(item: dict[str, Any]) -> str:
        if item["Created"] <= -62135596800:
            return "N/A"
        return human_duration(now - item["Created"]) + " ago" if human else local_rfc3339(item["Created"])

    fields: dict[str, Any] = {
        "ID": ("IMAGE", identifier),
        "CreatedAt": ("CREATED AT", lambda item: local_rfc3339(item["Created"])),
        "CreatedSince": ("CREATED", since),
        "CreatedBy": ("CREATED BY", created_by),
        "Size": ("SIZE", lambda item: human_size(item["Size"]) if human else str(item["Size"])),
        "Comment": ("COMMENT", lambda item: item.get("Comment") or ""),
    }
    columns = ("ID", "CreatedSince" if human else "CreatedAt", "CreatedBy", "Size", "Comment")
    quiet = "ID" if options.flag("quiet") else ""
    print_listing(items, fields, columns, options.text("format"), "image.historyContext", quiet)


COMMANDS = {
    "history": Command(
        history,
        "IMAGE",
        (
            format_flag(),
            Flag("human", "H", "bool", "Print sizes and dates in human readable format", default=True, shown="true"),
            Flag("no-trunc", "", "bool", "Don't truncate output"),
            Flag(
                "platform",
                "",
                "string",
                'Show history for the given platform. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")',
            ),
            Flag("quiet", "q", "bool", "Only show image IDs"),
        ),
        1,
        1,
    )
}
