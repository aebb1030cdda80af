"""Worker processes for what burns CPU: a small fork server, and workers that take job after job from the engine.

The fork server is started by the first job (or `warm`), has imported what workers need, and makes one in a millisecond
or two. Engine and worker talk over a socket pair; when one of them dies the other one sees its end. Idle processes
leave after a while. A job that is given up is ended by killing its worker, which holds nothing but that job.
"""

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Final

from scow.errors import Internal

MESSAGE_LIMIT: Final = 1 << 16
IDLE_S: Final = 20.0
START_TIMEOUT_S: Final = 20.0

Message = dict[str, object]


class WorkerDied(Internal):
    """The worker process ended in the middle of a job: killed, out of memory, or crashed."""

    def __init__(self, pid: int) -> None:
        super().__init__(f"the worker process {pid} died while it was working on a layer")
        self.pid = pid


class WorkersFailed(Internal):
    """The fork server can't be started."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"cannot start worker processes: {reason}")


class Worker:
    """One worker process as the engine sees it. Owned by one job at a time."""

    def __init__(self, pid: int, pidfd: int, control: socket.socket) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._control = control
        self.alive = True
        self._leaving = False

    async def send(self, message: Message | str, fds: tuple[int, ...] = ()) -> None:
        """Hand over a message. Raises WorkerDied."""
        try:
            socket.send_fds(self._control, [json.dumps(message).encode()], list(fds))
        except OSError as error:
            self.kill()
            raise WorkerDied(self.pid) from error

    async def receive(self, told: Callable[[int], None] | None = None) -> Message:
        """Wait for the worker's answer; `told` hears of the bytes that it has done meanwhile. Raises WorkerDied."""
        while True:
            try:
                data = await asyncio.get_running_loop().sock_recv(self._control, MESSAGE_LIMIT)
            except OSError:
                data = b""
            if not data:
                self.kill()
                raise WorkerDied(self.pid)
            answer: Message = json.loads(data)
            if "progress" not in answer:
                break
            if told is not None:
                told(int(str(answer["progress"])))
        self._leaving = bool(answer.pop("last", False))
        return answer

    def usable(self) -> bool:
        """Return whether it can take another job: the process is there and didn't say that it leaves."""
        if not self.alive or self._leaving:
            return False
        exited = select.poll()
        exited.register(self._pidfd, select.POLLIN)
        return not exited.poll(0)

    def kill(self) -> None:
        """End the process at once. Idempotent."""
        if self.alive:
            self.alive = False
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self.close()

    def close(self) -> None:
        """Let the process go: an idle worker ends when its socket closes."""
        self.alive = False
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
            self._control.close()


class Workers:
    """A bounded set of workers. `acquire` and `release` belong together; everything runs in one event loop."""

    def __init__(self, count: int | None = None, idle_s: float = IDLE_S) -> None:
        self.count = count or (os.cpu_count() or 1) + 1
        self._idle_s = idle_s
        self._slots = asyncio.Semaphore(self.count)
        self._idle: list[Worker] = []
        self._busy: set[Worker] = set()
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._starting = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def warm(self) -> None:
        """Start the fork server if it isn't there, so that the first job needn't wait for it. Raises WorkersFailed."""
        async with self._starting:
            await self._ensure_server()
        self._arm()

    async def acquire(self) -> Worker:
        """Return a worker for one job, waiting for one to be free. Raises WorkersFailed."""
        await self._slots.acquire()
        try:
            if self._server is not None and self._server.poll() is not None:
                self._end_all()  # idle workers die with the server
            while self._idle:
                worker = self._idle.pop()
                if worker.usable():
                    break
                worker.kill()
            else:
                worker = await self._fork()
        except BaseException:
            self._slots.release()
            raise
        self._busy.add(worker)
        return worker

    def release(self, worker: Worker) -> None:
        """Give a worker back: idle if its job is answered, or killed."""
        self._busy.discard(worker)
        if not self._closed and worker.usable():
            self._idle.append(worker)
        else:
            worker.kill()
        self._slots.release()
        self._arm()

    async def aclose(self) -> None:
        """End every process. Jobs under way fail with WorkerDied. Idempotent."""
        self._closed = True
        for worker in list(self._busy):
            worker.kill()
        if self._timer is not None:
            self._timer.cancel()
        async with self._starting:
            self._end_all()

    @property
    def server_pid(self) -> int | None:
        """The fork server's process; None if none is there."""
        return None if self._server is None else self._server.pid

    # the fork server

    async def _fork(self) -> Worker:
        async with self._starting:
            for attempt in (1, 2):
                await self._ensure_server()
                assert self._control is not None
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                ours.setblocking(False)
                try:
                    socket.send_fds(self._control, [b"fork"], [theirs.fileno()])
                    async with asyncio.timeout(START_TIMEOUT_S):
                        pid, pidfd = await self._forked()
                    return Worker(pid, pidfd, ours)
                except BaseException as error:
                    ours.close()
                    self._end_server()
                    if attempt == 2 or not isinstance(error, OSError | EOFError):
                        raise
                finally:
                    theirs.close()
        raise AssertionError

    async def _forked(self) -> tuple[int, int]:
        assert self._control is not None
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        fd = self._control.fileno()
        loop.add_reader(fd, _resolve, ready)
        try:
            await ready
        finally:
            loop.remove_reader(fd)
        data, fds, _, _ = socket.recv_fds(self._control, 64, 1)
        if not data or not fds:
            raise EOFError("the fork server ended")
        return int(data), fds[0]

    async def _ensure_server(self) -> None:
        if self._closed:
            raise WorkersFailed("the store is closed")
        if self._server is not None:
            if self._server.poll() is None:
                return
            self._end_server()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "scow.store.forkserver", str(theirs.fileno()), str(os.getpid())]
        try:
            # -c and -m put the working directory into sys.path; what we have there is what the engine imported from.
            environment = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            # From this thread: the server is told to die with the thread that made it, and pool threads may end.
            self._server = subprocess.Popen(  # noqa: ASYNC220 - 1 ms of vfork, see above
                command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),), env=environment, cwd="/"
            )
        except OSError as error:
            ours.close()
            raise WorkersFailed(str(error)) from error
        finally:
            theirs.close()
        ours.setblocking(False)
        self._control = ours

    def _end_server(self) -> None:
        control, server, self._control, self._server = self._control, self._server, None, None
        if control is not None:
            control.close()
        if server is not None:
            server.kill()
            server.wait()

    # idleness

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._busy and not self._closed and self._server is not None:
            self._timer = asyncio.get_running_loop().call_later(self._idle_s, self._rest)

    def _rest(self) -> None:
        self._timer = None
        if not self._busy and not self._starting.locked():
            self._end_all()

    def _end_all(self) -> None:
        while self._idle:
            self._idle.pop().close()
        self._end_server()


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
