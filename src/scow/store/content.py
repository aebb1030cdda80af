"""Content: blobs by digest, in files that appear whole or not at all.

A blob is written to a temporary file beside the others, synced, and renamed to its place; so what is there is complete,
whatever was killed when. `get` checks the digest again, since disks rot. Removing marks the digest as leaving before
the first wait, so that whoever asks then doesn't build on it.
"""

import asyncio
import contextlib
import os
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Final

from scow.errors import InvalidArgument, NotFound
from scow.oci.digest import HEX_LENGTH, Digest, digest_of, sha256

INLINE_LIMIT: Final = 64 << 10  # bytes hashed in the event loop at most: 50 us
TEMPORARY: Final = "content-"

_HEX: Final = re.compile(r"[0-9a-f]+\Z")


class NoSuchContent(NotFound):
    """There is no such blob, or what is there is damaged, which is as good as none."""

    def __init__(self, digest: str, why: str = "no such content") -> None:
        super().__init__(f"content {digest}: {why}")
        self.digest = digest


class WrongDigest(InvalidArgument):
    """The bytes are not those that the digest names."""

    def __init__(self, digest: str, actual: str) -> None:
        super().__init__(f"content {digest}: digest mismatch, the bytes have {actual}")
        self.digest = digest
        self.actual = actual


class Content:
    """The blobs under `blobs`; temporary files lie in `ingest`, on the same file system.

    `on_use` hears of every digest that somebody puts, finds or reads: leases protect by it. Digests in `_leaving` are
    being removed; a lock for each digest in `_locks` keeps putting and removing the same blob apart.
    """

    def __init__(self, blobs: Path, ingest: Path, on_use: Callable[[str], None] | None = None) -> None:
        self._blobs = blobs
        self._ingest = ingest
        self._on_use = on_use or (lambda digest: None)
        self._leaving: set[Digest] = set()
        self._locks: dict[Digest, tuple[asyncio.Lock, int]] = {}

    def path(self, digest: Digest) -> Path:
        """Return where the blob is, or would be."""
        return Path(self._name(digest))

    def _name(self, digest: Digest) -> str:
        # Ten thousand of them are asked for at once: joining Paths takes several times as long as looking.
        name, _, digits = digest.partition(":")
        return f"{self._blobs}/{name}/{digits[:2]}/{digits}"

    def has(self, digest: Digest) -> bool:
        """Return whether the blob is there; under a lease it then stays."""
        if digest in self._leaving or not os.path.exists(self._name(digest)):
            return False
        self._on_use(digest)
        return True

    def size(self, digest: Digest) -> int:
        """Return the blob's size in bytes. Raises NoSuchContent."""
        try:
            if digest not in self._leaving:
                size = os.stat(self._name(digest)).st_size
                self._on_use(digest)
                return size
        except FileNotFoundError:
            pass
        raise NoSuchContent(digest)

    async def put(self, data: bytes, digest: Digest | None = None) -> Digest:
        """Keep `data`, checked against `digest` if one is given. Idempotent. Raises WrongDigest."""
        like = digest or "sha256:"
        actual = (
            _digest_of(data, like) if len(data) <= INLINE_LIMIT else await asyncio.to_thread(_digest_of, data, like)
        )
        if digest is not None and actual != digest:
            raise WrongDigest(digest, actual)
        self._on_use(actual)
        async with self._locked(actual):
            await asyncio.to_thread(self._write, actual, data)
        return actual

    async def adopt(self, file: Path, digest: Digest) -> None:
        """Move `file` (verified, synced, on the same file system) to be the blob `digest`. Idempotent."""
        self._on_use(digest)
        async with self._locked(digest):
            await asyncio.to_thread(self._move_in, file, digest)

    async def get(self, digest: Digest) -> bytes:
        """Return the blob's bytes, verified. For documents, not for layers. Raises NoSuchContent."""
        self._on_use(digest)
        return await self.peek(digest)

    async def peek(self, digest: Digest, *, limit: int | None = None) -> bytes:
        """Return the blob's bytes, verified, without counting as a use of it. Raises NoSuchContent.

        With `limit`, of a blob with more bytes only the first ones are read and returned, unverified.
        """
        if digest in self._leaving:
            raise NoSuchContent(digest)
        try:
            data = await asyncio.to_thread(_read, self.path(digest), limit)
        except FileNotFoundError:
            raise NoSuchContent(digest) from None
        if limit is not None and len(data) > limit:
            return data
        actual = (
            _digest_of(data, digest) if len(data) <= INLINE_LIMIT else await asyncio.to_thread(_digest_of, data, digest)
        )
        if actual != digest:
            raise NoSuchContent(digest, f"damaged on disk, its bytes have {actual}")
        return data

    async def remove(self, digest: Digest) -> int:
        """Remove the blob; return the bytes that were freed on disk, 0 if there was none."""
        self._leaving.add(digest)
        try:
            async with self._locked(digest):
                return await asyncio.to_thread(_unlink, self.path(digest))
        finally:
            self._leaving.discard(digest)

    async def all(self) -> dict[Digest, int]:
        """Return every blob that is on disk, with its size in bytes."""
        return await asyncio.to_thread(lambda: dict(self._scan()))

    async def clear_ingest(self) -> int:
        """Remove the temporary files that a killed process left; return how many. For start-up only."""

        def clear() -> int:
            leftovers = [name for name in os.listdir(self._ingest) if name.startswith(TEMPORARY)]
            for name in leftovers:
                os.unlink(self._ingest / name)
            return len(leftovers)

        return await asyncio.to_thread(clear)

    @contextlib.asynccontextmanager
    async def _locked(self, digest: Digest) -> AsyncIterator[None]:
        lock, users = self._locks.get(digest, (asyncio.Lock(), 0))
        self._locks[digest] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            users = self._locks[digest][1] - 1
            if users:
                self._locks[digest] = lock, users
            else:
                del self._locks[digest]

    def _write(self, digest: Digest, data: bytes) -> None:
        target = self.path(digest)
        # Compared, not only looked for: putting a blob again is how a damaged one is healed.
        with contextlib.suppress(FileNotFoundError):
            if target.stat().st_size == len(data) and target.read_bytes() == data:
                return
        temporary = self._ingest / f"{TEMPORARY}{secrets.token_hex(8)}"
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self._move_in(temporary, digest)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _move_in(self, file: Path, digest: Digest) -> None:
        target = self.path(digest)
        try:
            os.rename(file, target)
        except FileNotFoundError:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(file, target)
        # The name must be on disk before anything that is, in the database, refers to it.
        directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _scan(self) -> Iterable[tuple[Digest, int]]:
        for name, length in HEX_LENGTH.items():
            for folder in _entries(self._blobs / name):
                for entry in _entries(Path(folder.path)):
                    if len(entry.name) == length and _HEX.match(entry.name):
                        with contextlib.suppress(FileNotFoundError):
                            yield Digest(f"{name}:{entry.name}"), entry.stat(follow_symlinks=False).st_size


def _digest_of(data: bytes, like: str) -> Digest:
    return sha256(data) if like.startswith("sha256:") else digest_of(data, like)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read(path: Path, limit: int | None) -> bytes:
    with path.open("rb") as file:
        return file.read() if limit is None else file.read(limit + 1)


def _unlink(path: Path) -> int:
    try:
        status = path.stat()
        path.unlink()
    except FileNotFoundError:
        return 0
    # Of what has another name, the tar of a layer that isn't compressed, nothing is freed yet.
    return status.st_blocks * 512 if status.st_nlink == 1 else 0
