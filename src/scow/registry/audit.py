"""The audit log: who changed what or was refused, one JSON object a line.

Lines are written by a thread of the logging module; the file is opened anew when it was moved away (logrotate).
"""

import json
import logging
import os
import pwd
import queue
import sys
import time
from contextlib import suppress
from logging.handlers import QueueHandler, QueueListener, WatchedFileHandler
from pathlib import Path
from typing import Final

from scow.registry.calls import Call
from scow.registry.settings import SettingsInvalid

NAME_LIMIT: Final = 255
"""Characters of a name that somebody tried: it may be as long as a header."""
QUIET_S: Final = 10.0

_KINDS: Final = {"uploads", "upload", "manifest", "blob", "token", "web-image", "web-login"}


log = logging.getLogger("scow.registry")


class _File(WatchedFileHandler):
    """The file. What cannot be written is lost, and the log says so, but the next line is tried again."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8")
        self.setFormatter(logging.Formatter("%(message)s"))
        self._said_at = -QUIET_S

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # of opening it anew, which would end the thread; others are handled already
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        if (now := time.monotonic()) - self._said_at >= QUIET_S:
            self._said_at = now
            log.error("the audit log %s cannot be written, lines are lost: %s", self.baseFilename, sys.exc_info()[1])
        if self.stream is not None:  # it would keep the line, and those that follow, to write them later
            with suppress(OSError):
                self.stream.close()
            self.stream = None  # the next line opens it


class Audit:
    """Writes to a file, or nowhere. `close` writes what is still queued."""

    def __init__(self, path: Path | None) -> None:
        """Raises SettingsInvalid for a file that cannot be written."""
        self._listener: QueueListener | None = None
        self._queue: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
        if path is not None:
            try:
                handler = _File(path)
            except OSError as error:
                raise SettingsInvalid(str(path), f"auth.audit_log cannot be written: {error.strerror}") from error
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
            "tried": call.tried[:NAME_LIMIT] if call.tried is not None else None,
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


def note_by_hand(path: Path, action: str, account: str) -> None:
    """Write down what somebody has done to an account on the command line. Blocks. Raises OSError.

    The file is made by the server alone, whose user has to be able to write to it.
    """
    who = os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
    line = {"time": round(time.time(), 3), "operator": who, "action": action, "account": account}
    with open(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC), "w") as file:
        file.write(json.dumps(line) + "\n")
