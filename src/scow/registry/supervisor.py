"""Several processes that serve one address: starts them, starts anew those that die, ends and replaces them in order.

Each worker has its own listening socket on the shared port (SO_REUSEPORT). The supervisor makes the sockets and keeps
them, so that connections that wait for a worker that died are served by the one that follows it.
"""

import gc
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from scow.errors import Unavailable
from scow.registry.heaps import trim
from scow.registry.metrics import Metrics, shared_memory
from scow.registry.os_errors import sentence
from scow.registry.preload import preload
from scow.registry.server import listen, url_of
from scow.registry.settings import Settings, SettingsInvalid
from scow.registry.shared import SharedTable
from scow.registry.upstream.relay import RelaySocket

READY_S: Final = 60
"""A worker that does not serve after so long never will."""
LOOK_S: Final = 0.5
FIRST_PAUSE_S: Final = 0.1
LAST_PAUSE_S: Final = 10.0
LONG_LIFE_S: Final = 30.0
"""A worker that lived for so long did not die of its start."""
ROWS: Final = 8
"""Rows of metrics for each worker: those that drain still write theirs."""
KILL_AFTER_S: Final = 5.0
"""A worker that has not ended for so long after its drain time is killed."""
_SIGNALS: Final = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP}
_ENDING: Final = {signal.SIGTERM, signal.SIGINT}

log = logging.getLogger("scow.registry.supervisor")


class WorkerFailed(Unavailable):
    """A worker did not come up."""

    def __init__(self, number: int) -> None:
        super().__init__(f"worker {number} did not start, see above")


@dataclass
class Post:
    """What a worker is handed: its number and socket, what all workers share, and two pipes' ends."""

    number: int
    listener: socket.socket
    metrics: Metrics
    buckets: SharedTable
    failures: SharedTable
    relay: RelaySocket
    settings: Settings
    ready: int  # to be written to once it serves
    lifeline: int  # at its end the supervisor is gone

    def tell_ready(self) -> None:
        """Tell the supervisor that this worker serves. To be called once."""
        os.write(self.ready, b"1")
        os.close(self.ready)


@dataclass
class _Worker:
    number: int
    row: int  # of the metrics
    started: float  # monotonic


@dataclass
class _Leaving:
    """A worker that drains."""

    row: int
    until: float  # when it is killed (monotonic)


def check_replaceable(before: Settings, after: Settings) -> None:
    """Raise SettingsInvalid for what a server can't change while it runs."""
    if after.listen != before.listen:
        raise SettingsInvalid("listen", "can only be changed by a restart")
    if after.worker_count() != before.worker_count():
        raise SettingsInvalid("workers", "can only be changed by a restart")


