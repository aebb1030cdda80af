"""What tests of the engine ask of it again and again, by the raw API."""

import time
from collections.abc import Callable
from typing import Any

from support.daemon import Daemon

TIMEOUT_S = 60.0


def container(command: str, **host: Any) -> dict[str, Any]:
    """A shell command in busybox, with an anonymous volume."""
    return {"Image": "busybox", "Cmd": ["sh", "-c", command], "Volumes": {"/keep": {}}, "HostConfig": host}


def create(engine: Daemon, command: str, name: str = "", **host: Any) -> str:
    """Create a container and return its ID."""
    query = f"?name={name}" if name else ""
    return str(engine.json("POST", f"/containers/create{query}", container(command, **host))["Id"])


def run(engine: Daemon, command: str, name: str = "", **host: Any) -> str:
    """Create and start a container and return its ID."""
    id = create(engine, command, name, **host)
    engine.json("POST", f"/containers/{id}/start")
    return id


def inspect(engine: Daemon, id: str) -> dict[str, Any]:
    """Inspect a container."""
    found: dict[str, Any] = engine.json("GET", f"/containers/{id}/json")
    return found


def state(engine: Daemon, id: str) -> dict[str, Any]:
    """The State that inspect shows."""
    found: dict[str, Any] = inspect(engine, id)["State"]
    return found


def wait(engine: Daemon, id: str) -> int:
    """Wait until it doesn't run; its exit code."""
    return int(engine.json("POST", f"/containers/{id}/wait")["StatusCode"])


def exists(engine: Daemon, id: str) -> bool:
    """Whether there is such a container."""
    return engine.request("GET", f"/containers/{id}/json")[0] == 200


def eventually(condition: Callable[[], object], what: str = "") -> None:
    """Poll for what comes without an event that a test could await."""
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end, what or "it did not happen"
        time.sleep(0.02)
