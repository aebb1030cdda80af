"""`scow image explore` and `scow image diff`: what layers change and waste, and how two images differ."""

from __future__ import annotations

import sys

from scow.cli.command import Command
from scow.cli.errors import CliError, EngineError
from scow.cli.flags import Flag, Options
from scow.cli.jsontext import dumps, indent
from scow.cli.listing import align
from scow.cli.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from scow.cli.session import Session

INSTRUCTION_WIDTH = 60
WORST = 10
MARKS = {"added": "A", "changed": "C", "removed": "D"}


def _ask(session: Session, path: str, query: dict[str, str]) -> Any:
    try:
        return session.engine.get(path, query)
    except EngineError as error:
        if error.status == 404 and "page not found" in error.reason:
            raise CliError("this engine is not Scow: it cannot look into images") from None
        raise


def explore(session: Session, options: Options) -> None:
    """Show an image layer by layer."""
    query = {"image": options.args[0]}
    if options.flag("files"):
        query["files"] = "1"
    found = _ask(session, "/scow/images/explore", query)
    if options.flag("json"):
        session.print(indent(dumps(found), ""))
        return
    rows = [["LAYER", "SIZE", "ADDED", "CHANGED", "REMOVED", "WASTED", "INSTRUCTION"]]
    for layer in found["Layers"]:
        rows.append(
            [
                layer["DiffID"].partition(":")[2][:12],
                human_size(layer["Size"]),
                *(str(layer[name]) for name in ("Added", "Changed", "Removed")),
                human_size(layer["Wasted"]),
                _instruction(layer["CreatedBy"], options.flag("no-trunc")),
            ]
        )
    sys.stdout.write(align(rows))
    if options.flag("files"):
        for layer in found["Layers"]:
            sys.stdout.write(f"\n{layer['DiffID']}\n")
            for change in layer["Files"]:
                size = human_size(change.get("Size", 0)) if change["Kind"] != "removed" else ""
                sys.stdout.write(f"{MARKS[change['Kind']]} {size:>8} {change['Path']}\n")
    wasted, content = found["Wasted"], found["Content"]
    sys.stdout.write(
        f"\n{human_size(content)} in {len(found['Layers'])} layers, {human_size(wasted)} of it hidden by later ones "
        f"(efficiency {found['Efficiency'] * 100:.1f}%)\n"
    )
    if found["WastedFiles"]:
        worst = [["WASTED", "COPIES", "PATH"]]
        worst += [
            [human_size(each["Size"]), str(each["Copies"]), each["Path"]] for each in found["WastedFiles"][:WORST]
        ]
        sys.stdout.write(f"\n{align(worst)}")


def _instruction(text: str, whole: bool) -> str:
    words = " ".join(text.split())
    words = words.removeprefix("/bin/sh -c #(nop) ").strip()
    return words if whole or len(words) <= INSTRUCTION_WIDTH else words[: INSTRUCTION_WIDTH - 1] + "…"


def diff(session: Session, options: Options) -> None:
    """Show how the second image differs from the first, file by file."""
    query = {"from": options.args[0], "to": options.args[1]}
    if options.flag("times"):
        query["times"] = "1"
    found = _ask(session, "/scow/images/diff", query)
    if options.flag("json"):
        session.print(indent(dumps(found), ""))
        return
    for each in found:
        text = f"{MARKS[each['Kind']]} {each['Path']}"
        if each["Kind"] == "changed":
            text += f"  ({', '.join(map(str, _changes(each)))})"
        elif each["Type"] == "file":
            text += f"  ({human_size(each['Size'])})"
        sys.stdout.write(text + "\n")


def _changes(each: dict[str, Any]) -> list[str]:
    before = each["Before"]
    told = {
        "type": f"type {before['Type']} -> {each['Type']}",
        "mode": f"mode {before['Mode']} -> {each['Mode']}",
        "owner": f"owner {before['Owner']} -> {each['Owner']}",
        "size": f"size {human_size(before['Size'], 4)} -> {human_size(each['Size'], 4)}",
        "target": f"target {before.get('Target')} -> {each.get('Target')}",
    }
    return [told.get(what, what) for what in each["What"]]


JSON = Flag("json", "", "bool", "Print in JSON format")

COMMANDS = {
    "explore": Command(
        explore,
        "IMAGE",
        (
            Flag("files", "", "bool", "List the files that each layer added (A), changed (C) and removed (D)"),
            JSON,
            Flag("no-trunc", "", "bool", "Don't truncate instructions"),
        ),
        1,
        1,
    ),
    "diff": Command(
        diff,
        "IMAGE IMAGE",
        (JSON, Flag("times", "", "bool", "List files that differ only in when they were modified, too")),
        2,
        2,
    ),
}
