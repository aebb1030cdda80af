"""A real PostgreSQL from Debian's package, in a folder of its own, reached by a socket in it; it runs as `postgres`."""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

_QUICK: Final = (
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "shared_buffers=32MB",
    "max_connections=80",
)
_ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "LANG": "C.UTF-8"}

_EMPTY: Final = """
DO $$ DECLARE names TEXT; BEGIN
    SELECT string_agg(quote_ident(tablename), ', ') INTO names FROM pg_tables
    WHERE schemaname = 'public' AND tablename <> 'schema_version';
    IF names IS NOT NULL THEN EXECUTE 'TRUNCATE ' || names || ' RESTART IDENTITY CASCADE'; END IF;
END $$
"""


def find_postgres() -> Path | None:
    """The folder of PostgreSQL's programs, the newest if there are several."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    return max(found, key=lambda path: int(path.parent.name), default=None)


class Postgres:
    """A server. `start`, then databases by `make`, then `stop`, which removes the folder."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._user = pwd.getpwnam("postgres") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
        self.folder = Path(tempfile.mkdtemp(prefix="scow-pg-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._made = 0
        self._options: list[str] = []
        self._shared = ""

    def start(self, *options: str) -> None:
        """Make the server's files and start it; `options` are lines of its configuration."""
        os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
        data = self.folder / "data"
        self._run("initdb", "-D", str(data), "-A", "trust", "--no-sync", "--no-instructions", "-E", "UTF8")
        self._options = [f"-c{option}" for option in (*_QUICK, *options)]
        self.resume()

    def resume(self) -> None:
        """Start the server on what is there."""
        data = self.folder / "data"
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", data, "-k", self.folder, "-h", "", *self._options],
                stdout=log,
                stderr=log,
                env=_ENVIRONMENT,
                **self._as_user(),
            )
        deadline = time.monotonic() + 60
        while self._run("pg_isready", "-h", str(self.folder), check=False) != 0:
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, "PostgreSQL did not come up"
            time.sleep(0.05)

    def pause(self) -> None:
        """End the server and keep what is there."""
        if self._process is not None:
            self._process.send_signal(2)  # SIGINT: fast shutdown, its children with it
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.send_signal(3)
                self._process.wait(20)

    def _as_user(self) -> dict[str, int]:
        return {"user": self._user.pw_uid, "group": self._user.pw_gid} if os.getuid() == 0 else {}

    def _run(self, program: str, *arguments: str, check: bool = True) -> int:
        done = subprocess.run(
            [self._programs / program, *arguments],
            cwd=self.folder,
            capture_output=True,
            env=_ENVIRONMENT,
            check=False,
            **self._as_user(),
        )
        assert not (check and done.returncode), done.stderr.decode()
        return done.returncode

    def url(self, database: str = "postgres") -> str:
        """How clients reach a database."""
        return f"postgresql://{self._user.pw_name}@/{database}?host={self.folder}"

    def make(self) -> str:
        """Make an empty database; its URL."""
        self._made += 1
        name = f"d{self._made}"
        self._sql(f"CREATE DATABASE {name}", "postgres")
        return self.url(name)

    def empty_database(self) -> str:
        """The URL of a database that tests share one after the other: what the last one has left is removed."""
        if not self._shared:
            self._shared = self.make()
        else:
            self._sql(_EMPTY, "d1")
        return self._shared

    def rows(self, query: str, url: str) -> list[list[str]]:
        """What a query finds in a database."""
        name = url.partition("?")[0].rpartition("/")[2]
        done = subprocess.run(
            [self._programs / "psql", "-h", str(self.folder), "-d", name, "-XAt", "-F", "\t", "-c", query],
            cwd=self.folder,
            capture_output=True,
            text=True,
            env=_ENVIRONMENT,
            check=True,
            **self._as_user(),
        )
        return [line.split("\t") for line in done.stdout.splitlines()]

    def _sql(self, statement: str, database: str) -> None:
        self._run("psql", "-h", str(self.folder), "-d", database, "-q", "-v", "ON_ERROR_STOP=1", "-c", statement)

    def stop(self) -> None:
        """End it at once and remove its folder."""
        self.pause()
        shutil.rmtree(self.folder, ignore_errors=True)
