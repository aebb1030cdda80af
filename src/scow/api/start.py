"""`scowd` as it is started: what its imports would do needlessly is left out. A sixth of a second, with 700 modules.

aiohttp reads the machine's certificate authorities twice while it is imported, for connections that give no TLS
settings of their own. All of the engine's do but those to a proxy by TLS: so they are read when the first of these is
made. And the garbage collector looks in vain at what modules are made of: it begins when they are there, and never
looks at them.
"""

import gc
import ssl
import sys
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
    ssl.SSLContext.set_default_verify_paths = lambda self: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        ssl.create_default_context = made
        del ssl.SSLContext.set_default_verify_paths
        assert ssl.SSLContext.set_default_verify_paths == read


def main() -> int:
    """Run the daemon; as `daemon.main`, which lets the garbage collector begin."""
    gc.disable()
    with authorities_later():
        from scow.api import daemon
    return daemon.main()


if __name__ == "__main__":
    sys.exit(main())
