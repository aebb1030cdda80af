"""`run --use-api-socket`: the engine's socket inside a container, and the credentials for registries beside it."""

from __future__ import annotations

import binascii

from scow.cli.credentials import all_credentials
from scow.cli.http import quote
from scow.cli.jsontext import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from scow.cli.session import Session

SOCKET = "/var/run/docker.sock"
FOLDER = "/run/secrets/docker"


def share(session: Session, request: dict[str, Any]) -> Mapping[str, Any]:
    """Have a container that is to be created see the socket; returns the credentials to `send` when it is there.

    The socket is the one that we speak to ourselves, or docker's usual one if that is no socket of a machine. Who sets
    DOCKER_CONFIG takes care of credentials as well.
    """
    source = session.host.address if session.host.scheme == "unix" else SOCKET
    host = request["HostConfig"]
    host["Mounts"] = [*(host.get("Mounts") or ()), {"Type": "bind", "Source": source, "Target": SOCKET}]
    variables = request.get("Env") or []
    if any(variable.startswith("DOCKER_CONFIG=") for variable in variables):
        return {}
    found = all_credentials(session.config, session.environment)
    if found:
        request["Env"] = [*variables, f"DOCKER_CONFIG={FOLDER}"]
    return found


def send(session: Session, container: str, credentials: Mapping[str, Any]) -> None:
    """Copy credentials into a container that was just created."""
    document = {"auths": {key: _entry(found) for key, found in credentials.items()}}
    headers = {"Content-Type": "application/x-tar"}
    data = iter((_tar(f"{FOLDER}/config.json", dumps(document).encode()),))
    response = session.engine.open("PUT", f"/containers/{quote(container)}/archive", {"path": "/"}, None, headers, data)
    response.read()
    session.engine.done(response)


def _entry(found: Mapping[str, Any]) -> dict[str, str]:
    """One registry's entry, as config.json has it."""
    if found.get("identitytoken"):
        return {"identitytoken": found["identitytoken"]}
    pair = f"{found.get('username', '')}:{found.get('password', '')}"
    return {"auth": binascii.b2a_base64(pair.encode(), newline=False).decode()}


def _tar(path: str, content: bytes) -> bytes:
    from io import BytesIO
    from tarfile import TarInfo
    from tarfile import open as open_tar

    out = BytesIO()
    with open_tar(fileobj=out, mode="w") as tar:
        entry = TarInfo(path.lstrip("/"))
        entry.size, entry.mode = len(content), 0o600
        tar.addfile(entry, BytesIO(content))
    return out.getvalue()
