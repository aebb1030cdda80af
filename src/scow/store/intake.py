"""An image archive on its way in: its files in a folder of their own, listed, until what is wanted of them is taken.

The folder lies in `ingest` and goes when the block is left; one that a killed engine left goes at the next start.
"""

import asyncio
import contextlib
import posixpath
import secrets
import shutil
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Final, Literal

import msgspec

from scow.oci.digest import Digest, algorithm, encoded
from scow.store.layer_errors import InvalidArchive
from scow.store.layer_writer import PipeWriter
from scow.store.layers import INFLATION_LIMIT
from scow.store.layers import TEMPORARY as LAYER_TEMPORARY
from scow.store.split import LIST
from scow.store.workers import Message, Worker, Workers

TEMPORARY: Final = f"{LAYER_TEMPORARY}archive-"  # among what Layers.reconcile removes
MAX_LINKS: Final = 16


class _Member(msgspec.Struct, frozen=True):
    name: str
    kind: Literal["file", "known", "hard link", "symlink"]
    target: str = ""
    size: int = 0
    digest: Digest = Digest("")
    number: int = -1


class Member(msgspec.Struct, frozen=True):
    """A file of the archive. `path` is None if the store has what its name's digest says, so that it wasn't written."""

    name: str
    size: int
    digest: Digest  # sha256 of its bytes
    path: Path | None


class Members:
    """The files of an archive, by their names in it."""

    def __init__(self, directory: Path, members: Iterable[_Member]) -> None:
        self._directory = directory
        self._members = {_clean(member.name): member for member in members}

    def find(self, name: str) -> Member | None:
        """The file of this name, links followed. Raises InvalidArchive for names and links that lead out."""
        member = self._members.get(_clean(name))
        for _ in range(MAX_LINKS):
            if member is None:
                return None
            if member.kind in ("file", "known"):
                path = self._directory / str(member.number) if member.kind == "file" else None
                return Member(member.name, member.size, member.digest, path)
            base = "" if member.kind == "hard link" else posixpath.dirname(member.name)
            member = self._members.get(_clean(posixpath.join(base, member.target)))
        raise InvalidArchive(f"the link {name} goes round in circles")

    def get(self, name: str) -> Member:
        """The file of this name. Raises InvalidArchive if there is none."""
        member = self.find(name)
        if member is None:
            raise InvalidArchive(f"it has no file {name}")
        return member

    def blob(self, digest: Digest) -> Member | None:
        """The file of an OCI layout that has this digest. Raises InvalidArchive if it is damaged."""
        member = self.find(f"blobs/{algorithm(digest)}/{encoded(digest)}")
        if member is not None and algorithm(digest) == "sha256" and member.digest != digest:
            raise InvalidArchive(f"blob {digest} is damaged, its bytes have {member.digest}")
        return member

    async def read(self, member: Member, limit: int) -> bytes:
        """A document's bytes. Raises InvalidArchive if there are more than `limit`."""
        if member.size > limit:
            raise InvalidArchive(f"{member.name} has {member.size} bytes, {limit} are allowed")
        assert member.path is not None
        return await asyncio.to_thread(member.path.read_bytes)


def _clean(name: str) -> str:
    clean = posixpath.normpath(name.lstrip("/")) if name else ""
    if clean == ".." or clean.startswith("../") or not clean or clean == ".":
        raise InvalidArchive(f"the name {name!r} leads out of it")
    return clean


@contextlib.asynccontextmanager
async def intake(workers: Workers, ingest: Path, known: Iterable[Digest]) -> AsyncIterator[PipeWriter[Members]]:
    """Take an archive's bytes: `write` them all, then `finish`, which gives its members; all goes at the block's end.

    `known` are sha256 digests of blobs that needn't be written. Raises WorkersFailed; the writer InvalidArchive,
    WorkerDied, DiskFull and LayerFailed.
    """
    name = f"{TEMPORARY}{secrets.token_hex(8)}"
    directory = ingest / name

    held: Worker | None = None

    def let_go() -> None:
        nonlocal held
        if held is not None:
            worker, held = held, None
            writer.end()
            workers.release(worker)

    async def listed(_: Message) -> Members:
        let_go()  # now, not at the block's end: those who take layers out of the archive wait for workers
        data = await asyncio.to_thread((directory / LIST).read_bytes)
        return Members(directory, msgspec.json.decode(data, type=list[_Member]))

    def make() -> None:
        directory.mkdir(0o700)
        (directory / "known").write_text("".join(f"{encoded(digest)}\n" for digest in known))

    try:
        await asyncio.to_thread(make)
        held = await workers.acquire()
        writer: PipeWriter[Members] = PipeWriter(held, "archive", listed)
        try:
            job: Message = {
                "do": "split",
                "job": name,
                "directory": str(directory),
                "known": str(directory / "known"),
                "limit": INFLATION_LIMIT,
            }
            await writer.start(job)
            yield writer
        finally:
            let_go()
    finally:
        # Shielded: whoever was cancelled leaves nothing behind.
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True))
