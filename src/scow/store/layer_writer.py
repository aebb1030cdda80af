"""Bytes of a layer or archive on their way from whoever brings them to the worker that checks and takes them in."""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from scow.store.layer_errors import LayerFailed, raise_answer
from scow.store.layer_records import Layer
from scow.store.workers import Message, Worker

PIPE_SIZE: Final = 1 << 20

T = TypeVar("T")


class PipeWriter(Generic[T]):
    """Bytes on their way to a worker. `write` and `finish` are for one task.

    `subject` names what they are in errors; `install` makes what the worker has answered visible.
    """

    def __init__(self, worker: Worker, subject: str, install: Callable[[Message], Awaitable[T]]) -> None:
        self.offset = 0  # bytes accepted: where a resumed download goes on
        self._worker = worker
        self._subject = subject
        self._install = install
        self._pipe = -1
        self._answered = False

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Hand over the next bytes; waits while the worker is behind. Raises what is wrong with those before."""
        view = memoryview(data).cast("B")
        while view:
            try:
                count = os.write(self._pipe, view)
            except BlockingIOError:
                await self._writable()
                continue
            except BrokenPipeError:
                await self._outcome()
                raise LayerFailed(self._subject, "the worker stopped reading") from None
            view = view[count:]
            self.offset += count

    async def finish(self) -> T:
        """Say that these were all bytes; return what they made once everything is verified, on disk and recorded.

        Raises DigestMismatch, LayerCorrupt, LayerUnsupported, WorkerDied, DiskFull, LayerFailed.
        """
        # The word goes before the end of the pipe, so that the worker finds it when it looks.
        await self._worker.send("finish")
        self._close_pipe()
        answer = await self._outcome()
        try:
            return await self._install(answer)
        except OSError as error:
            raise LayerFailed(self._subject, str(error)) from error

    def descriptor(self) -> int:
        """Return one more descriptor of the pipe, for somebody who writes instead of `write`, and closes it."""
        os.set_blocking(self._pipe, True)
        return os.dup(self._pipe)

    @property
    def pid(self) -> int:
        """The process that takes the bytes."""
        return self._worker.pid

    async def start(self, job: Message) -> None:
        """Send the job, with the pipe that `write` fills. Raises WorkerDied."""
        reading, self._pipe = os.pipe2(os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):  # beyond a user's limit of pipe memory: then it stays smaller
                fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
            os.set_blocking(self._pipe, False)
            await self._worker.send(job, (reading,))
        finally:
            os.close(reading)

    def end(self) -> None:
        """Close the pipe; a job that wasn't answered is given up, and its worker killed. Idempotent."""
        if not self._answered:
            self._worker.kill()
        self._close_pipe()

    async def _outcome(self) -> dict[str, object]:
        answer = await self._worker.receive()
        self._answered = True
        if "error" in answer:
            self._worker.kill()  # it may not have taken "finish" from its socket: not fit for another job
        raise_answer(answer, self._subject)
        return answer

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_writer(self._pipe, _resolve, ready)
        try:
            await ready
        finally:
            loop.remove_writer(self._pipe)

    def _close_pipe(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1


class LayerWriter(PipeWriter[Layer]):
    """One layer's bytes on their way to a worker. Made by `Layers.writer`."""


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
