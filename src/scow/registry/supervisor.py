"""Several processes that serve one address: starts them, starts anew those that die, ends and replaces them in order.

Each worker has its own listening socket on the shared port (SO_REUSEPORT). The supervisor makes the sockets and keeps
them, so that connections that wait for a worker that died are served by the one that follows it.
"""

import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from scow.errors import Unavailable
from scow.registry.metrics import Metrics, shared_memory
from scow.registry.preload import preload
from scow.registry.server import listen, url_of
from scow.registry.settings import Settings
from scow.registry.shared import SharedTable
from scow.registry.upstream.relay import RelaySocket

READY_S: Final = 60
FIRST_PAUSE_S: Final = 0.1
LAST_PAUSE_S: Final = 10.0
LONG_LIFE_S: Final = 30.0
"""A worker that lived for so long did not die of its start."""
KILL_AFTER_S: Final = 5.0
"""A worker that has not ended for so long after its drain time is killed."""
_SIGNALS: Final = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP}

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


@dataclass
class _Worker:
    number: int
    started: float  # monotonic


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
        self._memory = shared_memory(settings.worker_count())
        self._buckets, self._failures = SharedTable(), SharedTable()
        self._relay = RelaySocket()
        self._workers: dict[int, _Worker] = {}
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
        gc.freeze()  # what is there now stays in pages that all workers share

    def _watch(self) -> None:
        while True:
            wait_s = max(min(self._due.values()) - time.monotonic(), 0) if self._due else 3600.0
            caught = signal.sigtimedwait(_SIGNALS, wait_s)
            if caught is not None and caught.si_signo in (signal.SIGTERM, signal.SIGINT):
                return
            if caught is not None and caught.si_signo == signal.SIGHUP:
                self._replace_all()
            self._reap()
            now = time.monotonic()
            for number in [number for number, due in self._due.items() if due <= now]:
                del self._due[number]
                self._start(number)

    def _start(self, number: int) -> bool:
        """Fork a worker and wait until it serves; False if it ended instead."""
        ready, told = os.pipe()
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
                metrics = Metrics(self._memory, number)
                listener, lifeline = self._sockets[number], self._lifeline[0]
                shared = (metrics, self._buckets, self._failures, self._relay)
                post = Post(number, listener, *shared, self._settings, told, lifeline)
                code = self._work(post)
            except BaseException:
                logging.getLogger("scow.registry").exception("worker %d failed", number)
            finally:
                os._exit(code)
        os.close(told)
        self._workers[process] = _Worker(number, time.monotonic())
        with os.fdopen(ready, "rb", buffering=0) as pipe:
            return pipe.read(1) == b"1"  # at its death the pipe ends

    def _reap(self) -> None:
        while self._workers:
            process, status = os.waitpid(-1, os.WNOHANG)
            if process == 0:
                return
            worker = self._workers.pop(process, None)
            if worker is None:
                continue
            number = worker.number
            if time.monotonic() - worker.started > LONG_LIFE_S:
                self._pauses[number] = 0.0
            pause = self._pauses[number] = min(max(self._pauses[number] * 2, FIRST_PAUSE_S), LAST_PAUSE_S)
            log.error("worker %d ended with %d, starting it anew", number, os.waitstatus_to_exitcode(status))
            self._due[number] = time.monotonic() + pause

    def _replace_all(self) -> None:
        """Start workers with new settings before the old ones drain, one after the other."""
        try:
            settings = self._reread()
        except Exception as error:
            log.error("the settings are kept as they were: %s", error)
            return
        if (settings.listen, settings.worker_count()) != (self._settings.listen, self._settings.worker_count()):
            log.error("listen and workers can only be changed by a restart")
            return
        self._settings = settings
        self._prepare()
        for process, worker in list(self._workers.items()):
            if not self._start(worker.number):
                log.error("worker %d does not start with the new settings", worker.number)
                return
            del self._workers[process]
            self._stop({process: worker})
        log.info("the settings were read anew")

    def _end(self) -> None:
        for listener in self._sockets:
            listener.close()
        self._relay.close()
        self._stop(self._workers)
        self._workers.clear()
        for end in self._lifeline:
            if end >= 0:
                os.close(end)

    def _stop(self, workers: dict[int, _Worker]) -> None:
        """End workers of ours and wait for them."""
        for process in workers:
            os.kill(process, signal.SIGTERM)
        deadline = time.monotonic() + self._settings.drain_s + KILL_AFTER_S
        left = set(workers)
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
