"""Containers as the engine holds them: the record, the lock, and who waits for what; and the table that keeps them."""

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from scow.engine.record import ContainerRecord, State, lost_record
from scow.errors import Conflict, InvalidArgument, NotFound
from scow.store.database import Database, DatabaseFailed
from scow.store.documents import find_document
from scow.wire.container import Health

if TYPE_CHECKING:
    from scow.engine.attachment import Attachment

log = logging.getLogger(__name__)

SCHEMA: Final = (
    """
    CREATE TABLE container (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        record BLOB NOT NULL
    ) WITHOUT ROWID;
    """,
)


Step = Callable[[sqlite3.Connection], None]


class NoSuchContainer(NotFound):
    """No container has this ID, prefix or name. The words are docker's: clients match them."""

    def __init__(self, ref: str) -> None:
        super().__init__(f"No such container: {ref}")
        self.ref = ref


class NameInUse(Conflict):
    """Another container has the name."""

    def __init__(self, name: str, holder: str) -> None:
        super().__init__(
            f'Conflict. The container name "/{name}" is already in use by container "{holder}". '
            "You have to remove (or rename) that container to be able to reuse that name."
        )
        self.name = name
        self.holder = holder


class Outcome(msgspec.Struct, frozen=True):
    """How a run of a container ended; `error` is why it could not start."""

    exit_code: int
    error: str = ""


class Container:
    """One container. `lock` guards every change of its state and of what it holds of the machine.

    `next_exit` is done at the end of the current or coming run, `not_running` then and when a restart that was to come
    is called off, `gone` when the container is removed; each future is replaced by a fresh one when it is done, so that
    a waiter takes the one that is current when it begins to wait.
    """

    def __init__(self, record: ContainerRecord, folder: Path) -> None:
        self.record = record
        self.folder = folder  # durable files: log, hosts, hostname, resolv.conf
        self.lock = asyncio.Lock()
        loop = asyncio.get_running_loop()
        self.next_exit: asyncio.Future[Outcome] = loop.create_future()
        self.not_running: asyncio.Future[Outcome] = loop.create_future()
        self.gone: asyncio.Future[Outcome] = loop.create_future()
        self.attachments: set[Attachment] = set()  # those that wait for a run to attach to
        self.execs: dict[str, int] = {}  # running execs: ID -> pid
        self.restart: asyncio.Task[None] | None = None
        self.health: Health | None = None  # what the probes said; None without a health check
        self._attempt: asyncio.Future[None] | None = None  # of a removal: done when it has come to nothing
        self.removal: asyncio.Task[None] | None = None  # that of `--rm`, once it has begun
        self.told_of_oom = False  # in this run
        self.is_lost = False  # its record was damaged: nobody knows any more how it was made
        self.dying = False  # SIGKILL was sent, the end has not been seen yet

    @property
    def id(self) -> str:
        """The full identifier."""
        return self.record.id

    @property
    def name(self) -> str:
        """The name without slash."""
        return self.record.name

    @property
    def state(self) -> State:
        """Where it stands."""
        return self.record.state

    @property
    def log_path(self) -> Path:
        """Where conmon writes what the container says."""
        return self.folder / f"{self.id}-json.log"

    def ended(self, outcome: Outcome) -> None:
        """Tell waiters that a run ended, whether it is to be restarted or not."""
        self.dying = False
        self.next_exit = _done(self.next_exit, outcome)
        self.not_running = _done(self.not_running, outcome)

    def stopped(self, outcome: Outcome) -> None:
        """Tell those who wait for the container not to run that it won't be restarted."""
        self.not_running = _done(self.not_running, outcome)

    @property
    def removing(self) -> bool:
        """Whether it is being removed, or has been."""
        return self._attempt is not None

    def removal_begins(self) -> None:
        """From now on it is being removed, until `removed` or `removal_failed`."""
        self._attempt = asyncio.get_running_loop().create_future()

    def removal_failed(self) -> None:
        """The removal came to nothing: somebody else may try."""
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.set_result(None)

    async def removal_over(self) -> bool:
        """Wait for the end of the removal that is under way; return whether the container is gone."""
        if self._attempt is not None:
            await asyncio.wait((self.gone, self._attempt), return_when=asyncio.FIRST_COMPLETED)
        return self.gone.done()

    def removed(self) -> None:
        """Tell all waiters that the container is gone."""
        outcome = Outcome(self.state.exit_code)
        for future in (self.next_exit, self.not_running, self.gone):
            if not future.done():
                future.set_result(outcome)


def _done(future: "asyncio.Future[Outcome]", outcome: Outcome) -> "asyncio.Future[Outcome]":
    """Tell those who wait, and make the future for those who wait from now on."""
    if not future.done():
        future.set_result(outcome)
    return asyncio.get_running_loop().create_future()


