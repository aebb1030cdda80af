"""`scow search`: repositories in a registry."""

from __future__ import annotations

from scow.cli.command import Command
from scow.cli.errors import CliError
from scow.cli.flags import Flag, Options
from scow.cli.listing import encode_filters, filter_flag, format_flag, print_listing
from scow.cli.names import parse_name
from scow.cli.pulling import registry_header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from scow.cli.session import Session

WIDTH = 45


def search(session: Session, options: Options) -> None:
    """Search for a word."""
    term = options.args[0]
    query = {"term": term}
    limit = options.number("limit")
    if limit:
        query["limit"] = str(limit)
    if encoded := encode_filters(options.texts("filter")):
        query["filters"] = encoded
    try:
        headers = registry_header(session, parse_name(term))
    except CliError:
        headers = {}  # a word that could be no name is searched for all the same
    import json

    text = session.engine.call_text("GET", "/images/search", query, headers=headers)
    found: list[dict[str, Any]] = json.loads(text) or []
    whole = options.flag("no-trunc")

    def description(row: dict[str, Any]) -> str:
        words = str(row.get("description") or "").replace("\n", " ").replace("\r", " ")
        return words if whole or len(words) <= WIDTH else words[: WIDTH - 1] + "…"

    print_listing(
        found,
        {
            "Name": ("NAME", lambda row: row.get("name", "")),
            "Description": ("DESCRIPTION", description),
            "StarCount": ("STARS", lambda row: str(row.get("star_count") or 0)),
            "IsOfficial": ("OFFICIAL", lambda row: "[OK]" if row.get("is_official") else ""),
            "IsAutomated": ("AUTOMATED", lambda row: "[OK]" if row.get("is_automated") else ""),
        },
        ["Name", "Description", "StarCount", "IsOfficial"],
        options.text("format"),
        "formatter.searchContext",
    )


COMMANDS = {
    "search": Command(
        search,
        "TERM",
        (
            filter_flag("Filter output based on conditions provided"),
            format_flag(),
            Flag("limit", "", "int", "Max number of search results"),
            Flag("no-trunc", "", "bool", "Don't truncate output"),
        ),
        1,
        1,
    ),
}
