"""`scow container prune`, `image prune`, `volume prune` and `system prune`."""

from __future__ import annotations

import sys

from scow.cli.command import Command
from scow.cli.errors import CliError
from scow.cli.flags import Flag, Options
from scow.cli.listing import encode_filters, filter_flag
from scow.cli.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from scow.cli.session import Session

QUESTION = "Are you sure you want to continue? [y/N] "
CONTAINERS = "WARNING! This will remove all stopped containers."
DANGLING = "WARNING! This will remove all dangling images."
UNUSED = "WARNING! This will remove all images without at least one container associated to them."
VOLUMES = "WARNING! This will remove anonymous local volumes not used by at least one container."
ALL_VOLUMES = "WARNING! This will remove all local volumes not used by at least one container."


def confirm(options: Options, warning: str, what: str) -> None:
    """Ask, unless forced. Raises CliError for anything but a yes."""
    if options.flag("force"):
        return
    sys.stdout.write(f"{warning}\n{QUESTION}")
    sys.stdout.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CliError(f"{what} prune has been cancelled")


def _prune(session: Session, path: str, filters: Sequence[str]) -> dict[str, object]:
    encoded = encode_filters(filters)
    answer: dict[str, object] = session.engine.post(path, {"filters": encoded} if encoded else None)
    return answer


def _containers(session: Session, filters: Sequence[str]) -> int:
    answer = _prune(session, "/containers/prune", filters)
    _list(session, "Deleted Containers:", answer.get("ContainersDeleted"))
    return _space(answer)


def _volumes(session: Session, filters: Sequence[str]) -> int:
    answer = _prune(session, "/volumes/prune", filters)
    _list(session, "Deleted Volumes:", answer.get("VolumesDeleted"))
    return _space(answer)


def _networks(session: Session, filters: Sequence[str]) -> None:
    _list(session, "Deleted Networks:", _prune(session, "/networks/prune", filters).get("NetworksDeleted"))


def _images(session: Session, filters: Sequence[str], every: bool) -> int:
    answer = _prune(session, "/images/prune", [f"dangling={'false' if every else 'true'}", *filters])
    deleted = answer.get("ImagesDeleted")
    if isinstance(deleted, list) and deleted:
        lines = [
            f"untagged: {item['Untagged']}" if item.get("Untagged") else f"deleted: {item['Deleted']}"
            for item in deleted
        ]
        _list(session, "Deleted Images:", lines)
    return _space(answer)


def _build_cache(session: Session, filters: Sequence[str], every: bool) -> int:
    query = {"all": "1"} if every else {}
    encoded = encode_filters([text for text in filters if text.startswith(("until=", "unused-for="))])
    if encoded:
        query["filters"] = encoded
    answer: dict[str, object] = session.engine.post("/build/prune", query or None)
    _list(session, "Deleted build cache objects:", answer.get("CachesDeleted"))
    return _space(answer)


def _list(session: Session, title: str, names: object) -> None:
    if isinstance(names, list) and names:
        session.print("\n".join([title, *names, ""]))


def _space(answer: dict[str, object]) -> int:
    size = answer.get("SpaceReclaimed")
    return size if isinstance(size, int) else 0


def _total(session: Session, size: int) -> None:
    session.print(f"Total reclaimed space: {human_size(size)}")


def containers(session: Session, options: Options) -> None:
    """Remove stopped containers."""
    confirm(options, CONTAINERS, "container")
    _total(session, _containers(session, options.texts("filter")))


def images(session: Session, options: Options) -> None:
    """Remove unused images."""
    every = options.flag("all")
    confirm(options, UNUSED if every else DANGLING, "image")
    _total(session, _images(session, options.texts("filter"), every))


def volumes(session: Session, options: Options) -> None:
    """Remove unused volumes."""
    filters = options.texts("filter")
    every = options.flag("all")
    if every and session.engine.at_least(42):
        if any(text.startswith("all=") for text in filters):
            raise CliError("conflicting options: cannot specify both --all and --filter all=1")
        filters = [*filters, "all=true"]
    confirm(options, ALL_VOLUMES if every else VOLUMES, "volume")
    _total(session, _volumes(session, filters))


def system(session: Session, options: Options) -> None:
    """Remove stopped containers, unused networks and images, and volumes if wished."""
    filters = options.texts("filter")
    if options.flag("volumes") and any(text.startswith("until=") for text in filters):
        raise CliError('The "until" filter is not supported with "--volumes"')
    by_use = any(text.startswith("unused-for=") for text in filters)
    if options.flag("volumes") and by_use:
        raise CliError('The "unused-for" filter is not supported with "--volumes"')
    every = options.flag("all")
    items = ["all stopped containers"]
    if not by_use:  # when a network was used last nobody knows
        items.append("all networks not used by at least one container")
    if options.flag("volumes"):
        items.append("all anonymous volumes not used by at least one container")
    items.append("all images without at least one container associated to them" if every else "all dangling images")
    items.append("all build cache" if every else "unused build cache")
    warning = "WARNING! This will remove:\n" + "".join(f"  - {item}\n" for item in items)
    if filters:
        shown = "".join(f"  - {text}\n" for text in filters)
        warning += f"\n  Items to be pruned will be filtered with:\n{shown}"
    confirm(options, warning, "system")
    size = _containers(session, filters)
    if not by_use:
        _networks(session, filters)
    if options.flag("volumes"):
        size += _volumes(session, filters)
    size += _images(session, filters, every)
    size += _build_cache(session, filters, every)
    _total(session, size)


FORCE = Flag("force", "f", "bool", "Do not prompt for confirmation")
UNTIL = 'Provide filter values (e.g. "until=<timestamp>", "unused-for=720h")'

COMMANDS = {
    "container": Command(containers, "", (filter_flag(UNTIL), FORCE)),
    "image": Command(
        images,
        "",
        (Flag("all", "a", "bool", "Remove all unused images, not just dangling ones"), filter_flag(UNTIL), FORCE),
    ),
    "volume": Command(
        volumes,
        "",
        (
            Flag("all", "a", "bool", "Remove all unused volumes, not just anonymous ones"),
            filter_flag('Provide filter values (e.g. "label=<label>")'),
            FORCE,
        ),
    ),
    "system": Command(
        system,
        "",
        (
            Flag("all", "a", "bool", "Remove all unused images not just dangling ones"),
            filter_flag('Provide filter values (e.g. "label=<key>=<value>", "unused-for=720h")'),
            FORCE,
            Flag("volumes", "", "bool", "Prune anonymous volumes"),
        ),
    ),
}
