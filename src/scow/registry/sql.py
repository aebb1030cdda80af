"""What the registry's names need of a database, and how the two databases' words differ.

Statements are written once. They have `?` for values and are SQLite's and PostgreSQL's at the same time but for these
words in brackets, which each database replaces:

    [share]   at the end of a SELECT: keep others from deleting the rows until the transaction ends
    [own]     the same, and from changing them
    [hold]    the same, and from referring to them
    [take]    as [hold], but rows that somebody else holds are left out
    [alone]   the function that waits until nobody else has a number, and has it until the transaction ends
    [find]    the function that tells where a text is in another, 0 if it isn't
    [now]     the database's time, which is the same for all replicas, in seconds since the epoch

SQLite has one writer at a time, so the first five say nothing there. In PostgreSQL a statement sees what was committed
before it began: whoever decides by what is not there holds what the others would refer to first, and asks then.
"""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol, TypeVar

T = TypeVar("T")

Row = Sequence[Any]
Value = str | bytes | int | float | None

WORDS: Final = {
    "sqlite": {
        "[share]": "",
        "[own]": "",
        "[hold]": "",
        "[take]": "",
        "[alone]": "typeof",
        "[find]": "instr",
        "[now]": "((julianday('now') - 2440587.5) * 86400.0)",
    },
    "postgresql": {
        "[share]": "FOR KEY SHARE",
        "[own]": "FOR NO KEY UPDATE",
        "[hold]": "FOR UPDATE",
        "[take]": "FOR UPDATE SKIP LOCKED",
        "[alone]": "pg_advisory_xact_lock",
        "[find]": "strpos",
        "[now]": "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)",
    },
}

ALL: Final = 1 << 62
"""As a LIMIT: no limit."""


class Session(Protocol):
    """A connection, for the time of one call."""

    async def row(self, query: str, *values: Value) -> Row | None:
        """The first row of a result."""

    async def rows(self, query: str, *values: Value) -> Sequence[Row]:
        """A whole result."""

    async def run(self, statement: str, *values: Value) -> int:
        """Change something; how many rows were."""

    async def run_many(self, statement: str, values: Sequence[Sequence[Value]]) -> None:
        """Run a statement once for each of `values`."""


Call = Callable[[Session], Coroutine[Any, Any, T]]
"""What is done in one transaction. It waits for nothing but its session, and may be run again from its beginning."""


class Database(Protocol):
    """Where names are kept. Whoever made it closes it."""

    @property
    def is_exact(self) -> bool:
        """Whether `version` moves at once with every change, so that any answer may be kept until it does."""

    def version(self) -> int:
        """A number that moves when something was changed that others may remember; without waiting, and cheap.

        Where it is not exact it moves some seconds after the change at the latest: what never changes but only ends
        may be remembered as long as it stands still.
        """

    async def read(self, call: Call[T]) -> T:
        """Run `call` to ask something. Raises StorageUnavailable."""

    async def write(self, call: Call[T], *, durable: bool = True, frees: bool = False) -> T:
        """Run `call` in a transaction and commit it, synced to disk before the answer if `durable`.

        A call that raises is undone alone. Once begun it goes on even if the caller is cancelled. `frees` says that
        it takes something away, or changes what others remember: they are told, and on a full disk it gets room, as
        far as there is any. Raises StorageFull and StorageUnavailable.
        """

    async def row(self, query: str, *values: Value) -> Row | None:
        """`read` of one query's first row."""

    async def rows(self, query: str, *values: Value) -> Sequence[Row]:
        """`read` of one query."""

    async def problems(self) -> list[str]:
        """Read the whole database, where it is a file of ours; what is wrong with it."""

    async def aclose(self) -> None:
        """Finish what is going on and close."""


def translate(statement: str, dialect: str) -> str:
    """Put a dialect's words into a statement."""
    for word, own in WORDS[dialect].items():
        statement = statement.replace(word, own)
    if dialect == "postgresql":
        first, *rest = statement.split("?")
        statement = first + "".join(f"${number}{part}" for number, part in enumerate(rest, 1))
    return statement
