"""`scow volume ls`, `create` and `rm`."""

from __future__ import annotations

from scow.cli.command import Command
from scow.cli.commands.ps import show_labels
from scow.cli.container_config import pairs
from scow.cli.errors import CliError
from scow.cli.flags import Flag, Options
from scow.cli.http import quote
from scow.cli.listing import encode_filters, filter_flag, format_flag, print_listing
from scow.cli.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from scow.cli.session import Session


def volume_fields() -> dict[str, Any]:
    """The columns of a listing of volumes."""

    def usage(item: dict[str, Any], name: str) -> int:
        value = (item.get("UsageData") or {}).get(name, -1)
        return value if isinstance(value, int) else -1

    return {
        "Name": ("VOLUME NAME", lambda item: item["Name"]),
        "Driver": ("DRIVER", lambda item: item.get("Driver", "")),
        "Scope": ("SCOPE", lambda item: item.get("Scope", "")),
        "Mountpoint": ("MOUNTPOINT", lambda item: item.get("Mountpoint", "")),
        "Labels": ("LABELS", lambda item: show_labels(item.get("Labels"))),
        "Links": ("LINKS", lambda item: str(usage(item, "RefCount")) if item.get("UsageData") else "N/A"),
        "Size": ("SIZE", lambda item: human_size(usage(item, "Size")) if item.get("UsageData") else "N/A"),
        "Group": ("GROUP", lambda item: "N/A"),
        "Availability": ("AVAILABILITY", lambda item: "N/A"),
        "Status": ("STATUS", lambda item: "N/A"),
    }


def natural(text: str) -> list[tuple[int, int, str]]:
    """A key that sorts "v2" before "v10", as docker does."""
    key: list[tuple[int, int, str]] = []
    digits = ""
    for letter in text + "\0":
        if letter.isdigit():
            digits += letter
            continue
        if digits:
            key.append((0, int(digits), ""))
            digits = ""
        key.append((1, 0, letter))
    return key


def ls(session: Session, options: Options) -> None:
    """List volumes."""
    filters = encode_filters(options.texts("filter"))
    answer = session.engine.get("/volumes", {"filters": filters} if filters else {})
    volumes = sorted(answer.get("Volumes") or [], key=lambda item: natural(item["Name"]))
    template = options.text("format") or session.config.text("volumesFormat")
    if options.flag("quiet") and not options.text("format"):
        template = ""
    quiet = "Name" if options.flag("quiet") else ""
    print_listing(volumes, volume_fields(), ("Driver", "Name"), template, "formatter.volumeContext", quiet)


def create(session: Session, options: Options) -> None:
    """Create a volume and print its name."""
    if options.text("name") and options.args:
        raise CliError("conflicting options: cannot specify a volume-name through both --name and as a positional arg")
    request = {
        "Driver": options.text("driver"),
        "DriverOpts": pairs(options.texts("opt")),
        "Labels": pairs(options.texts("label")),
        "Name": options.args[0] if options.args else options.text("name"),
    }
    session.print(str(session.engine.post("/volumes/create", None, request)["Name"]))


def rm(session: Session, options: Options) -> int:
    """Remove volumes."""
    errors: list[str] = []
    for name in options.args:
        query = {"force": "1"} if options.flag("force") else {}
        try:
            session.engine.call("DELETE", f"/volumes/{quote(name)}", query)
        except CliError as error:
            errors.append(error.message)
        else:
            session.print(name)
    if errors:
        raise CliError("\n".join(errors))
    return 0


COMMANDS = {
    "ls": Command(
        ls,
        flags=(
            filter_flag('Provide filter values (e.g. "dangling=true")'),
            format_flag(),
            Flag("quiet", "q", "bool", "Only display volume names"),
        ),
    ),
    "create": Command(
        create,
        "[VOLUME]",
        (
            Flag("driver", "d", "string", "Specify volume driver name", default="local", shown='"local"'),
            Flag("label", "", "list", "Set metadata for a volume"),
            Flag("name", "", "string", "Specify volume name", hidden=True),
            Flag("opt", "o", "map", "Set driver specific options", shown="map[]"),
        ),
        0,
        1,
    ),
    "rm": Command(
        rm,
        "VOLUME [VOLUME...]",
        (Flag("force", "f", "bool", "Force the removal of one or more volumes"),),
        1,
        None,
        long="Remove one or more volumes. You cannot remove a volume that is in use by a container.",
    ),
}
