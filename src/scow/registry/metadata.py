"""The names of a registry: repositories, manifests, tags, who has which blob, uploads.

`Metadata` is what the server needs of whoever keeps them, SQLite here; the records are what crosses that line. Every
method that changes something has committed it, durably where a client is told so, when it returns.
"""

import enum
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from scow.oci.digest import Digest
from scow.registry.conditions import NO_CONDITIONS, Conditions
from scow.registry.objects import ObjectName
from scow.registry.policies import Quota, TagTime

LARGE_SIZE: Final = 256 << 10
"""A manifest of more bytes is large: few of them may be in memory at once."""


SHOWN_SIZE: Final = 64 << 10
"""Manifests of more bytes are not looked into where many are listed."""


class StoredManifest(msgspec.Struct, frozen=True):
    """A manifest as it was pushed."""

    digest: Digest
    media_type: str
    data: bytes

    @property
    def size(self) -> int:
        """Bytes of the manifest."""
        return len(self.data)


class LargeManifest(msgspec.Struct, frozen=True):
    """A manifest of more than `LARGE_SIZE` bytes without them: they are read by whoever has room for them."""

    digest: Digest
    media_type: str
    size: int


KnownManifest = StoredManifest | LargeManifest


class PastTag(msgspec.Struct, frozen=True):
    """What a tag stood for, until when (seconds since the epoch), and whether that can still be pulled."""

    digest: Digest
    until: float
    is_here: bool


class KeptManifest(msgspec.Struct, frozen=True):
    """A manifest of any repository."""

    repository_id: int
    repository: str
    digest: Digest
    data: bytes | None  # unless it is large

    @property
    def place(self) -> tuple[int, str]:
        """By which they are ordered."""
        return self.repository_id, self.digest


