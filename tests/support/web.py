"""Web servers in a thread: of a folder's files, or of whatever a handler answers."""

import functools
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path


class Quiet(http.server.BaseHTTPRequestHandler):
    """A handler that writes no log."""

    def log_message(self, *_: object) -> None:
        pass


class _Files(Quiet, http.server.SimpleHTTPRequestHandler):
    pass


@contextmanager
def serving(handler: Callable[..., http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve while the block lasts; gives `host:port`."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def web_server(folder: Path) -> AbstractContextManager[str]:
    """Serve a folder while the block lasts; gives `host:port`."""
    return serving(functools.partial(_Files, directory=str(folder)))
