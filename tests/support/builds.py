"""Builds through the API, with contexts made on the spot."""

import io
import json
import tarfile
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from support.daemon import Daemon, UnixConnection

Files = Mapping[str, bytes | str]


def context(files: Files) -> bytes:
    """A tar of files; a text is a symlink's target unless the name is a Dockerfile's."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.mtime = 1_600_000_000
            if isinstance(content, str) and "ockerfile" not in name and name != ".dockerignore":
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                archive.addfile(entry)
                continue
            data = content.encode() if isinstance(content, str) else content
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def build(engine: Daemon, dockerfile: str, files: Files | None = None, **query: Any) -> list[dict[str, Any]]:
    """Build; the reply's messages. Asserts that it is not refused."""
    status, data = post(engine, context({"Dockerfile": dockerfile, **(files or {})}), **query)
    assert status == 200, data
    return [json.loads(line) for line in data.splitlines()]


def post(engine: Daemon, body: bytes, **query: Any) -> tuple[int, bytes]:
    connection = UnixConnection(engine.socket)
    try:
        path = f"/v1.41/build?{urlencode(query, doseq=True)}"
        connection.request("POST", path, body, {"Content-Type": "application/x-tar"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def text(messages: list[dict[str, Any]]) -> str:
    return "".join(message.get("stream", "") for message in messages)


def image_of(messages: list[dict[str, Any]]) -> str:
    """The image of the target: the last that a build tells of."""
    return str([message["aux"]["ID"] for message in messages if "aux" in message][-1])


def error_of(messages: list[dict[str, Any]]) -> str:
    assert "error" in messages[-1], messages
    return str(messages[-1]["error"])
