"""What ADD takes from URLs."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from scow.build.git import GitAccess
from scow.build.sources import Remote
from scow.errors import Unavailable


class Server:
    """`/one` asks for credentials; `/away` leads to a name of the same machine that is another host to clients."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.seen.append((self.path, self.headers.get("Authorization")))
                if self.path == "/away":
                    self.send_response(302)
                    self.send_header("Location", f"http://localhost:{server.port}/one")
                else:
                    self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("secret", "sent"),
    [
        ({"HTTP_AUTH_HEADER_127.0.0.1": b"Basic abc\n"}, "Basic abc"),
        ({"HTTP_AUTH_TOKEN_127.0.0.1": b"tok"}, "Bearer tok"),
        ({"HTTP_AUTH_TOKEN_example.com": b"tok"}, None),
        ({"HTTP_AUTH_TOKEN": b"tok"}, None),
    ],
)
async def test_credentials_go_to_the_host_that_they_are_for(
    server: Server, tmp_path: Path, secret: dict[str, bytes], sent: str | None
) -> None:
    await Remote(f"http://127.0.0.1:{server.port}/one", GitAccess(secrets=secret)).fetch(tmp_path)
    assert server.seen == [("/one", sent)]


async def test_credentials_do_not_follow_to_other_hosts(server: Server, tmp_path: Path) -> None:
    access = GitAccess(secrets={"HTTP_AUTH_TOKEN_127.0.0.1": b"tok"})
    await Remote(f"http://127.0.0.1:{server.port}/away", access).fetch(tmp_path)
    assert server.seen == [("/away", "Bearer tok"), ("/one", None)]


async def test_a_password_in_a_url_is_in_no_message(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as refused:
        await Remote("http://me:s3cret@127.0.0.1:1/x", GitAccess()).fetch(tmp_path)
    assert "s3cret" not in str(refused.value)
