"""What happens in a build as BuildKit's solve statuses: told so by our engine, or read from docker's classic lines."""

from __future__ import annotations

import re
import time
from base64 import b64encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

ID = "scow.build.status"
STEP = re.compile(r"Step (\d+)/(\d+) : (.*)", re.DOTALL)
MEANINGLESS = re.compile(r" ---> ([0-9a-f]{12}|Running in [0-9a-f]+)?|Removing intermediate container [0-9a-f]+")
STDERR, PLAIN = "\x1b[91m", "\x1b[0m"


class Statuses:
    """Turns a build's messages into statuses. What isn't part of a step (warnings, the image's names) is in `said`."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self._told = False  # the engine tells statuses itself
        self._step: dict[str, Any] = {}
        self._rest = ""

    def take(self, message: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The statuses that a message tells of."""
        if message.get("id") == ID and isinstance(message.get("aux"), dict):
            self._told = True
            yield message["aux"]
        elif message.get("stream"):
            *lines, self._rest = (self._rest + str(message["stream"])).split("\n")
            for line in lines:
                yield from self._line(line)
        elif message.get("id") and message.get("status") and self._step:
            detail = message.get("progressDetail") or {}
            status = {
                "id": message["id"],
                "vertex": self._step["digest"],
                "name": message["status"],
                "timestamp": now(),
            }
            yield {"statuses": [{**status, "total": detail.get("total", 0), "current": detail.get("current", 0)}]}
        elif message.get("error"):
            if self._rest:
                yield from self._line(self._rest)
            yield from self._end(str(message["error"]))

    def _line(self, line: str) -> Iterator[dict[str, Any]]:
        if line.startswith("[Warning]"):
            self.said.append(line)
            text = b64encode(line.removeprefix("[Warning] ").encode()).decode()
            yield {"warnings": [{"level": 1, "short": text}]}
        elif line.startswith("Successfully "):
            yield from self._end("")
            self.said.append(line)
        elif self._told:
            return
        elif step := STEP.fullmatch(line):
            from hashlib import sha256

            yield from self._end("")
            number, total, text = step.groups()
            name = f"[{number:>{len(total)}}/{total}] {text}"
            self._step = {"digest": f"sha256:{sha256(name.encode()).hexdigest()}", "name": name, "started": now()}
            yield {"vertexes": [dict(self._step)]}
        elif line == " ---> Using cache":
            self._step["cached"] = True
        elif self._step and not MEANINGLESS.fullmatch(line.removeprefix(PLAIN)):
            stream = 2 if line.startswith(STDERR) else 1
            text = b64encode(f"{line}\n".encode()).decode()
            yield {"logs": [{"vertex": self._step["digest"], "stream": stream, "data": text, "timestamp": now()}]}

    def _end(self, error: str) -> Iterator[dict[str, Any]]:
        if self._step:
            self._step["completed"] = now()
            if error:
                self._step["error"] = error
            yield {"vertexes": [self._step]}
        self._step = {}


def now() -> str:
    """RFC 3339 in UTC."""
    seconds = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1e6):06d}Z"
