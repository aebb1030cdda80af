"""Listing containers with docker's filters. Engine API, GET /containers/json."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from scow.engine import validation
from scow.engine.container import Container, ContainerTable
from scow.engine.describing import status_word
from scow.errors import InvalidArgument
from scow.oci.digest import Digest

FILTERS: Final = frozenset(
    {
        "ancestor",
        "before",
        "expose",
        "exited",
        "health",
        "id",
        "is-task",
        "isolation",
        "label",
        "name",
        "network",
        "publish",
        "since",
        "status",
        "volume",
    }
)
STATUSES: Final = frozenset(["created", "restarting", "running", "removing", "paused", "exited", "dead"])

HEALTHS: Final = frozenset(["healthy", "none", "starting", "unhealthy"])

_TRUE: Final = frozenset(["1", "true"])
_BOOLEANS: Final = _TRUE | {"0", "false"}
Filters = Mapping[str, Sequence[str]]


def select(
    table: ContainerTable,
    *,
    all: bool,
    limit: int | None,
    filters: Filters,
    image_ids: Callable[[str], Iterable[Digest]],
) -> list[Container]:
    """The containers that are wanted, newest first. Raises InvalidArgument for a filter that makes no sense.

    `image_ids` resolves the filter `ancestor`: the images of that name, and those made from them.
    """
    validation.check_filters(filters, FILTERS)
    statuses = filters.get("status", ())
    for status in statuses:
        if status not in STATUSES:
            raise InvalidArgument(f"invalid filter 'status={status}'")
    codes = [_number("exited", value) for value in filters.get("exited", ())]
    for health in filters.get("health", ()):
        if health not in HEALTHS:
            raise InvalidArgument(f"unrecognized filter value for health: {health}")
    for key in ("publish", "expose"):
        for wanted in filters.get(key, ()):
            _check_port(key, wanted)
    for value in filters.get("is-task", ()):
        if value.lower() not in _BOOLEANS:
            raise InvalidArgument(f"invalid filter 'is-task=[{value}]'")
        if value.lower() in _TRUE:
            return []  # a swarm's tasks, of which there are none here
    before = [table.get(ref) for ref in filters.get("before", ())]
    since = [table.get(ref) for ref in filters.get("since", ())]
    ancestors = {id for ref in filters.get("ancestor", ()) for id in image_ids(ref)}
    everything = all or bool(statuses) or bool(codes) or bool(before) or bool(since) or (limit or 0) > 0
    newest_first = sorted(table, key=lambda each: each.record.created_at, reverse=True)
    found: list[Container] = []
    for container in newest_first:
        record, state = container.record, container.state
        if not everything and not (state.live or state.status == "restarting"):
            continue
        if statuses and status_word(state) not in statuses:
            continue
        if codes and not (state.exit_code in codes and not state.live and state.started_at):
            continue
        if any(record.created_at >= other.record.created_at for other in before):
            continue
        if any(record.created_at <= other.record.created_at for other in since):
            continue
        if "ancestor" in filters and record.image not in ancestors:
            continue
        if not _matches(container, filters):
            continue
        found.append(container)
        if limit and 0 < limit <= len(found):
            break
    return found


def _matches(container: Container, filters: Filters) -> bool:
    record = container.record
    if "id" in filters and not any(record.id.startswith(value) for value in filters["id"]):
        return False
    if "name" in filters and not any(_name_matches(record.name, value) for value in filters["name"]):
        return False
    labels = record.config.labels or {}
    for value in filters.get("label", ()):
        key, equals, text = value.partition("=")
        if key not in labels or (equals and labels[key] != text):
            return False
    if "network" in filters:
        names = {*record.endpoints, *(settings.network_id for settings in record.endpoints.values())}
        if not any(value in names for value in filters["network"]):
            return False
    if "volume" in filters:
        places = {place for mount in record.mounts for place in (mount.name, mount.source, mount.destination) if place}
        if not any(value in places for value in filters["volume"]):
            return False
    if "health" in filters and (container.health.status if container.health else "none") not in filters["health"]:
        return False
    for key, ports in (
        ("publish", record.host_config.port_bindings or {}),
        ("expose", record.config.exposed_ports or {}),
    ):
        if key in filters and not any(_port_matches(value, ports) for value in filters[key]):
            return False
    return True


def _name_matches(name: str, pattern: str) -> bool:
    import re  # only this filter needs it

    try:
        return bool(re.search(pattern, name) or re.search(pattern, "/" + name))
    except re.error:
        return pattern in name


def _port_matches(wanted: str, ports: Iterable[str]) -> bool:
    numbers, _, protocol = wanted.partition("/")
    low, _, high = numbers.partition("-")
    for port in ports:
        number, _, kind = port.partition("/")
        if int(low) <= int(number) <= int(high or low) and (kind or "tcp") == (protocol or "tcp"):
            return True
    return False


def _check_port(key: str, wanted: str) -> None:
    numbers, slash, protocol = wanted.partition("/")
    low, dash, high = numbers.partition("-")
    if not low.isdigit() or (dash and not high.isdigit()) or (slash and protocol not in ("tcp", "udp", "sctp")):
        raise InvalidArgument(f"invalid filter '{key}={wanted}': it isn't a port, or a range of them")


def _number(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError as error:
        raise InvalidArgument(f"invalid filter '{name}={value}'") from error