class ContainerTable:
    """All containers by ID and name. Records are written to the state database before they are shown."""

    def __init__(self, database: Database, root: Path) -> None:
        self._database = database
        self._root = root
        self._by_id: dict[str, Container] = {}
        self._by_name: dict[str, Container] = {}
        self._reserved: set[str] = set()

    def load(self) -> None:
        """Read all records; called once, before the engine answers.

        A container whose record can't be read keeps its ID and name, so that it can be seen, ended and removed.
        """
        self._database.migrate("containers", SCHEMA)
        rows = self._database.read_now(lambda db: db.execute("SELECT id, name, record FROM container").fetchall())
        for id, name, data in rows:
            record = find_document(data, ContainerRecord, f"container {id} ({name})")
            held = self._hold(record or lost_record(id, name))
            if record is None:
                held.is_lost = True
                with contextlib.suppress(OSError):  # for who wants to look at it: the row is written over
                    held.folder.joinpath("damaged-record").write_bytes(bytes(data))

    def __iter__(self) -> Iterator[Container]:
        return iter(tuple(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def folder(self, id: str) -> Path:
        """The container's folder below the data root."""
        return self._root / "containers" / id

    def find_name(self, name: str) -> Container | None:
        """The container with exactly this name, if there is one."""
        return self._by_name.get(name)

    def find_id(self, id: str) -> Container | None:
        """The container with exactly this ID, if there is one."""
        return self._by_id.get(id)

    def is_name_taken(self, name: str) -> bool:
        """Whether a container has the name, or is being created with it."""
        return name in self._by_name or name in self._reserved

    def find(self, ref: str) -> Container | None:
        """Look up by full ID, name or unambiguous ID prefix. Raises InvalidArgument for an ambiguous prefix."""
        found = self._by_id.get(ref) or self._by_name.get(ref.removeprefix("/"))
        if found is not None or not ref:
            return found
        matches = [container for id, container in self._by_id.items() if id.startswith(ref)]
        if len(matches) > 1:
            raise InvalidArgument(f"Multiple IDs found with provided prefix: {ref}")
        return matches[0] if matches else None

    def get(self, ref: str) -> Container:
        """Like find. Raises NoSuchContainer, and InvalidArgument for nothing at all."""
        if not ref:
            raise InvalidArgument('invalid name or ID supplied: ""')
        found = self.find(ref)
        if found is None:
            raise NoSuchContainer(ref)
        return found

    def reserve(self, name: str) -> None:
        """Keep a name for a container that is being created. Raises NameInUse; `release` or `add` ends it."""
        holder = self._by_name.get(name)
        if holder is not None:
            raise NameInUse(name, holder.id)
        if name in self._reserved:
            raise NameInUse(name, "being created")
        self._reserved.add(name)

    def release(self, name: str) -> None:
        """Give a reserved name back."""
        self._reserved.discard(name)

    async def add(self, record: ContainerRecord, also: Step = lambda db: None) -> Container:
        """Write a new record, and hold it. Its name must be reserved. `also` is done in the same transaction."""

        def insert(db: sqlite3.Connection) -> None:
            also(db)
            db.execute(
                "INSERT INTO container (id, name, record) VALUES (?, ?, ?)",
                (record.id, record.name, msgspec.json.encode(record)),
            )

        held: list[Container] = []

        def hold(_: None) -> None:
            self._reserved.discard(record.name)
            held.append(self._hold(record))

        await self._database.write(insert, then=hold)
        return held[0]

    async def save(self, container: Container, record: ContainerRecord) -> None:
        """Write a changed record, then show it."""
        await self.write(record, lambda: self.show(container, record))

    async def write(self, record: ContainerRecord, then: Callable[[], None] = lambda: None) -> None:
        """Write a changed record that is to be shown later: what a killed engine will find."""

        def update(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE container SET name = ?, record = ? WHERE id = ?",
                (record.name, msgspec.json.encode(record), record.id),
            )

        await self._database.write(update, then=lambda _: then())

    def show(self, container: Container, record: ContainerRecord) -> None:
        """Show a record that was written."""
        if record.name != container.name:
            self._by_name.pop(container.name, None)
            self._by_name[record.name] = container
        container.record = record

    async def set_state(self, container: Container, **changes: object) -> None:
        """Write and show changes of a container's state."""
        await self.save(container, container.record.with_state(**changes))

    async def note(self, container: Container, record: ContainerRecord) -> None:
        """Write what has happened, or is being undone, and show it: shown in any case, also when the disk is full."""
        await self.try_write(record)
        self.show(container, record)

    async def try_write(self, record: ContainerRecord) -> None:
        """Write a changed record if the database can: what is done to free a full disk must not fail for it."""
        try:
            await self.write(record)
        except DatabaseFailed as error:
            log.error("the state of container %s is not recorded: %s", record.id, error)

    async def remove(self, container: Container, also: Step = lambda db: None) -> None:
        """Forget a container. `also` is done in the same transaction."""

        def delete(db: sqlite3.Connection) -> None:
            also(db)
            db.execute("DELETE FROM container WHERE id = ?", (container.id,))

        def forget(_: None) -> None:
            self._by_id.pop(container.id, None)
            if self._by_name.get(container.name) is container:
                self._by_name.pop(container.name)

        await self._database.write(delete, then=forget)

    def _hold(self, record: ContainerRecord) -> Container:
        container = Container(record, self.folder(record.id))
        self._by_id[record.id] = container
        self._by_name[record.name] = container
        return container
