"""Carry bytes between the user and an attached container: stdin out, framed or raw output in, signals along.

One poll loop owns all of it. Signals arrive as bytes in a pipe (set_wakeup_fd), so none is lost between two calls.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` itself imports enum, which costs milliseconds
import os
import select

from scow.cli.terminal import DetachFilter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from scow.cli.http import Connection

CHUNK = 1 << 16
READABLE = select.POLLIN | select.POLLHUP | select.POLLERR
# What `--sig-proxy` forwards: everything that asks something of the process, not what tells about ours.
PROXIED = tuple(
    getattr(_signal, f"SIG{name}")
    for name in ("HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "ALRM", "CONT", "TSTP", "TTIN", "TTOU", "WINCH")
)
FATAL = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM)
SIGWINCH = _signal.SIGWINCH


class Signals:
    """Catches signals as long as the context lasts, and hands them to `handle` when `dispatch()` is called."""

    def __init__(self, numbers: Iterable[int], handle: Callable[[int], None]) -> None:
        self._numbers = tuple(numbers)
        self._handle = handle
        self._before: list[tuple[int, object]] = []
        self._old_wakeup = -1
        self.descriptor, self._write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def __enter__(self) -> Signals:
        self._old_wakeup = _signal.set_wakeup_fd(self._write_end)
        for number in self._numbers:
            self._before.append((number, _signal.signal(number, lambda *_: None)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before:
            _signal.signal(number, before if before is not None else _signal.SIG_DFL)
        _signal.set_wakeup_fd(self._old_wakeup)
        os.close(self.descriptor)
        os.close(self._write_end)

    def dispatch(self) -> None:
        """Handle what has arrived."""
        try:
            numbers = os.read(self.descriptor, 256)
        except BlockingIOError:
            return
        for number in numbers:
            if number in self._numbers:
                self._handle(number)


def write_all(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    """Write to a descriptor until all is written, also if someone made it non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            select.select((), (descriptor,), ())


class FrameReader:
    """Takes the engine's frames apart: 8 bytes of head (stream, 0, 0, 0, length), then that many bytes."""

    def __init__(self, write: Callable[[int, memoryview], None]) -> None:
        self._write = write
        self._head = bytearray()
        self._left = 0
        self._stream = 0

    def feed(self, data: bytes | bytearray) -> None:
        view = memoryview(data)
        while view:
            if self._left:
                part = view[: self._left]
                self._write(self._stream, part)
                self._left -= len(part)
                view = view[len(part) :]
                continue
            need = 8 - len(self._head)
            self._head += view[:need]
            view = view[need:]
            if len(self._head) == 8:
                self._stream = self._head[0]
                self._left = int.from_bytes(self._head[4:], "big")
                self._head.clear()


class Pump:
    """Carries one attachment until the engine ends it, the user detaches, or a signal ends the client.

    `stdin` is a descriptor, or -1 if there is nothing to send. `raw` output (a TTY's) goes to stdout as it is; else
    frames say where they belong.
    """

    def __init__(self, connection: Connection, stdin: int, raw: bool, detach_keys: bytes, signals: Signals) -> None:
        self._stream = connection.stream
        self._early = bytes(connection.buffer)
        self._stdin = stdin
        self._raw = raw
        self._signals = signals
        self._detach = DetachFilter(detach_keys)
        self._outgoing = memoryview(b"")
        self._ending = False
        self._frames = FrameReader(self._frame)
        self.detached = False

    def _frame(self, stream: int, data: memoryview) -> None:
        write_all(1 if stream in (0, 1) else 2, data)

    def _receive(self, data: bytes) -> None:
        if self._raw:
            write_all(1, data)
        else:
            self._frames.feed(data)

    def run(self) -> None:
        """Carry bytes until the end. `detached` tells whether the user left with the detach keys."""
        stream = self._stream
        if self._early:
            self._receive(self._early)
        stream.set_blocking(False)
        poller = select.poll()
        poller.register(stream.fileno(), select.POLLIN)
        poller.register(self._signals.descriptor, select.POLLIN)
        if self._stdin < 0:
            stream.shutdown_write()
        else:
            poller.register(self._stdin, select.POLLIN)
        try:
            while self._turn(poller):
                pass
        finally:
            stream.set_blocking(True)

    def _turn(self, poller: select.poll) -> bool:
        stream = self._stream
        events = dict(poller.poll(0 if stream.pending() else None))
        if self._signals.descriptor in events:
            self._signals.dispatch()
        event = events.get(stream.fileno(), 0)
        if event & READABLE or stream.pending():
            try:
                data = stream.try_recv(CHUNK)
            except OSError:
                return False
            if data == b"":
                return False
            if data:
                self._receive(data)
        if self._stdin in events and not self._outgoing:
            self._read_stdin(poller)
            if self.detached:
                return False
        if self._outgoing:
            self._flush(poller)
        return True

    def _read_stdin(self, poller: select.poll) -> None:
        try:
            data = os.read(self._stdin, CHUNK)
        except OSError:
            data = b""
        if not data:
            poller.unregister(self._stdin)
            self._ending = True
            if not self._outgoing:
                self._stream.shutdown_write()
            return
        if self._raw:
            data, self.detached = self._detach.feed(data)
        self._outgoing = memoryview(data)
        if self._outgoing:
            # Nothing more is read until this is sent: the user's writer waits, as it would on a pipe.
            poller.unregister(self._stdin)
            poller.modify(self._stream.fileno(), select.POLLIN | select.POLLOUT)

    def _flush(self, poller: select.poll) -> None:
        try:
            self._outgoing = self._outgoing[self._stream.try_send(self._outgoing) :]
        except OSError:
            self._outgoing = memoryview(b"")  # the container doesn't read any more; its output still comes
            self._ending = True
            poller.modify(self._stream.fileno(), select.POLLIN)
            return
        if not self._outgoing:
            poller.modify(self._stream.fileno(), select.POLLIN)
            if self._ending:
                self._stream.shutdown_write()
            else:
                poller.register(self._stdin, select.POLLIN)


def wait_readable(connection: Connection, signals: Signals) -> None:
    """Wait until the connection has something to read, handling signals meanwhile."""
    poller = select.poll()
    poller.register(connection.stream.fileno(), select.POLLIN)
    poller.register(signals.descriptor, select.POLLIN)
    while not connection.buffer and not connection.stream.pending():
        events = dict(poller.poll())
        if signals.descriptor in events:
            signals.dispatch()
        if connection.stream.fileno() in events:
            return
