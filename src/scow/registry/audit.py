"""The audit log: who changed what or was refused, one JSON object a line.

Lines are written by a thread of the logging module; the file is opened anew when it was moved away (logrotate).
"""

import json
import logging
import queue
import time
from logging.handlers import QueueHandler, QueueListener, WatchedFileHandler
from pathlib import Path
from typing import Final

from scow.registry.calls import Call

_KINDS: Final = {"uploads", "upload", "manifest", "blob", "token", "web-image", "web-login"}


class Audit:
    """Writes to a file, or nowhere. `aclose` writes what is still queued."""

    def __init__(self, path: Path | None) -> None:
        self._listener: QueueListener | None = None
        self._queue: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
        if path is not None:
            handler = WatchedFileHandler(path, encoding="utf-8")
            handler.setFormatter(logging.Formatter("%(message)s"))
            self._listener = QueueListener(self._queue, handler)
            self._listener.start()
            self._handler = QueueHandler(self._queue)

    def note(self, call: Call, status: int, reason: str | None = None) -> None:
        """Write down a call if it changed something, logged somebody in, or was refused for who asked."""
        if self._listener is None:
            return
        refused = status in (401, 403, 429)
        if refused and status == 401 and "Authorization" not in call.headers and call.route.kind != "token":
            return  # the ordinary first request, which is answered with the challenge
        if (
            not refused
            and (call.method in ("GET", "HEAD") or call.route.kind not in _KINDS)
            and not (
                call.route.kind in ("token", "web-oidc") and call.caller is not None and call.caller.name is not None
            )
        ):
            return
        line = {
            "time": round(time.time(), 3),
            "request_id": call.request_id,
            "remote": call.remote,
            "user": call.caller.name if call.caller is not None else None,
            "action": f"{call.method} {call.route.kind}",
            "repository": call.route.repository or None,
            "reference": call.route.reference or None,
            "digest": call.parameter("digest") or call.parameter("mount"),
            "status": status,
            "reason": reason,
        }
        record = logging.LogRecord("scow.registry.audit", logging.INFO, "", 0, json.dumps(line), None, None)
        self._handler.emit(record)

    def close(self) -> None:
        """Write what is queued and close the file. Blocks for a moment."""
        if self._listener is not None:
            self._listener.stop()
            for handler in self._listener.handlers:
                handler.close()
            self._listener = None
