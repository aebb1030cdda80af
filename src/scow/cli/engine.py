"""The engine as commands see it: requests under the negotiated API version, errors as exceptions, raw streams."""

from __future__ import annotations

from scow.cli.errors import CannotConnect, CliError, EngineError
from scow.cli.http import Connection, ConnectionLost, HttpError, Response, encode_query
from scow.cli.jsontext import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from scow.cli.hosts import Host

NEWEST = (1, 50)
OLDEST = (1, 24)  # what a server without an Api-Version header is taken for


def parse_version(text: str) -> tuple[int, int]:
    """Split "1.41". Raises ValueError."""
    major, _, minor = text.partition(".")
    return int(major), int(minor or "0")


class Engine:
    """A connection to one engine. The first request is preceded by one ping, which settles the version."""

    def __init__(self, host: Host, version: str = "", headers: Mapping[str, str] | None = None) -> None:
        self.host = host
        self.headers = {"User-Agent": "Docker-Client/28.2.2 (linux) scow", **(headers or {})}
        self._version: tuple[int, int] | None = None
        if version:
            try:
                self._version = parse_version(version.removeprefix("v"))
            except ValueError:
                raise CliError(f"invalid API version: {version}") from None
        self._idle: list[Connection] = []

    @property
    def version(self) -> tuple[int, int]:
        """The API version that requests use; asks the engine once."""
        if self._version is None:
            response = self._send("HEAD", "/_ping", {}, None)
            if response.status >= 500 or response.status == 404:
                self._recycle(response)
                response = self._send("GET", "/_ping", {}, None)
                response.read()
            self._recycle(response)
            try:
                offered = parse_version(response.headers.get("api-version", ""))
            except ValueError:
                offered = OLDEST
            self._version = min(NEWEST, offered)
        return self._version

    def at_least(self, minor: int) -> bool:
        return self.version >= (1, minor)

    def _connect(self) -> Connection:
        try:
            return Connection(self.host.dial(), self.host.header)
        except PermissionError as error:
            raise CannotConnect(
                self.host.text,
                f"permission denied while trying to connect to the Docker daemon socket at {self.host.text}: {error}",
            ) from None
        except OSError as error:
            if self.host.tls is not None and not isinstance(error, ConnectionRefusedError):
                raise CannotConnect(self.host.text, f"error during connect: {error}") from None
            raise CannotConnect(self.host.text) from None

    def _send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | Iterator[bytes] | None
    ) -> Response:
        connection = self._idle.pop() if self._idle else None
        if connection is not None:
            try:
                connection.send(method, target, {**self.headers, **headers}, body)
                return connection.response(method)
            except (ConnectionLost, BrokenPipeError, ConnectionResetError):
                connection.close()
        connection = self._connect()
        try:
            connection.send(method, target, {**self.headers, **headers}, body)
            return connection.response(method)
        except (ConnectionLost, BrokenPipeError, ConnectionResetError):
            connection.close()
            raise CannotConnect(self.host.text) from None
        except (HttpError, OSError) as error:
            connection.close()
            raise CannotConnect(self.host.text, f"error during connect: {error}") from None

    def _recycle(self, response: Response) -> None:
        if response.keeps:
            self._idle.append(response.connection)
        else:
            response.connection.close()

    def target(self, path: str, query: Mapping[str, str] | None = None) -> str:
        """The request target of an API path."""
        version = self.version
        text = f"/v{version[0]}.{version[1]}{path}"
        return f"{text}?{encode_query(query)}" if query else text

    def open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        data: bytes | Iterator[bytes] | None = None,
    ) -> Response:
        """Send a request and return the reply, its body unread. Raises EngineError for a status of 400 or more.

        `body` is sent as JSON, `data` as it is (with a Content-Type in `headers`). The caller reads the reply to the
        end and gives it back with `done()`, or closes its connection.
        """
        sent = dict(headers or {})
        if body is not None:
            data = dumps(body).encode("utf-8", "surrogateescape")
            sent["Content-Type"] = "application/json"
        response = self._send(method, self.target(path, query), sent, data)
        if response.status >= 400:
            raise self._error(response, method, path)
        return response

    def done(self, response: Response) -> None:
        """Give back a reply that was read; its connection is used again if it can be."""
        self._recycle(response)

    def _error(self, response: Response, method: str, path: str) -> EngineError | CliError:
        text = response.read()
        self._recycle(response)
        if "application/json" in response.headers.get("content-type", ""):
            try:
                message = loads(text)["message"]
                return EngineError(response.status, str(message).strip())
            except (ValueError, KeyError, TypeError):
                pass
        reason = text.decode("utf-8", "replace").strip()
        if not reason:
            return CliError(
                f"request returned {response.status} for API route and version {self.host.text}{self.target(path)}, "
                "check if the server supports the requested API version"
            )
        return EngineError(response.status, reason)

    def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Send a request and return the decoded reply, None if it is empty."""
        text = self.call_text(method, path, query, body, headers)
        return loads(text) if text.strip() else None

    def call_text(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """Send a request and return the reply's body."""
        response = self.open(method, path, query, body, headers)
        try:
            text = response.read()
        except HttpError as error:
            raise CliError(f"error reading the reply: {error}") from None
        self._recycle(response)
        return text

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        return self.call("GET", path, query)

    def post(self, path: str, query: Mapping[str, str] | None = None, body: object = None) -> Any:
        return self.call("POST", path, query, body)

    def upgrade(self, path: str, query: Mapping[str, str] | None = None, body: object = None) -> Connection:
        """Take over a connection of its own (attach, exec). Bytes that came with the head are in its buffer.

        Raises EngineError if the engine refuses.
        """
        target = self.target(path, query)
        connection = self._connect()
        headers = {**self.headers, "Connection": "Upgrade", "Upgrade": "tcp", "Content-Type": "text/plain"}
        data = None
        if body is not None:
            data = dumps(body).encode("utf-8", "surrogateescape")
            headers["Content-Type"] = "application/json"
        try:
            connection.send("POST", target, headers, data)
            response = connection.response("POST")
        except (OSError, HttpError) as error:
            connection.close()
            raise CliError(f"unable to upgrade to tcp: {error}") from None
        if response.status >= 400:
            raise self._error(response, "POST", path)
        if response.status not in (101, 200):
            connection.close()
            raise CliError(f"unable to upgrade to tcp, received {response.status}")
        return connection

    def close(self) -> None:
        """Close the connections that are kept for further requests."""
        while self._idle:
            self._idle.pop().close()
