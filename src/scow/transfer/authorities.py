"""Certificate authorities of the machine, read when a connection needs them rather than while modules are imported.

aiohttp reads them twice while it is imported, for connections that give no TLS settings of their own: that takes 90 ms
and 1.5 MiB of each process, and a daemon of ours may never make such a connection.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class LateAuthorities(ssl.SSLContext):
    """A client's context that reads the machine's certificate authorities when it is first used."""

    _read = False

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """As SSLContext.wrap_bio, by which asyncio begins a connection."""
        if not self._read:
            self._read = True
            self.load_default_certs(ssl.Purpose.SERVER_AUTH)
        return super().wrap_bio(*args, **kwargs)


@contextmanager
def authorities_later() -> Iterator[None]:
    """Meanwhile default contexts are made without their authorities."""
    made, read = ssl.create_default_context, ssl.SSLContext.set_default_verify_paths
    ssl.create_default_context = lambda *args, **kwargs: LateAuthorities(ssl.PROTOCOL_TLS_CLIENT)
    # Of the context that verifies nothing.
    ssl.SSLContext.set_default_verify_paths = lambda self: None  # type: ignore[method-assign]  # put back below
    try:
        yield
    finally:
        ssl.create_default_context = made
        del ssl.SSLContext.set_default_verify_paths
        assert ssl.SSLContext.set_default_verify_paths == read
