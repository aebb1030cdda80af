"""What `run`, `start -a`, `attach` and `exec` have in common: a stream, a terminal, signals and an exit code."""

from __future__ import annotations

import os
import sys

from scow.cli.errors import CliError, EngineError, Exit
from scow.cli.http import HttpError, quote
from scow.cli.jsontext import loads
from scow.cli.pump import FATAL, PROXIED, SIGWINCH, Pump, Signals, wait_readable
from scow.cli.terminal import DEFAULT_DETACH_KEYS, RawMode, parse_detach_keys, size_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from scow.cli.engine import Engine
    from scow.cli.http import Connection, Response
    from scow.cli.session import Session

NAMES = {1: "HUP", 2: "INT", 3: "QUIT", 10: "USR1", 12: "USR2", 14: "ALRM", 15: "TERM", 18: "CONT", 20: "TSTP"}


def detach_keys(session: Session, given: str) -> tuple[str, bytes]:
    """The detach keys in force: as text for the engine ("" for its default) and as bytes. Raises CliError."""
    text = given or session.config.text("detachKeys")
    return text, parse_detach_keys(text or DEFAULT_DETACH_KEYS)


def check_tty(session: Session, stdin: bool, tty: bool) -> None:
    """Refuse to attach a stdin that is no terminal to a container's terminal."""
    if stdin and tty and not session.is_terminal(0):
        raise CliError("the input device is not a TTY")


class Watch:
    """Waits for a container to end, from before it starts. The engine's headers have come when this is made."""

    def __init__(self, engine: Engine, container: str, condition: str) -> None:
        query = {"condition": condition} if condition else {}
        self._engine = engine
        self._response: Response = engine.open("POST", f"/containers/{quote(container)}/wait", query)

    def result(self, signals: Signals | None = None) -> int:
        """Wait for the end, handling signals meanwhile; returns the exit code. Raises CliError."""
        if signals is not None:
            wait_readable(self._response.connection, signals)
        try:
            answer = loads(self._response.read())
        except (HttpError, ValueError, OSError) as error:
            raise CliError(f"error waiting for container: {error}", 125) from None
        self._engine.done(self._response)
        failure = (answer.get("Error") or {}).get("Message")
        if failure:
            raise CliError(str(failure), 125)
        return int(answer["StatusCode"])

    def close(self) -> None:
        self._response.connection.close()


class Attendance:
    """Attends to a container from the terminal: raw mode, window size and signals, until the context ends.

    `resize` is called with rows and columns; `proxy` says whether signals go to `forward` or end the client.
    """

    def __init__(
        self,
        *,
        tty: bool,
        stdin: bool,
        proxy: bool,
        forward: Callable[[str], None] | None,
        resize: Callable[[int, int], None] | None,
    ) -> None:
        self._tty = tty
        self._forward = forward if proxy and not tty else None
        self._resize = resize
        self._raw = RawMode(0) if tty and stdin else None
        watched = PROXIED if self._forward else (*FATAL, SIGWINCH) if tty else ()
        self.signals = Signals(watched, self._signal)

    def __enter__(self) -> Attendance:
        self.signals.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()
        self.signals.__exit__(kind, error, trace)

    def restore(self) -> None:
        """Put the terminal back."""
        if self._raw is not None:
            self._raw.restore()

    def _signal(self, number: int) -> None:
        if number == SIGWINCH and self._tty:
            self.fit()
        elif self._forward is not None:
            if number in NAMES:
                self._forward(NAMES[number])
        elif number in FATAL:
            raise Exit(128 + number)

    def fit(self) -> None:
        """Give the container's terminal the size of ours."""
        size = size_of(1)
        if self._tty and self._resize is not None and size is not None:
            try:
                self._resize(*size)
            except CliError:
                return  # it has ended, or not yet begun; its size is no reason to fail

    def carry(self, connection: Connection, stdin: bool, keys: bytes) -> bool:
        """Carry the streams until they end; False if the user detached."""
        sys.stdout.flush()
        sys.stderr.flush()
        if self._raw is not None:
            self._raw.__enter__()
        pump = Pump(connection, 0 if stdin else -1, self._tty, keys, self.signals)
        try:
            pump.run()
        finally:
            connection.close()
            self.restore()
        return not pump.detached


def attach_container(
    engine: Engine, container: str, streams: tuple[bool, bool, bool], keys: str, logs: bool = False
) -> Connection:
    """Open the stream of a container. `streams` are stdin, stdout, stderr."""
    names = ("stdin", "stdout", "stderr")
    query = {name: "1" for name, wanted in zip(names, streams, strict=True) if wanted}
    query["stream"] = "1"
    if keys:
        query["detachKeys"] = keys
    if logs:
        query["logs"] = "1"
    return engine.upgrade(f"/containers/{quote(container)}/attach", query)


def container_attendance(engine: Engine, container: str, *, tty: bool, stdin: bool, proxy: bool) -> Attendance:
    """An Attendance whose signals and sizes go to a container."""

    def forward(name: str) -> None:
        try:
            engine.post(f"/containers/{quote(container)}/kill", {"signal": name})
        except EngineError as error:
            if error.status not in (404, 409):
                os.write(2, f"Error sending signal: {error.reason}\n".encode())

    def resize(rows: int, columns: int) -> None:
        engine.post(f"/containers/{quote(container)}/resize", {"h": str(rows), "w": str(columns)})

    return Attendance(tty=tty, stdin=stdin, proxy=proxy, forward=forward, resize=resize)
