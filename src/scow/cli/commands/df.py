"""`scow system df`: what the engine keeps on disk."""

from __future__ import annotations

import sys
import time

from scow.cli.command import Command
from scow.cli.commands.images import image_fields, image_rows
from scow.cli.commands.ps import fields as container_fields
from scow.cli.commands.volume import volume_fields
from scow.cli.flags import Flag, Options
from scow.cli.listing import align, format_flag, print_listing
from scow.cli.timestamps import parse_rfc3339
from scow.cli.units import human_duration, human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from scow.cli.session import Session

RUNNING = ("running", "paused", "restarting")


def usage_rows(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Sum up: one row for images, containers, volumes and build cache."""
    images, containers = data.get("Images") or [], data.get("Containers") or []
    volumes, cache = data.get("Volumes") or [], data.get("BuildCache") or []
    layers = data.get("LayersSize") or 0
    used = sum(
        image["Size"] - max(image.get("SharedSize", 0), 0)
        for image in images
        if image.get("Containers", 0) and image.get("Size", 0) != -1
    )
    sizes = [(item.get("SizeRw") or 0, item.get("State") in RUNNING) for item in containers]
    usage = [(item.get("UsageData") or {}) for item in volumes]
    held = [(max(item.get("Size", 0), 0), item.get("RefCount", 0) > 0) for item in usage]
    kept = [(item.get("Size") or 0, bool(item.get("InUse") or item.get("Shared"))) for item in cache]

    def row(kind: str, sized: list[tuple[int, bool]]) -> dict[str, Any]:
        total = sum(size for size, _ in sized)
        free = sum(size for size, busy in sized if not busy)
        return {
            "Type": kind,
            "TotalCount": len(sized),
            "Active": sum(busy for _, busy in sized),
            "Size": total,
            "Free": free,
        }

    active = sum(1 for image in images if image.get("Containers", 0) > 0)
    image_row = {"Type": "Images", "TotalCount": len(images), "Active": active, "Size": layers, "Free": layers - used}
    return [image_row, row("Containers", sizes), row("Local Volumes", held), row("Build Cache", kept)]


def _reclaimable(row: dict[str, Any]) -> str:
    free, total = row["Free"], row["Size"]
    if row["Type"] == "Build Cache":
        return human_size(free, 4)
    return f"{human_size(free, 4)} ({free * 100 // total}%)" if total > 0 else human_size(free, 4)


def df(session: Session, options: Options) -> None:
    """Show disk usage, with --verbose item by item."""
    data = session.engine.get("/system/df")
    fields: dict[str, Any] = {
        "Type": ("TYPE", lambda row: row["Type"]),
        "TotalCount": ("TOTAL", lambda row: str(row["TotalCount"])),
        "Active": ("ACTIVE", lambda row: str(row["Active"])),
        "Size": ("SIZE", lambda row: human_size(row["Size"], 4)),
        "Reclaimable": ("RECLAIMABLE", _reclaimable),
    }
    if not options.flag("verbose"):
        print_listing(usage_rows(data), fields, tuple(fields), options.text("format"), "formatter.diskUsageContext")
        if not options.text("format"):
            _data_root(_own(session))
        return
    own = _own(session)
    _verbose(data, own)
    _data_root(own)


def _own(session: Session) -> dict[str, Any] | None:
    """What Scow tells beyond docker; None of another engine."""
    from scow.cli.errors import EngineError

    try:
        found: dict[str, Any] = session.engine.get("/scow/system/df")
    except EngineError as error:
        if error.status == 404:
            return None
        raise
    return found


def _data_root(own: dict[str, Any] | None) -> None:
    """Every byte under the data root: docker's table counts what images hold, this one what the disk does."""
    if own is None:
        return
    rows = [["ON DISK", "FILES", "SIZE", "WHAT IT IS"]]
    for part in own["Parts"]:
        if part["Size"]:
            rows.append([part["Name"], str(part["Files"]), human_size(part["Size"], 4), part["About"]])
    rows.append(["total", str(sum(part["Files"] for part in own["Parts"])), human_size(own["Total"], 4), own["Root"]])
    sys.stdout.write(f"\n{align(rows)}")


def _table(title: str, items: Sequence[Any], fields: dict[str, Any], columns: dict[str, str]) -> None:
    rows = [list(columns.values())]
    rows += [[str(fields[name][1](item)) for name in columns] for item in items]
    sys.stdout.write(f"{title}\n\n{align(rows)}")


def _age(text: str | None, now: float) -> str:
    return human_duration(now - parse_rfc3339(text)) + " ago" if text else ""


def _verbose(data: dict[str, Any], own: dict[str, Any] | None) -> None:
    now = time.time()
    images = {
        "Repository": "REPOSITORY",
        "Tag": "TAG",
        "ID": "IMAGE ID",
        "CreatedSince": "CREATED",
        "Size": "SIZE",
        "SharedSize": "SHARED SIZE",
        "UniqueSize": "UNIQUE SIZE",
        "Containers": "CONTAINERS",
    }
    fields: dict[str, Any] = image_fields(True, now)
    if own is not None:
        used = {each["Id"]: each["LastUsed"] for each in own["Images"]}
        images["LastUsed"] = "LAST USED"
        fields["LastUsed"] = ("LAST USED", lambda row: _age(used.get(row["image"]["Id"]), now))
    _table("Images space usage:", image_rows(data.get("Images") or [], False), fields, images)
    containers = {
        "ID": "CONTAINER ID",
        "Image": "IMAGE",
        "Command": "COMMAND",
        "LocalVolumes": "LOCAL VOLUMES",
        "Size": "SIZE",
        "RunningFor": "CREATED",
        "Status": "STATUS",
        "Names": "NAMES",
    }
    sizes = [{**item, "SizeRootFs": 0} for item in data.get("Containers") or []]
    sys.stdout.write("\n")
    _table("Containers space usage:", sizes, container_fields(True, now), containers)
    sys.stdout.write("\n")
    volumes = {"Name": "VOLUME NAME", "Links": "LINKS", "Size": "SIZE"}
    _table("Local Volumes space usage:", data.get("Volumes") or [], volume_fields(), volumes)
    sys.stdout.write("\n")
    cache = data.get("BuildCache") or []
    total = sum(item.get("Size") or 0 for item in cache if not item.get("Shared"))
    sys.stdout.write(f"Build cache usage: {human_size(total, 4)}\n\n")
    cache_fields: dict[str, Any] = {
        "ID": ("", lambda item: item["ID"][:12]),
        "Type": ("", lambda item: item.get("Type", "")),
        "Size": ("", lambda item: human_size(item.get("Size") or 0)),
        "Created": ("", lambda item: _age(item.get("CreatedAt"), now)),
        "LastUsed": ("", lambda item: _age(item.get("LastUsedAt"), now)),
        "UsageCount": ("", lambda item: str(item.get("UsageCount", 0))),
        "Shared": ("", lambda item: "true" if item.get("Shared") else "false"),
    }
    names = {
        "ID": "CACHE ID",
        "Type": "CACHE TYPE",
        "Size": "SIZE",
        "Created": "CREATED",
        "LastUsed": "LAST USED",
        "UsageCount": "USAGE",
        "Shared": "SHARED",
    }
    sys.stdout.write(
        align([list(names.values()), *([cache_fields[name][1](item) for name in names] for item in cache)])
    )


COMMANDS = {
    "df": Command(
        df,
        flags=(format_flag(), Flag("verbose", "v", "bool", "Show detailed information on space usage")),
    )
}
