"""What a worker does with a layer that is a file already: it becomes the layer's tar, or is inflated into one."""

import hashlib
import os
from collections.abc import Callable

from scow.oci.digest import Digest, algorithm
from scow.oci.media_types import Compression
from scow.store.compression import sniff
from scow.store.ingest import (
    BLOB,
    LAYER,
    READ_SIZE,
    TAR,
    Ingest,
    Job,
    Mismatch,
    OutputFile,
    make_form,
    sync_directory,
)
from scow.store.tarstream import TarReader


class _Kept(OutputFile):
    """A file that is there, with the digest that it is known to have."""

    def __init__(self, fd: int, size: int, digest: Digest) -> None:
        super().__init__(None, None)
        self.fd = fd
        self.size = size
        self._known = digest

    @property
    def digest(self) -> Digest:
        return self._known


def take(job: Job, tell: Callable[[int], None]) -> Job:
    """Make a layer of `file`, on the same file system, whose digest is `digest`, or is found out; else as Ingest.

    The file itself stays; a tar that isn't compressed is linked, not copied.
    """
    fd = os.open(job["file"], os.O_RDWR | os.O_CLOEXEC)
    try:
        if sniff(os.pread(fd, 16, 0)) is not Compression.NONE:
            ingest = Ingest(job, fd, tell)
            try:
                return ingest.run(lambda: None)
            finally:
                ingest.close()
        return _take_tar(job, fd, tell)
    finally:
        os.close(fd)


def _take_tar(job: Job, fd: int, tell: Callable[[int], None]) -> Job:
    size = os.fstat(fd).st_size
    wanted = job["diff_id"]
    digest = Digest(job["digest"] or "")
    if not digest or (wanted and algorithm(wanted) != algorithm(digest)):
        kind = algorithm(wanted or "sha256:")
        with open(job["file"], "rb") as file:
            digest = Digest(f"{kind}:{hashlib.file_digest(file, kind).hexdigest()}")
    if wanted and digest != wanted:
        raise Mismatch("diff ID", wanted, digest)
    blob = job["blob"]
    if blob and (size != job["blob_size"] or blob not in (digest, job["digest"])):
        raise Mismatch("digest", blob, digest)
    layer = f"{job['directory']}/{LAYER}"
    os.mkdir(layer, 0o755)
    kept = _Kept(fd, size, digest)
    wait = kept.start_sync()
    try:
        reader = TarReader()
        done = 0
        while data := os.read(fd, READ_SIZE):
            reader.feed(data)
            done += len(data)
            tell(done)
        os.link(job["file"], f"{layer}/{TAR}")
        form = make_form(layer, reader.finish(), kept, job["form"])
    finally:
        wait()
    if blob:
        os.link(job["file"], f"{job['directory']}/{BLOB}")
    sync_directory(layer)
    return {
        "diff_id": digest,
        "size": size,
        "form": form,
        "entries": reader.tree.entries,
        "files_size": reader.tree.files_size(),
        "compression": str(Compression.NONE),
    }
