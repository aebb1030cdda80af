"""`scow network ls`."""

from __future__ import annotations

from scow.cli.command import Command
from scow.cli.commands.ps import show_labels
from scow.cli.commands.volume import natural
from scow.cli.flags import Flag, Options
from scow.cli.listing import encode_filters, filter_flag, format_flag, print_listing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from scow.cli.session import Session


def network_fields(trunc: bool) -> dict[str, Any]:
    """The columns of a listing of networks."""

    def created(item: dict[str, Any]) -> str:
        from scow.cli.timestamps import local_time, parse_rfc3339

        text = item["Created"]
        fraction = text.partition(".")[2].rstrip("Z").partition("+")[0].partition("-")[0].rstrip("0")
        day, clock, zone = local_time(int(parse_rfc3339(text))).split(" ", 2)
        return f"{day} {clock}{'.' * bool(fraction)}{fraction} {zone}"

    return {
        "ID": ("NETWORK ID", lambda item: item["Id"][:12] if trunc else item["Id"]),
        "Name": ("NAME", lambda item: item["Name"]),
        "Driver": ("DRIVER", lambda item: item.get("Driver", "")),
        "Scope": ("SCOPE", lambda item: item.get("Scope", "")),
        "IPv4": ("IPV4", lambda item: "true" if item.get("EnableIPv4") else "false"),
        "IPv6": ("IPV6", lambda item: "true" if item.get("EnableIPv6") else "false"),
        "Internal": ("INTERNAL", lambda item: "true" if item.get("Internal") else "false"),
        "Labels": ("LABELS", lambda item: show_labels(item.get("Labels"))),
        "CreatedAt": ("CREATED AT", created),
    }


def ls(session: Session, options: Options) -> None:
    """List networks."""
    filters = encode_filters(options.texts("filter"))
    networks = session.engine.get("/networks", {"filters": filters} if filters else {}) or []
    networks.sort(key=lambda item: natural(item["Name"]))
    template = options.text("format") or session.config.text("networksFormat")
    if options.flag("quiet") and not options.text("format"):
        template = ""
    print_listing(
        networks,
        network_fields(not options.flag("no-trunc")),
        ("ID", "Name", "Driver", "Scope"),
        template,
        "network.networkContext",
        "ID" if options.flag("quiet") else "",
    )


COMMANDS = {
    "ls": Command(
        ls,
        flags=(
            filter_flag('Provide filter values (e.g. "driver=bridge")'),
            format_flag(),
            Flag("no-trunc", "", "bool", "Do not truncate the output"),
            Flag("quiet", "q", "bool", "Only display network IDs"),
        ),
    )
}
