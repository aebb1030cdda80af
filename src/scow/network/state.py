"""Networks, sandboxes and endpoints as rows of the state database; written before the world is changed."""

from collections.abc import Iterable
from sqlite3 import Connection
from typing import Final

import msgspec

from scow.network import definitions
from scow.network.model import Endpoint, Network
from scow.store.database import Database
from scow.store.documents import find_document

STEPS: Final = (
    """
    CREATE TABLE networks (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, data BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE sandboxes (container_id TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE endpoints (id TEXT PRIMARY KEY, container_id TEXT NOT NULL, data BLOB NOT NULL) WITHOUT ROWID;
    """,
    """
    CREATE TABLE leaving (link TEXT PRIMARY KEY) WITHOUT ROWID;
    """,
    """
    ALTER TABLE sandboxes ADD COLUMN resolver_port INTEGER NOT NULL DEFAULT 0;
    """,
)


class State:
    """The network component's tables of the engine's database."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._lost: list[str] = []  # bridges of networks whose rows can't be read
        db.migrate("network", STEPS)

    def load(self) -> tuple[list[Network], dict[str, int], list[Endpoint]]:
        """Read networks, sandboxes' containers with their DNS servers' ports, endpoints. Blocks: for start-up.

        What can't be read is left out: a network can be made again by its name, an endpoint comes with the container's
        next start.
        """

        def read(connection: Connection) -> tuple[list[Network], dict[str, int], list[Endpoint]]:
            networks = connection.execute("SELECT id, name, data FROM networks").fetchall()
            sandboxes = connection.execute("SELECT container_id, resolver_port FROM sandboxes").fetchall()
            endpoints = connection.execute("SELECT container_id, data FROM endpoints").fetchall()
            known = {id: find_document(data, Network, f"network {name}") for id, name, data in networks}
            self._lost = [definitions.bridge_of(id) for id, network in known.items() if network is None]
            held = (find_document(data, Endpoint, f"an endpoint of container {id}") for id, data in endpoints)
            return [each for each in known.values() if each], dict(sandboxes), [each for each in held if each]

        return self._db.read_now(read)

    async def put_network(self, network: Network) -> None:
        data = msgspec.json.encode(network)
        await self._execute("INSERT OR REPLACE INTO networks VALUES (?, ?, ?)", [(network.id, network.name, data)])

    async def retire_network(self, network: Network) -> None:
        """Forget a network, and note that its bridge is still to be removed."""

        def change(connection: Connection) -> None:
            connection.execute("DELETE FROM networks WHERE id = ?", (network.id,))
            connection.executemany("INSERT OR REPLACE INTO leaving VALUES (?)", [(link,) for link in network.own_links])

        await self._db.write(change)

    async def forget_link(self, link: str) -> None:
        """Note that a retired network's bridge is gone."""
        await self._execute("DELETE FROM leaving WHERE link = ?", [(link,)])

    def leaving(self) -> list[str]:
        """Read the bridges of retired and lost networks that may be there still. Blocks: for start-up."""
        rows = self._db.read_now(lambda connection: connection.execute("SELECT link FROM leaving").fetchall())
        return [*(link for (link,) in rows), *self._lost]

    async def remove_network(self, network_id: str) -> None:
        await self._execute("DELETE FROM networks WHERE id = ?", [(network_id,)])

    async def put_sandbox(self, container_id: str, resolver_port: int = 0) -> None:
        await self._execute("INSERT OR REPLACE INTO sandboxes VALUES (?, ?)", [(container_id, resolver_port)])

    async def remove_sandbox(self, container_id: str) -> None:
        await self._execute("DELETE FROM sandboxes WHERE container_id = ?", [(container_id,)])

    async def put_endpoint(self, endpoint: Endpoint) -> None:
        data = msgspec.json.encode(endpoint)
        row = (endpoint.id, endpoint.container_id, data)
        await self._execute("INSERT OR REPLACE INTO endpoints VALUES (?, ?, ?)", [row])

    async def remove_endpoints(self, endpoint_ids: Iterable[str]) -> None:
        await self._execute("DELETE FROM endpoints WHERE id = ?", [(endpoint_id,) for endpoint_id in endpoint_ids])

    async def _execute(self, sql: str, rows: list[tuple[object, ...]]) -> None:
        await self._db.write(lambda connection: _run(connection, sql, rows))


def _run(connection: Connection, sql: str, rows: list[tuple[object, ...]]) -> None:
    connection.executemany(sql, rows)