class NewManifest(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest to be stored, with what its document says."""

    digest: Digest
    media_type: str
    data: bytes
    artifact_type: str | None
    subject: Digest | None
    annotations: dict[str, str] | None
    blobs: tuple[Digest, ...]  # that the repository must have
    manifests: tuple[Digest, ...]  # that the repository must have
    sparse: bool = False  # what it refers to may come later: another registry has it


class Referrer(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest that names another one as its subject."""

    digest: Digest
    media_type: str
    size: int
    artifact_type: str | None
    annotations: dict[str, str] | None


class ShownRepository(msgspec.Struct, frozen=True):
    """A repository as people see it in a list."""

    name: str
    size: int  # bytes of all its blobs


class ShownTag(msgspec.Struct, frozen=True):
    """A tag as people see it in a list."""

    name: str
    digest: Digest
    updated_at: float  # seconds since the epoch
    data: bytes | None  # the manifest, unless it has more than `SHOWN_SIZE`


class LinkedBlob(msgspec.Struct, frozen=True):
    """A blob that a repository has."""

    object: ObjectName  # what its bytes are kept as
    size: int
    review_after: float | None  # when garbage collection will ask whether it is used; seconds since the epoch


class QuotaUse(msgspec.Struct, frozen=True):
    """A quota and how much of it is used."""

    quota: Quota
    used: int  # bytes


class Upload(msgspec.Struct, frozen=True):
    """A blob on its way in."""

    upload_id: str
    repository: str
    algorithm: str
    private: bool = False  # nobody was told its ID, so its end need not be remembered


class UploadRecord(msgspec.Struct, frozen=True):
    """What is written down of an upload."""

    upload: Upload
    has_ended: bool
    data: bytes | None  # its bytes, as long as they are few; None if they are in a stage


class SmallEnd(enum.Enum):
    """What became of an upload that was to end with few bytes."""

    DONE = enum.auto()
    STAGED = enum.auto()  # nothing: its bytes are in a stage or too many, or the blob is there and lies in storage
    WRONG_BYTES = enum.auto()  # it is over: they are not those of the digest
    NO_ROOM = enum.auto()  # it is over: a quota forbids them


class Misplaced(Exception):
    """Bytes do not begin where the last ones ended, at `size`."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size


class Metadata(Protocol):
    """Where names are kept."""

    def manifest_now(self, repository: str, reference: str) -> KnownManifest | None:
        """The manifest if it is at hand in memory and still current; None says nothing about whether it exists."""

    async def find_manifest(self, repository: str, reference: str, is_digest: bool) -> KnownManifest | None:
        """Find a manifest by tag or digest, and its bytes unless it is large."""

    async def manifest(self, repository: str, reference: str, is_digest: bool) -> StoredManifest | None:
        """Read a manifest, by tag or digest, however large it is."""

    def blob_now(self, repository: str, digest: Digest) -> LinkedBlob | None:
        """The blob's record if it is at hand in memory and still current; None says nothing."""

    async def blob(self, repository: str, digest: Digest) -> LinkedBlob | None:
        """Find a blob that the repository has."""

    async def keep_blob(self, repository: str, digest: Digest) -> bool:
        """Put off the blob's review by the grace time, for a push was told that it exists; False if it is gone."""

    async def put_manifest(
        self, repository: str, manifest: NewManifest, tags: Sequence[str], conditions: Conditions = NO_CONDITIONS
    ) -> None:
        """Store a manifest and point `tags` at it, if what they stand for meets `conditions`.

        Raises ReferencesUnknown with everything that is missing, TagImmutable and PreconditionFailed.
        """

    async def delete_tag(self, repository: str, tag: str, conditions: Conditions = NO_CONDITIONS) -> bool:
        """Remove a tag; False if there was none. Raises TagImmutable and PreconditionFailed."""

    async def delete_manifest(self, repository: str, digest: Digest) -> bool:
        """Remove a manifest and the tags that point at it; False if there was none.

        Raises TagImmutable, also if an index needs it that has such a tag.
        """

    async def delete_blob(self, repository: str, digest: Digest) -> bool:
        """Take a blob away from the repository; False if it did not have it. Raises TagImmutable."""

    async def let_go(self, digest: Digest) -> None:
        """Take a damaged blob away from all repositories, whatever needs it: who has it is asked for it again."""

    async def repository_exists(self, repository: str) -> bool:
        """Tell whether anything was ever pushed to it."""

    async def tags(self, repository: str, after: str, limit: int) -> list[str]:
        """Tags behind `after` in bytewise order, `limit` of them or all if it is negative."""

    async def repositories(self, after: str, limit: int) -> list[str]:
        """Names of repositories that have manifests, behind `after`, bytewise."""

    async def show_repositories(self, search: str, after: str, limit: int) -> list[ShownRepository]:
        """Repositories that have manifests and `search` in their names, behind `after`, bytewise."""

    async def show_tags(self, repository: str, search: str, after: str, limit: int) -> list[ShownTag]:
        """Tags with `search` in their names, behind `after`, bytewise."""

    async def referrers(
        self, repository: str, subject: Digest, artifact_type: str | None, after: str, limit: int
    ) -> list[Referrer]:
        """Manifests whose subject is `subject`, in the order of their digests, behind `after`."""

    async def begin_upload(self, upload: Upload) -> None:
        """Record an upload, before its stage. Idempotent. Raises UploadUnknown if it has ended.

        Until `move_upload` its bytes count as being in the record, unless it is private.
        """

    async def upload(self, repository: str, upload_id: str) -> UploadRecord | None:
        """What is written down of an upload of this repository."""

    async def append_small(self, upload: Upload, fresh: bool, start: int | None, data: bytes, limit: int) -> int | None:
        """Add few bytes to an upload's record, which is made if the upload is `fresh`; how many it has then.

        None if its bytes are in a stage, or would be more than `limit`: then nothing was done. `start` is where the
        client says they belong. Raises Misplaced and UploadUnknown.
        """

    async def move_upload(self, upload_id: str, data: bytes) -> bool:
        """Its bytes, `data`, are in a stage from now on; False if it has ended or has others: nothing was done."""

    async def finish_small(
        self, upload: Upload, fresh: bool, start: int | None, data: bytes, digest: Digest, limit: int
    ) -> SmallEnd:
        """Add `data` to an upload and make it a blob of its repository that lies in the database, durably.

        Arguments and exceptions are those of `append_small`.
        """

    async def end_upload(self, upload_id: str) -> None:
        """End an upload, for ever; what it may have published becomes garbage. Idempotent."""

    async def close_upload(self, upload_id: str, digest: Digest) -> ObjectName:
        """Announce that the upload's bytes are about to become the blob `digest`, which keeps collection away from it.

        The answer is the object to be published: that of the blob if there is one, else one of this upload alone.
        Raises UploadUnknown.
        """

    async def check_room(self, repository: str, size: int, digest: Digest | None = None) -> None:
        """Raise QuotaExceeded if so many bytes more would be too many, unless they are of a blob that is here.

        Cheap where there is no quota.
        """

    def largest_blob(self, repository: str) -> int:
        """Bytes of the largest blob that quotas could ever allow there; 0 is no limit."""

    async def quota_uses(self, repository: str) -> "list[QuotaUse]":
        """How full the quotas of a repository are. Cheap where there is none."""

    async def commit_blob(self, upload: Upload, digest: Digest, name: ObjectName, size: int) -> bool:
        """Give the repository the blob that was published as `name`, and end the upload.

        If somebody else was quicker with the same blob, theirs stays and `name` becomes garbage. False if a quota
        forbids it; the object is then left to collection. Raises UploadUnknown if the upload has ended
        meanwhile; what was published is garbage then.
        """

    async def holders(self, digest: Digest, limit: int) -> list[str]:
        """Some of the repositories that have a blob."""

    async def mount_blob(self, repository: str, source: str, digest: Digest) -> bool:
        """Give the repository a blob that `source` has; False if it does not. Raises QuotaExceeded."""

    async def expired_uploads(self, before: float) -> list[str]:
        """IDs of uploads with a stage that were begun before `before` (seconds since the epoch)."""

    async def expired_small_uploads(self, before: float) -> list[str]:
        """IDs of uploads whose bytes are in their record, and came before `before`."""

    async def forget_uploads(self, before: float) -> None:
        """Remove what is remembered of uploads that ended before `before`."""

    async def due_reviews(self, limit: int) -> "list[Review]":
        """What garbage collection should look at now."""

    async def review(self, review: "Review") -> None:
        """Decide one review. A blob that nobody uses is forgotten, and its object becomes garbage."""

    async def garbage(self, after: str, limit: int) -> list[ObjectName]:
        """Objects to be removed, in the order of their names, behind `after`: nothing refers to them, ever again."""

    async def forget_garbage(self, name: ObjectName, late_s: float = 0.0) -> bool:
        """The object is gone; False if somebody else has said so. After `late_s` it is to be removed once more."""

    async def due_blobs(self) -> list[tuple[Digest, int]]:
        """Blobs that deciding all due reviews would remove, with their sizes. Changes nothing."""

    async def tag_history(self, repository: str, tag: str) -> list[PastTag]:
        """What a tag stood for before it moved, the newest first; nothing of one that is deleted."""

    async def tag_times(self, repository: str) -> list[TagTime]:
        """Every tag with the time of its last move."""

    async def expire_tag(self, repository: str, tag: TagTime) -> bool:
        """Remove a tag unless it has moved meanwhile."""

    async def untagged(self, repository: str, before: float, unused_before: float) -> list[Digest]:
        """Manifests that since `before` (seconds since the epoch) no tag, index or subject needs.

        Those that somebody has pulled since `unused_before` are left out.
        """

    async def delete_untagged(self, repository: str, before: float, unused_before: float) -> int:
        """Remove them; how many there were."""

    async def all_manifests(self, after: "tuple[int, str]", limit: int) -> "list[KeptManifest]":
        """Every manifest, in the order of their places, behind `after`."""

    async def problems(self) -> list[str]:
        """What is wrong with the names themselves, read whole where they are in a file of ours."""

    async def all_blobs(self, after: str, limit: int) -> list[tuple[Digest, ObjectName]]:
        """Every blob with its object, in the order of digests, behind `after`."""


class Review(msgspec.Struct, frozen=True):
    """A candidate of garbage collection: a repository's blob (`link`), or a blob of nobody (`blob`)."""

    kind: str
    repository_id: int
    digest: Digest
