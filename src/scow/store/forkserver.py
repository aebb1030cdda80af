"""The fork server's and the workers' side of workers.py: `python -m scow.store.forkserver FD PARENT`.

Kept apart from the engine's side because it must stay small: no asyncio, no msgspec. FD is a SOCK_SEQPACKET socket; for
each message with a descriptor (the worker's control socket) one worker is forked, and its pid and pidfd answered.
"""

import ctypes
import gc
import json
import os
import signal
import socket
import sys
import time
from typing import Final

from scow.store.ingest import Job
from scow.store.jobs import perform

MESSAGE_LIMIT: Final = 1 << 16
FAT_KIB: Final = 64 << 10  # resident size after which a worker ends instead of waiting for another job
_PR_SET_NAME: Final = 15
_PR_SET_PDEATHSIG: Final = 1
_TELL_EVERY_S: Final = 0.1
_SWITCH_INTERVAL_S: Final = 0.0005  # a stage that comes back from C waits at most so long for the one in Python

_libc = ctypes.CDLL(None)


def serve(control: socket.socket) -> None:
    """Fork a worker for each request, until the engine's end closes."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended workers vanish by themselves
    gc.collect()
    gc.freeze()  # so that the collector in a worker doesn't copy these pages by touching them
    gc.disable()  # trees of layers have no cycles: looking for some takes a quarter of the time of 200,000 files
    me = os.getpid()
    while True:
        data, fds, _, _ = socket.recv_fds(control, 64, 1)
        if not data:
            return
        pid = os.fork()
        if pid == 0:
            try:
                control.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _die_with(me)
                sys.setswitchinterval(_SWITCH_INTERVAL_S)
                work(socket.socket(fileno=fds[0]))
            finally:
                os._exit(0)
        os.close(fds[0])
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:  # it died at once; the engine sees that its socket closed
            pidfd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        socket.send_fds(control, [str(pid).encode()], [pidfd])
        os.close(pidfd)


class _Abandoned(BaseException):
    """The engine went away, or closed the pipe without having said that the bytes are complete."""


def work(control: socket.socket) -> None:
    """Do job after job: a message comes in, with the pipe if it needs one; the answer goes out."""
    while True:
        data, fds, _, _ = socket.recv_fds(control, MESSAGE_LIMIT, 1)
        if not data:
            return
        job: Job = json.loads(data)

        def finished() -> None:
            if control.recv(64) != b'"finish"':
                raise _Abandoned

        told_at = time.monotonic()

        def tell(done: int) -> None:
            nonlocal told_at
            if (now := time.monotonic()) - told_at >= _TELL_EVERY_S:
                told_at = now
                control.send(json.dumps({"progress": done}).encode())

        source = fds[0] if fds else None
        try:
            answer = perform(job, source, finished, tell)
        except _Abandoned:
            return
        finally:
            if source is not None:
                os.close(source)
        answer["job"] = job["job"]
        answer["last"] = _resident_kib() > FAT_KIB
        control.send(json.dumps(answer).encode())
        if answer["last"]:
            return


def _resident_kib() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * (os.sysconf("SC_PAGE_SIZE") >> 10)


def _die_with(parent: int) -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def main() -> None:
    """Run the fork server."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal is the engine's to handle
    _die_with(int(sys.argv[2]))
    _libc.prctl(_PR_SET_NAME, b"scow-workers", 0, 0, 0)
    serve(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