class Supervisor:
    """Runs `work` in `settings.worker_count()` forked processes. To be used in a process without threads."""

    def __init__(
        self,
        settings: Settings,
        work: Callable[[Post], int],
        reread: Callable[[], Settings],
        on_ready: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._work = work
        self._reread = reread
        self._on_ready = on_ready
        self._sockets: list[socket.socket] = []
        rows = settings.worker_count() * ROWS
        self._memory = shared_memory(rows)
        self._rows = list(range(rows))  # that nobody writes to
        self._buckets, self._failures = SharedTable(), SharedTable()
        self._relay = RelaySocket()
        self._workers: dict[int, _Worker] = {}  # by process
        self._leaving: dict[int, _Leaving] = {}  # by process
        self._pauses = [0.0] * settings.worker_count()
        self._due: dict[int, float] = {}
        self._lifeline: tuple[int, int] = (-1, -1)

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; SIGHUP reads the settings anew and replaces the workers one by one.

        Raises CannotListen and WorkerFailed.
        """
        count = self._settings.worker_count()
        # A shared port would also be shared with another registry that is there by mistake: ask for it alone first.
        with listen(self._settings) as probe:
            port = probe.getsockname()[1]
        first = listen(self._settings, shared=True, port=port)
        self._sockets.append(first)
        while len(self._sockets) < count:
            self._sockets.append(listen(self._settings, shared=True, port=port))
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        self._lifeline = os.pipe()
        self._prepare()
        try:
            for number in range(count):  # one by one: the first brings the database up to date
                if not self._start(number):
                    raise WorkerFailed(number)
            self._on_ready(url_of(first, self._settings))
            self._watch()
        finally:
            self._end()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return 0

    def _prepare(self) -> None:
        """Have what all workers need in memory that they share."""
        preload(self._settings)
        gc.collect()
        trim()  # what imports have left free would be in each worker's memory once it puts something there
        gc.freeze()  # what is there now stays in pages that all workers share

    def _watch(self) -> None:
        while True:
            times = (*self._due.values(), *(each.until for each in self._leaving.values()))
            next_s = min(times, default=time.monotonic() + 3600.0)
            caught = signal.sigtimedwait(_SIGNALS, max(next_s - time.monotonic(), 0))
            if caught is not None and caught.si_signo in _ENDING:
                return
            if caught is not None and caught.si_signo == signal.SIGHUP:
                self._replace_all()
            self._reap()
            now = time.monotonic()
            for number in [number for number, due in self._due.items() if due <= now]:
                del self._due[number]
                if not self._start(number):
                    self._start_later(number)
            for process, leaving in self._leaving.items():
                if leaving.until <= now:
                    os.kill(process, signal.SIGKILL)
                    leaving.until = now + KILL_AFTER_S

    def _start(self, number: int) -> bool:
        """Fork a worker and wait until it serves; False if it did not, and is gone."""
        ready, told = os.pipe()
        row = self._take_row()
        process = os.fork()
        if process == 0:
            code = 1
            try:
                os.close(ready)
                os.close(self._lifeline[1])
                for other, listener in enumerate(self._sockets):
                    if other != number:
                        listener.close()
                signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
                metrics = Metrics(self._memory, row)
                listener, lifeline = self._sockets[number], self._lifeline[0]
                shared = (metrics, self._buckets, self._failures, self._relay)
                post = Post(number, listener, *shared, self._settings, told, lifeline)
                code = self._work(post)
            except BaseException:
                logging.getLogger("scow.registry").exception("worker %d failed", number)
            finally:
                os._exit(code)
        os.close(told)
        if _serves(ready):
            self._workers[process] = _Worker(number, row, time.monotonic())
            return True
        os.kill(process, signal.SIGKILL)  # if it has not ended by itself
        os.waitpid(process, 0)
        self._free_row(row)
        return False

    def _take_row(self) -> int:
        while not self._rows:  # settings were read anew time and again, and old workers still drain
            process = min(self._leaving, key=lambda process: self._leaving[process].until)
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            self._free_row(self._leaving.pop(process).row)
        return self._rows.pop(0)

    def _free_row(self, row: int) -> None:
        Metrics(self._memory, row)  # which ends its gauges: of a worker that is gone nothing goes on
        self._rows.append(row)

    def _reap(self) -> None:
        while self._workers or self._leaving:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                return
            if process in self._leaving:
                self._free_row(self._leaving.pop(process).row)
            worker = self._workers.pop(process, None)
            if worker is None:
                continue
            self._free_row(worker.row)
            if time.monotonic() - worker.started > LONG_LIFE_S:
                self._pauses[worker.number] = 0.0
            ended = os.waitstatus_to_exitcode(status)
            log.error("worker %d ended with %d, starting it anew", worker.number, ended)
            self._start_later(worker.number)

    def _start_later(self, number: int) -> None:
        pause = self._pauses[number] = min(max(self._pauses[number] * 2, FIRST_PAUSE_S), LAST_PAUSE_S)
        self._due[number] = time.monotonic() + pause

    def _replace_all(self) -> None:
        """Start workers with new settings, each before the one that it follows drains.

        If the first does not start, all is left as it was.
        """
        before = self._settings
        try:
            settings = self._reread()
            check_replaceable(before, settings)
        except Exception as error:
            log.error("the settings are kept as they were: %s", sentence(error))
            return
        self._settings = settings
        self._prepare()
        old = list(self._workers.items())
        for place, (process, worker) in enumerate(old):
            if signal.sigpending() & _ENDING:
                return
            if not self._start(worker.number):
                if place == 0:
                    self._settings = before
                    log.error("the settings are kept as they were: no worker starts with the new ones, see above")
                else:
                    log.error("worker %d goes on with the old settings: it does not start, see above", worker.number)
                return
            del self._workers[process]
            os.kill(process, signal.SIGTERM)
            self._leaving[process] = _Leaving(worker.row, time.monotonic() + before.drain_s + KILL_AFTER_S)
        log.info("the settings were read anew")

    def _end(self) -> None:
        for listener in self._sockets:
            listener.close()
        self._relay.close()
        self._stop({*self._workers, *self._leaving})
        self._workers.clear()
        self._leaving.clear()
        for end in self._lifeline:
            if end >= 0:
                os.close(end)

    def _stop(self, left: set[int]) -> None:
        """End workers of ours and wait for them."""
        for process in left:
            os.kill(process, signal.SIGTERM)
        deadline = time.monotonic() + self._settings.drain_s + KILL_AFTER_S
        while left:
            for process in list(left):
                if os.waitpid(process, os.WNOHANG)[0]:
                    left.discard(process)
            if not left:
                return
            if time.monotonic() > deadline:
                for process in left:
                    os.kill(process, signal.SIGKILL)
                deadline += KILL_AFTER_S
            signal.sigtimedwait({signal.SIGCHLD}, 0.5)


def _serves(ready: int) -> bool:
    """Wait until a worker says that it serves; False if it has ended, takes too long, or the server is to end.

    Closes the pipe.
    """
    deadline = time.monotonic() + READY_S
    try:
        while time.monotonic() < deadline and not signal.sigpending() & _ENDING:
            if select.select([ready], [], [], LOOK_S)[0]:
                return os.read(ready, 1) == b"1"  # at its death the pipe ends
        return False
    finally:
        os.close(ready)
