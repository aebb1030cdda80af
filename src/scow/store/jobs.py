"""The jobs that a worker can do, by name, and what it answers."""

from collections.abc import Callable
from typing import Final

from scow.store.capture import Capture
from scow.store.ingest import Ingest, Job, Mismatch, compress, unpack_tar
from scow.store.split import ArchiveCorrupt, Split
from scow.store.take import take
from scow.store.tarstream import LayerUnsupported
from scow.store.tree import LayerCorrupt


def _explore(job: Job) -> Job:
    from scow.store import exploring  # seldom wanted, and not worth every worker's memory

    {"explore": exploring.explore, "compare": exploring.compare}[job["do"]](job)
    return {"result": True}


def _verify(job: Job) -> Job:
    from scow.store import verifying

    return {"verify": verifying.verify, "reindex": verifying.reindex, "rebuild": verifying.rebuild}[job["do"]](job)


_OTHERS: Final = {
    "explore": _explore,
    "compare": _explore,
    "verify": _verify,
    "reindex": _verify,
    "rebuild": _verify,
}


def perform(job: Job, source: int | None, finished: Callable[[], None], tell: Callable[[int], None]) -> Job:
    """Do one job and answer it; what went wrong is an answer too: `error` says which kind.

    Jobs that read a file that is there `tell` how many bytes of it they have done.
    """
    try:
        if job["do"] == "compress":
            return compress(job, tell)
        if job["do"] == "unpack":
            return unpack_tar(job)
        if job["do"] == "capture":
            capture = Capture(job)
            try:
                return capture.run()
            finally:
                capture.close()
        if job["do"] == "take":
            return take(job, tell)
        if (own := _OTHERS.get(job["do"])) is not None:
            return own(job)
        assert source is not None
        if job["do"] == "split":
            return Split(job, source).run(finished)
        ingest = Ingest(job, source)
        try:
            return ingest.run(finished)
        finally:
            ingest.close()
    except Mismatch as error:
        return {"error": "mismatch", "what": error.what, "expected": error.expected, "found": error.found}
    except ArchiveCorrupt as error:
        return {"error": "archive", "reason": str(error)}
    except LayerUnsupported as error:
        return {"error": "unsupported", "reason": error.reason}
    except LayerCorrupt as error:
        return {"error": "corrupt", "reason": error.reason}
    except (OSError, MemoryError) as error:
        return {"error": "failed", "reason": str(error) or type(error).__name__, "errno": getattr(error, "errno", None)}
