"""The engine's log as lines of JSON, with dockerd's keys: `level`, `msg`, `time`. For `log-format` json."""

import json
import logging
from datetime import UTC, datetime


class JsonFormatter(logging.Formatter):
    """One object a line; what was raised comes as `error`."""

    def format(self, record: logging.LogRecord) -> str:
        """As logging.Formatter.format."""
        line = {
            "level": record.levelname.lower(),
            "msg": record.getMessage(),
            "time": datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z"),
            "logger": record.name,
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
