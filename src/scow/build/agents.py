"""SSH agents for steps: a socket of a step's own, with the owner and mode that it asks for, that leads to the agent."""

import asyncio
import contextlib
import os
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from scow.build.compose import Owner

_NAME: Final = "agent"
_PIECE: Final = 1 << 16


@contextlib.asynccontextmanager
async def forwarded(agent: Path, folder: Path, owner: Owner, mode: int) -> AsyncIterator[Path]:
    """A socket in a new `folder` that leads to the one of an agent, while the block lasts."""
    listener = await asyncio.to_thread(_listen, folder, owner, mode)
    connections: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(_carry(agent, reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)

    try:
        server = await asyncio.start_unix_server(accept, sock=listener)
        try:
            yield folder / _NAME
        finally:
            server.close()
            for task in connections:
                task.cancel()
            await asyncio.gather(*connections, return_exceptions=True)
    finally:
        listener.close()
        await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(shutil.rmtree, folder, True)))


def _listen(folder: Path, owner: Owner, mode: int) -> socket.socket:
    folder.mkdir(mode=0o700, parents=True)
    listener = socket.socket(socket.AF_UNIX)
    # By the number of the folder: the address of a socket has room for 107 bytes, and folders can be deep.
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{fd}/{_NAME}")
        listener.setblocking(False)
        os.chown(_NAME, owner.uid, owner.gid, dir_fd=fd)
        os.chmod(_NAME, mode, dir_fd=fd)
        listener.listen()
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(fd)
    return listener


async def _carry(agent: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry one connection until both sides have ended it."""
    with contextlib.closing(writer):
        try:
            inward, outward = await asyncio.open_unix_connection(str(agent))
        except OSError:
            return  # the agent is gone: the client sees that nobody answers
        with contextlib.closing(outward):
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, outward))
                group.create_task(_pump(inward, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_PIECE):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
