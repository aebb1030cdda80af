"""Clients attached to a container or exec: bytes between their connection and the process, until either ends.

An attachment is registered before the client is told so, and before the container starts: it is connected between the
runtime's create and start, so that no output is lost (design.md, facts).
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, Final, Protocol

from scow.engine.streams import STDERR, STDOUT, Duplex
from scow.errors import InvalidArgument

END_S: Final = 5.0  # an end of output waits as long at most until the engine has dealt with the process's end
DEFAULT_DETACH_KEYS: Final = "ctrl-p,ctrl-q"
_NAMED: Final = {"ctrl-@": 0, "ctrl-[": 27, "ctrl-\\": 28, "ctrl-]": 29, "ctrl-^": 30, "ctrl-_": 31}


class ProcessStream(Protocol):
    """The process's side: what conmon's attach socket, or an exec's pipes, offer."""

    async def read(self) -> list[tuple[int, bytes]]:
        """Chunks of (stream number, data); empty at the end of all output."""
        ...

    async def write(self, data: bytes) -> None:
        """Give input to the process."""
        ...

    async def close_stdin(self) -> None:
        """End the input."""
        ...

    async def aclose(self) -> None:
        """Let go of the process."""
        ...


class Attachment:
    """One attached client. `run` pumps until the output ends, the client is gone, or it types the detach keys."""

    def __init__(
        self,
        *,
        tty: bool,
        stdin: bool,
        stdout: bool,
        stderr: bool,
        close_stdin: bool,
        detach_keys: bytes,
        history: AsyncIterator[list[tuple[int, bytes]]] | None = None,
        on_detach: Callable[[], None] = lambda: None,
        on_end: Callable[["Attachment"], None] = lambda attachment: None,
    ) -> None:
        self.tty = tty
        self._stdin = stdin
        self._wanted = {number for number, wanted in ((STDOUT, stdout), (STDERR, stderr)) if wanted}
        self._close_stdin = close_stdin
        self._detach_keys = detach_keys
        self._history = history
        self._on_detach = on_detach
        self._on_end = on_end
        self._detached = False
        self.output_ended = False  # the process closed its side: it is not the client who left
        self._stream: asyncio.Future[ProcessStream | None] = asyncio.get_running_loop().create_future()
        self._until: asyncio.Future[Any] | None = None

    def connect(self, stream: ProcessStream | None, until: "asyncio.Future[Any] | None" = None) -> None:
        """Hand over the process's side; None if there will be none (the start failed, the container was removed).

        `until` is done when the end of the process is recorded: a client that has read all output, and looks at the
        container or removes it then, doesn't find it running."""
        if not self._stream.done():
            self._until = until
            self._stream.set_result(stream)

    @property
    def takes_input(self) -> bool:
        """Whether the client's input goes to the process."""
        return self._stdin

    async def run(self, client: Duplex) -> None:
        """Pump until the end. Whatever happens, both sides are let go of."""
        try:
            await self._run(client)
        finally:
            self._on_end(self)
            if not self._stream.done():
                self._stream.set_result(None)
            stream = self._stream.result()
            if stream is not None:
                await stream.aclose()

    async def _run(self, client: Duplex) -> None:
        if self._history is not None:
            async for chunks in self._history:
                await client.send(chunks)
        gone = asyncio.ensure_future(client.wait_closed())
        try:
            await asyncio.wait((gone, self._stream), return_when=asyncio.FIRST_COMPLETED)
            stream = self._stream.result() if self._stream.done() else None
            if stream is not None:
                await self._pump(stream, client, gone)
                if self.output_ended and self._until is not None:
                    await stream.aclose()  # the monitor waits for those who are attached
                    await asyncio.wait((gone, self._until), timeout=END_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _end(gone)

    async def _pump(self, stream: ProcessStream, client: Duplex, gone: asyncio.Future[None]) -> None:
        output = asyncio.ensure_future(self._pump_output(stream, client))
        tasks: set[asyncio.Future[None]] = {output, gone}
        typing: asyncio.Future[None] | None = None
        if self._stdin:
            typing = asyncio.ensure_future(self._pump_input(stream, client))
            tasks.add(typing)
        try:
            while output not in (done := (await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED))[0]):
                if gone in done:
                    return
                if typing is not None and typing in done:
                    tasks.discard(typing)
                    typing.result()
                    if self._detached:
                        self._on_detach()
                        return
            output.result()
            self.output_ended = True
        finally:
            await _end(output)
            if typing is not None:
                await _end(typing)

    async def _pump_output(self, stream: ProcessStream, client: Duplex) -> None:
        wanted = self._wanted
        everything = wanted == {STDOUT, STDERR}
        while chunks := await stream.read():
            if not everything:
                chunks = [chunk for chunk in chunks if chunk[0] in wanted]
            if chunks:
                await client.send(chunks)

    async def _pump_input(self, stream: ProcessStream, client: Duplex) -> None:
        """Copy input to the process, until its end or the detach keys."""
        keys = DetachKeys(self._detach_keys) if self.tty else None
        with suppress(BrokenPipeError, ConnectionError):  # the process stopped reading; its output goes on
            while data := await client.receive():
                if keys is not None:
                    data, detach = keys.feed(data)
                    if detach:
                        self._detached = True
                        return
                if data:
                    await stream.write(data)
            if self._close_stdin:
                await stream.close_stdin()


async def _end(task: asyncio.Future[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError, OSError):
        await task


class DetachKeys:
    """Finds the key sequence in typed bytes; what only began like it is passed on."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Give what is to be passed on, and whether the sequence is complete."""
        if not self._keys:
            return data, False
        passed = bytearray()
        for byte in data:
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    return bytes(passed), True
                continue
            passed += self._keys[: self._matched]
            self._matched = 0
            if byte == self._keys[0]:
                self._matched = 1
                if len(self._keys) == 1:
                    return bytes(passed), True
            else:
                passed.append(byte)
        return bytes(passed), False


def parse_detach_keys(text: str | None, word: str = "detach") -> bytes:
    """Read `ctrl-p,ctrl-q` or `a,b`; the default for None and "". Raises InvalidArgument in docker's words."""
    keys = bytearray()
    for key in (text or DEFAULT_DETACH_KEYS).split(","):
        lower = key.lower()
        if len(key) == 1:
            keys += key.encode("utf-8", "replace")
        elif lower in _NAMED:
            keys.append(_NAMED[lower])
        elif lower.startswith("ctrl-") and len(lower) == 6 and "a" <= lower[5] <= "z":
            keys.append(ord(lower[5]) - ord("a") + 1)
        else:
            raise InvalidArgument(f"Invalid {word} keys ({text}) provided")
    return bytes(keys)
