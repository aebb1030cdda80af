"""`scow ps`: list containers."""

from __future__ import annotations

import time

from scow.cli.command import Command
from scow.cli.flags import Flag, Options
from scow.cli.listing import encode_filters, filter_flag, format_flag, print_listing
from scow.cli.units import human_duration, human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from scow.cli.session import Session

SHORT_ID = 12
COMMAND_WIDTH = 20
MOUNT_WIDTH = 15


def ellipsis(text: str, width: int) -> str:
    """Shorten a text to `width` characters, the last of them an ellipsis."""
    return text if len(text) <= width else text[: width - 1] + "…"


def show_ports(ports: list[dict[str, Any]]) -> str:
    """Write a container's ports, consecutive ones of one kind as ranges: "0.0.0.0:80-81->80-81/tcp"."""
    groups: dict[tuple[str, str], tuple[int, int]] = {}
    mapped: list[str] = []
    groups_order: list[tuple[str, str]] = []
    finished: list[str] = []
    for port in sorted(ports, key=_port_order):
        private, public = port["PrivatePort"], port.get("PublicPort") or 0
        key = (port.get("IP") or "", port["Type"])
        if public and public != private:
            mapped.append(f"{_host(key[0])}:{public}->{private}/{key[1]}")
            continue
        label = (f"{_host(key[0])}/{key[1]}" if public else key[1], key[1])
        held = groups.get(label)
        if held is not None and private == held[1] + 1:
            groups[label] = (held[0], private)
            continue
        if held is not None:
            finished.append(_port_group(label, held))
        else:
            groups_order.append(label)
        groups[label] = (private, private)
    finished += [_port_group(label, groups[label]) for label in groups_order]
    return ", ".join(finished + mapped)


def _port_order(port: dict[str, Any]) -> tuple[int, str, int, str]:
    return (port["PrivatePort"], port.get("IP") or "", port.get("PublicPort") or 0, port["Type"])


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _port_group(label: tuple[str, str], span: tuple[int, int]) -> str:
    address, protocol = label[0].rpartition("/")[0], label[1]
    text = str(span[0]) if span[0] == span[1] else f"{span[0]}-{span[1]}"
    return f"{address}:{text}->{text}/{protocol}" if address else f"{text}/{protocol}"


def show_names(item: dict[str, Any], trunc: bool) -> str:
    names = [name.removeprefix("/") for name in item.get("Names") or []]
    if trunc:
        names = [name for name in names if "/" not in name] or names
    return ",".join(names)


def show_command(item: dict[str, Any], trunc: bool) -> str:
    command = item.get("Command") or ""
    return (
        '"' + (ellipsis(command, COMMAND_WIDTH) if trunc else command).replace("\\", "\\\\").replace('"', '\\"') + '"'
    )


def show_image(item: dict[str, Any], trunc: bool) -> str:
    image = str(item.get("Image") or "<no image>")
    if not trunc:
        return image
    image_id = item.get("ImageID") or ""
    if image == image_id:
        return image.removeprefix("sha256:")[:SHORT_ID]
    if "@" in image:
        # A reference with a digest is shown without it, unless nothing else is left.
        name = image.partition("@")[0]
        return name if ":" in name.rsplit("/", 1)[-1] else image
    return image


def show_size(item: dict[str, Any]) -> str:
    size = human_size(item.get("SizeRw") or 0)
    root = item.get("SizeRootFs") or 0
    return f"{size} (virtual {human_size(root)})" if root > 0 else size


def show_mounts(item: dict[str, Any], trunc: bool) -> str:
    names = [mount.get("Name") or mount.get("Source") or "" for mount in item.get("Mounts") or []]
    return ",".join(ellipsis(name, MOUNT_WIDTH) if trunc else name for name in names)


def show_labels(labels: dict[str, str] | None) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items()))


def show_platform(item: dict[str, Any]) -> str | None:
    platform = (item.get("ImageManifestDescriptor") or {}).get("platform")
    if not platform:
        return None
    return "/".join(
        part for part in (platform.get("os"), platform.get("architecture"), platform.get("variant")) if part
    )


def fields(trunc: bool, now: float) -> dict[str, Any]:
    """The columns of a listing of containers."""

    def created_at(item: dict[str, Any]) -> str:
        from scow.cli.timestamps import local_time

        return local_time(item["Created"])

    def label(item: dict[str, Any]) -> Any:
        return lambda name: (item.get("Labels") or {}).get(name, "")

    return {
        "ID": ("CONTAINER ID", lambda item: item["Id"][:SHORT_ID] if trunc else item["Id"]),
        "Names": ("NAMES", lambda item: show_names(item, trunc)),
        "Image": ("IMAGE", lambda item: show_image(item, trunc)),
        "Command": ("COMMAND", lambda item: show_command(item, trunc)),
        "CreatedAt": ("CREATED AT", created_at),
        "RunningFor": ("CREATED", lambda item: human_duration(now - item["Created"]) + " ago"),
        "Ports": ("PORTS", lambda item: show_ports(item.get("Ports") or [])),
        "State": ("STATE", lambda item: item.get("State") or ""),
        "Status": ("STATUS", lambda item: item.get("Status") or ""),
        "Size": ("SIZE", show_size),
        "Labels": ("LABELS", lambda item: show_labels(item.get("Labels"))),
        "Mounts": ("MOUNTS", lambda item: show_mounts(item, trunc)),
        "LocalVolumes": (
            "LOCAL VOLUMES",
            lambda item: str(sum(mount.get("Driver") == "local" for mount in item.get("Mounts") or [])),
        ),
        "Networks": (
            "NETWORKS",
            lambda item: ",".join(sorted((item.get("NetworkSettings") or {}).get("Networks") or {})),
        ),
        "Platform": ("PLATFORM", show_platform),
        "Label": ("", label),
    }


def ps(session: Session, options: Options) -> None:
    """List containers."""
    template = options.text("format") or session.config.text("psFormat")
    if options.flag("quiet") and not options.text("format"):
        template = ""
    query: dict[str, str] = {}
    if options.flag("all"):
        query["all"] = "1"
    last = options.number("last")
    if options.flag("latest") and not options.changed("last"):
        last = 1
    if last > 0:
        query["limit"] = str(last)
    size = options.flag("size") or ("{{" in template and ".Size" in template)
    if size and not options.flag("quiet"):
        query["size"] = "1"
    filters = encode_filters(options.texts("filter"))
    if filters:
        query["filters"] = filters
    items = session.engine.get("/containers/json", query) or []
    columns = ["ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names"]
    if options.flag("size"):
        columns.append("Size")
    print_listing(
        items,
        fields(not options.flag("no-trunc"), time.time()),
        columns,
        template,
        "formatter.ContainerContext",
        quiet="ID" if options.flag("quiet") else "",
        complaint=("failed to parse template", "failed to execute template"),
    )


COMMANDS = {
    "ps": Command(
        ps,
        flags=(
            Flag("all", "a", "bool", "Show all containers (default shows just running)"),
            filter_flag("Filter output based on conditions provided"),
            format_flag(),
            Flag("last", "n", "int", "Show n last created containers (includes all states)", default=-1, shown="-1"),
            Flag("latest", "l", "bool", "Show the latest created container (includes all states)"),
            Flag("no-trunc", "", "bool", "Don't truncate output"),
            Flag("quiet", "q", "bool", "Only display container IDs"),
            Flag("size", "s", "bool", "Display total file sizes"),
        ),
    )
}
