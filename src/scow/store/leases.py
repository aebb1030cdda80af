"""Leases: what a running pull, load or build has put or counts on is not garbage, although no image reaches it yet.

A lease lives in memory: after a crash nobody works on what it protected, and the collection at start removes it.
While it is held it protects every digest (of content) and diff ID (of a layer) that anybody puts, finds or reads, as
the stores report by `touch`. That errs to the safe side when several are held at once, and needs no bookkeeping of
who asked.
"""

import contextlib
from collections.abc import AsyncIterator, Container, Iterator


class Lease:
    """What one holder protects; made by `Leases.hold`."""

    def __init__(self) -> None:
        self._digests: set[str] = set()

    def protect(self, *digests: str) -> None:
        """Protect more content or layers, until the lease ends."""
        self._digests.update(digests)

    def __contains__(self, digest: object) -> bool:
        return digest in self._digests


class Leases:
    """The leases that are held now. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._held: list[Lease] = []
        self._pins: list[Container[str]] = []
        self._silent = False

    @contextlib.asynccontextmanager
    async def hold(self) -> AsyncIterator[Lease]:
        """Protect what is put and found from here on until the block is left, by success, failure or cancellation."""
        lease = Lease()
        self._held.append(lease)
        try:
            yield lease
        finally:
            self._held.remove(lease)

    def touch(self, digest: str) -> None:
        """Let every lease that is held protect `digest`: somebody just put it, or found it there."""
        if not self._silent:
            for lease in self._held:
                lease.protect(digest)

    @contextlib.contextmanager
    def silence(self) -> Iterator[None]:
        """Don't count what the block, which must not await, finds: the garbage collection looks at everything."""
        self._silent = True
        try:
            yield
        finally:
            self._silent = False

    def pin(self, digests: Container[str]) -> None:
        """Protect what `digests` contains at any time, for good: what the build cache holds."""
        self._pins.append(digests)

    @property
    def held(self) -> bool:
        """Whether somebody holds a lease now."""
        return bool(self._held)

    def protects(self, digest: str) -> bool:
        """Return whether a lease that is held, or a pin, protects `digest`."""
        return any(digest in lease for lease in (*self._held, *self._pins))
