"""OCI runtimes: the programs that make containers, and how a created container is started with each."""

import asyncio
import os
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from scow.linux.process import spawn
from scow.runtime.failures import RuntimeFailed

ENVIRONMENT: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
_FIFO: Final = "exec.fifo"
_START_TIMEOUT_S: Final = 60.0


class Gate(StrEnum):
    """What a created process waits for. Both kinds are what the runtimes' own `start` does, less its process."""

    CALL = "call"  # unknown: have the runtime's `start` do it
    READS = "reads"  # crun's process waits to read a byte from its exec.fifo
    WRITES = "writes"  # runc's waits for somebody who opens its exec.fifo to read


class OciRuntime(msgspec.Struct, frozen=True, kw_only=True):
    """A runtime: its name as users give it, its program, and arguments that come before the command."""

    name: str
    path: Path
    arguments: tuple[str, ...] = ()

    @property
    def gate(self) -> Gate:
        """How its created processes wait, as far as the program's name tells."""
        return {"crun": Gate.READS, "runc": Gate.WRITES}.get(self.path.name, Gate.CALL)

    async def start(self, state: Path, id: str) -> None:
        """Start a created container. Raises RuntimeFailed."""
        fifo = state / id / _FIFO
        if self.gate is Gate.READS and _write_gate(fifo):
            return
        if self.gate is Gate.WRITES and await _read_gate(fifo):
            return
        await self.call(state, "start", id)

    async def call(self, state: Path, *arguments: str) -> None:
        """Run one of its commands to the end. Raises RuntimeFailed with what it said."""
        with os.fdopen(os.memfd_create("stderr"), "w+b") as errors:
            child = spawn(
                [self.path, *self.arguments, "--root", state, *arguments],
                environment=ENVIRONMENT,
                stderr=errors.fileno(),
            )
            code = await child.wait()
            if code != 0:
                errors.seek(0)
                said = errors.read().decode(errors="replace").strip()
                raise RuntimeFailed(f"{self.name} {arguments[0]} failed: {said or f'exit status {code}'}")


def _write_gate(fifo: Path) -> bool:
    """Give crun's waiting process its byte; False if nobody waits."""
    try:
        fd = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # no such pipe, or nobody reads it: let the runtime say what is wrong
        return False
    try:
        # Removed first: the pipe's existence is what tells "created" from "running".
        fifo.unlink()
        os.write(fd, b"\0")
    finally:
        os.close(fd)
    return True


async def _read_gate(fifo: Path) -> bool:
    """Let runc's waiting process write its byte; False if there is no pipe."""
    try:
        fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, readable.set_result, None)
    try:
        async with asyncio.timeout(_START_TIMEOUT_S):
            await readable
        os.read(fd, 1)
        with suppress(FileNotFoundError):
            os.unlink(fifo)
    except TimeoutError as error:
        raise RuntimeFailed("the container's process does not wait to be started") from error
    finally:
        loop.remove_reader(fd)
        os.close(fd)
    return True
