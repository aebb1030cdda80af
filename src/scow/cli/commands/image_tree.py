"""`scow images --tree`: images with the platforms that they are for, and what each takes on disk."""

from __future__ import annotations

from scow.cli.errors import CliError
from scow.cli.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from scow.cli.flags import Options
    from scow.cli.session import Session

    Cells = tuple[str, str, str, str, str]

HEADINGS: Cells = ("IMAGE", "ID", "DISK USAGE", "CONTENT SIZE", "IN USE")
GAP = "   "
NOT_WITH = ("quiet", "no-trunc", "digests", "format")


def print_tree(session: Session, options: Options, query: dict[str, str]) -> None:
    """Ask for the images that `query` chooses, with their manifests, and print them. Raises CliError."""
    for name in NOT_WITH:
        if options.changed(name):
            raise CliError(f"--{name} is not supported with --tree")
    found = session.engine.get("/images/json", {**query, "manifests": "1"}) or []
    blocks = [image_rows(image) for image in found]
    rows: list[Cells] = [HEADINGS, *(row for block in blocks for row in block)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    session.print(_line(HEADINGS, widths))
    for block in blocks:
        for row in block:
            session.print(_line(row, widths))


def image_rows(image: dict[str, Any]) -> list[Cells]:
    """An image's names, one a row, and below them its platforms."""
    manifests = [each for each in image.get("Manifests") or [] if each.get("Kind") == "image"]
    used = image.get("Containers", -1) > 0 or any(_containers(each) for each in manifests)
    content = sum(each["Size"]["Content"] for each in image.get("Manifests") or [])
    first, *others = image.get("RepoTags") or ["<untagged>"]
    rows = [(first, _short(image["Id"]), human_size(image["Size"], 3), human_size(content, 3), _mark(used))]
    rows += [(name, "", "", "", "") for name in others]
    if image.get("Descriptor", {}).get("mediaType", "").endswith(("index.v1+json", "manifest.list.v2+json")):
        for number, each in enumerate(manifests):
            branch = "└─" if number == len(manifests) - 1 else "├─"
            rows.append(
                (
                    f"{branch} {_platform(each)}{'' if each.get('Available') else ' (not here)'}",
                    _short(each["ID"]),
                    human_size(each["Size"]["Total"], 3),
                    human_size(each["Size"]["Content"], 3),
                    _mark(bool(_containers(each))),
                )
            )
    return rows


def _line(row: Cells, widths: list[int]) -> str:
    name, identifier, *sizes, used = row
    cells = [name.ljust(widths[0]), identifier.ljust(widths[1])]
    cells += [size.rjust(width) for size, width in zip(sizes, widths[2:], strict=False)]
    return GAP.join([*cells, used]).rstrip()


def _containers(manifest: dict[str, Any]) -> list[str]:
    return (manifest.get("ImageData") or {}).get("Containers") or []


def _platform(manifest: dict[str, Any]) -> str:
    platform = (manifest.get("ImageData") or {}).get("Platform") or manifest["Descriptor"].get("platform") or {}
    words = [platform.get(name) for name in ("os", "architecture", "variant")]
    return "/".join(word for word in words if word) or "unknown"


def _short(identifier: str) -> str:
    return identifier.removeprefix("sha256:")[:12]


def _mark(used: bool) -> str:
    return "yes" if used else ""
