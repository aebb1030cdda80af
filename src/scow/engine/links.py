"""Links of the default bridge (`--link`): a linked container's variables, ports and address in another one.

Docker's legacy: on user-defined networks links are names that the network's DNS server answers. A link belongs to the
container it was given to, under an alias, and follows the linked container through renames. moby daemon/links.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from scow.engine.container import Container, ContainerTable
from scow.engine.validation import parse_port
from scow.errors import Internal, NotFound

_NOT_TOLD: Final = ("HOME", "PATH")


class Links:
    """Who is linked to whom, and what that means for a container that starts. `address` gives a container's IP."""

    def __init__(self, table: ContainerTable, address: Callable[[str], str]) -> None:
        self._table = table
        self._address = address

    def of(self, container: Container) -> list[tuple[str, Container]]:
        """The aliases of a container's links, and what they lead to; those whose container is gone are no more."""
        found = ((alias, self._table.find_id(id)) for alias, id in container.record.links.items())
        return [(alias, child) for alias, child in found if child is not None]

    def names(self) -> dict[str, list[str]]:
        """The names that links give to containers, by ID: `/parent/alias`."""
        found: dict[str, list[str]] = {}
        for parent in self._table:
            for alias, id in parent.record.links.items():
                found.setdefault(id, []).append(f"/{parent.name}/{alias}")
        return found

    def shown(self, container: Container) -> list[str] | None:
        """The links as inspect shows them; None for those of user-defined networks, which stay as they were asked."""
        found = [f"/{child.name}:/{container.name}/{alias}" for alias, child in self.of(container)]
        return sorted(found) if container.record.links else None

    def check(self, container: Container) -> None:
        """Before a start: raise Internal if a linked container doesn't run."""
        for alias, child in self.of(container):
            if not child.state.live:
                raise Internal(f"Cannot link to a non running container: /{child.name} AS /{container.name}/{alias}")

    def hosts(self, container: Container) -> list[tuple[str, str]]:
        """Addresses and names for /etc/hosts."""
        return [
            (self._address(child.id), _names(alias, child))
            for alias, child in self.of(container)
            if self._address(child.id)
        ]

    def environment(self, container: Container) -> list[str]:
        """The variables that tell of linked containers: DB_PORT, DB_PORT_80_TCP_ADDR, DB_NAME, DB_ENV_X and so on."""
        found: list[str] = []
        for alias, child in self.of(container):
            if child.state.live:
                found += variables(container.name, alias, child, self._address(child.id))
        return found

    def refresh(self, child: Container) -> None:
        """A container runs with another address than before: have those that link to it know. Blocks."""
        address = self._address(child.id)
        for parent in self._table:
            for alias, id in parent.record.links.items():
                if id == child.id and parent.state.live and address:
                    _replace(parent.folder / "hosts", address, _names(alias, child))

    def find(self, name: str) -> tuple[Container, str]:
        """Find a link by `parent/alias`. Raises NotFound."""
        parent_name, _, alias = name.strip("/").rpartition("/")
        parent = self._table.find_name(parent_name)
        if parent is None or alias not in parent.record.links:
            raise NotFound(f"No such container: {name.removeprefix('/')}")
        return parent, alias

    async def remove(self, name: str) -> None:
        """Remove a link, not what it leads to. Raises NotFound."""
        parent, alias = self.find(name)
        async with parent.lock:
            left = {other: id for other, id in parent.record.links.items() if other != alias}
            await self._table.save(parent, msgspec.structs.replace(parent.record, links=left))


def variables(parent: str, alias: str, child: Container, address: str) -> list[str]:
    """The variables of one link."""
    prefix = alias.replace("-", "_").upper()
    ports = sorted((parse_port(name) for name in child.record.config.exposed_ports or {}), key=lambda port: port)
    found = []
    if ports:
        found.append(f"{prefix}_PORT={ports[0][1]}://{address}:{ports[0][0]}")
    for number, protocol in ports:
        base = f"{prefix}_PORT_{number}_{protocol.upper()}"
        found += [
            f"{base}={protocol}://{address}:{number}",
            f"{base}_ADDR={address}",
            f"{base}_PORT={number}",
            f"{base}_PROTO={protocol}",
        ]
    found.append(f"{prefix}_NAME=/{parent}/{alias}")
    for entry in child.record.config.env or ():
        name, equals, value = entry.partition("=")
        if equals and name not in _NOT_TOLD:
            found.append(f"{prefix}_ENV_{name}={value}")
    return found


def _names(alias: str, child: Container) -> str:
    names = [alias, child.record.config.hostname, child.name]
    return " ".join(dict.fromkeys(name for name in names if name))


def _replace(path: Path, address: str, names: str) -> None:
    """Give names another address in a hosts file, in place: it is mounted in a container."""
    try:
        before = path.read_text(encoding="utf-8", errors="surrogateescape")  # the container may have put anything there
    except OSError:
        return
    after = re.sub(rf"^\S+\t{re.escape(names)}$", lambda _: f"{address}\t{names}", before, flags=re.MULTILINE)
    if after != before:
        path.write_text(after, encoding="utf-8", errors="surrogateescape")
