"""The bytes of blobs, behind the interface that a folder and an object store share.

An upload's life: `open_stage` (again after each interruption), `append`, `close`; then `publish`, which makes the
staged bytes a durable object while the stage stays, and `discard` once the names are committed, or to cancel. What was
published takes no more bytes. Objects are written once and never change. Nothing here knows repositories.

An object's name is its digest and the upload that brought it. Names are never used twice, so removing one takes away
what was meant and nothing that was pushed since, whoever removes it, however late and however often.
"""

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, NewType, Protocol

from scow.oci.digest import Digest

if TYPE_CHECKING:
    from hashlib import _Hash

ObjectName = NewType("ObjectName", str)
"""`<digest>.<upload ID>`, or a digest alone: storages of earlier versions had no more."""


def object_name(digest: Digest, upload_id: str) -> ObjectName:
    """Name the object that an upload makes of its bytes."""
    return ObjectName(f"{digest}.{upload_id}")


def object_digest(name: ObjectName) -> Digest:
    """The digest of an object's bytes."""
    return Digest(name.partition(".")[0])


def object_upload(name: ObjectName) -> str:
    """The upload that made an object; empty if it was made by an earlier version."""
    return name.partition(".")[2]


class Stage(Protocol):
    """The bytes of one upload, held by one writer at a time."""

    @property
    def size(self) -> int:
        """Bytes staged so far."""

    @property
    def rereads(self) -> bool:
        """Whether staged bytes can be read again as long as more may come; else `feed` means that these are all."""

    def hash(self, name: str) -> "tuple[_Hash, int]":
        """A hash that was kept with the staged bytes and of how many of them it is, or a new one of none."""

    async def append(self, chunks: Sequence[bytes], hashes: "Sequence[_Hash]") -> None:
        """Add `chunks` to the end and feed them to `hashes`. Raises StorageFull."""

    async def feed(self, state: "_Hash", start: int) -> None:
        """Feed the staged bytes from `start` on to `state`. Where they can't be reread no more bytes are taken."""

    async def truncate(self, size: int) -> None:
        """Drop what lies behind `size`, which is what was staged when this holder came."""

    async def publish(self, name: ObjectName, tail: Sequence[bytes], state: "_Hash") -> None:
        """Make the staged bytes and `tail`, which is added to them, the object `name`, durably.

        `state` has been fed what is staged. Idempotent once the tail is added. Raises DigestInvalid and StorageFull.
        """

    async def close(self) -> None:
        """Let the next writer in. Idempotent."""


class OpenObject(Protocol):
    """An object that is being read. It stays readable even if it is removed meanwhile."""

    @property
    def size(self) -> int | None:
        """Bytes of the object, as far as that is known without asking."""

    @property
    def file(self) -> IO[bytes] | None:
        """A real file, for sendfile, if it is one; its position means nothing, for readers share it."""

    async def read(self, offset: int, count: int) -> AsyncGenerator[bytes, None]:
        """Begin to read so many bytes. A break raises ConnectionError. Raises ObjectMissing."""

    def release(self) -> None:
        """Say that this reader is done; to be called once."""


class ObjectMissing(OSError):
    """There is no such object."""


class Objects(Protocol):
    """Where blobs are kept."""

    @property
    def late_s(self) -> float:
        """How long after its writer has lost an upload an object may appear."""

    async def open_stage(self, upload_id: str, *, create: bool = False) -> Stage:
        """Hold an upload's bytes for writing. Raises UploadUnknown, StorageFull and UploadBusy.

        The last one also where a stage is to be made that is there already.
        """

    async def staged_size(self, upload_id: str) -> int:
        """Bytes staged so far. Raises UploadUnknown."""

    async def discard(self, upload_id: str) -> None:
        """Remove what was staged. Idempotent."""

    async def staged(self) -> list[tuple[str, float]]:
        """IDs of all uploads that hold bytes, with the time of their last change (seconds since the epoch)."""

    async def open(self, name: ObjectName) -> OpenObject | None:
        """Open an object for reading, None if there is none."""

    def open_now(self, name: ObjectName) -> OpenObject | None:
        """The same without waiting, if the object is at hand; None says nothing about whether it exists."""

    async def url(self, name: ObjectName) -> str | None:
        """Where a client may get an object for some minutes, None if it is to be read here."""

    async def verify(self, name: ObjectName) -> bool:
        """Read an object and tell whether its bytes are those of its digest; False if it is missing."""

    async def adopt(self, source: Path, name: ObjectName, *, verify: bool) -> int:
        """Make a file from elsewhere the object `name`; its size.

        Raises DigestInvalid, StorageFull and FileNotFoundError.
        """

    async def remove(self, name: ObjectName) -> None:
        """Remove an object. Idempotent."""

    async def sweep(self) -> None:
        """Remove what processes that died have begun and recorded nowhere; at times that are long apart."""

    async def aclose(self) -> None:
        """Close what is open."""
