"""Reading a container's log for clients. Engine API, GET /containers/{id}/logs."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Self
from urllib.parse import quote_plus

from scow.engine.container import Container
from scow.engine.log_options import attributes, keeps_cache
from scow.engine.log_tags import make_tag
from scow.errors import InvalidArgument, NotSupported
from scow.runtime.log_files import files_of
from scow.runtime.logs import LogLine, read_log
from scow.wire.times import format_time


class LogStream(AsyncIterator[list[tuple[int, bytes]]]):
    """Batches of (stream number, data), oldest first; it ends with the container when following."""

    def __init__(self, lines: AsyncIterator[list[LogLine]], *, tty: bool, timestamps: bool, prefix: str) -> None:
        self.tty = tty
        self._lines = lines
        self._timestamps = timestamps
        self._prefix = prefix
        self._open: dict[int, bool] = {}  # streams whose last line is not finished

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[tuple[int, bytes]]:
        batch = await anext(self._lines)
        if not self._timestamps and not self._prefix:
            return [(line.stream, line.data) for line in batch]
        return [(line.stream, self._head(line) + line.data) for line in batch]

    def _head(self, line: LogLine) -> bytes:
        """What stands before a line; only the first part of a long line has it."""
        begun = self._open.get(line.stream, False)
        self._open[line.stream] = line.partial
        if begun:
            return b""
        stamp = f"{log_time(line.time)} " if self._timestamps else ""
        return f"{stamp}{self._prefix}".encode()

    async def aclose(self) -> None:
        """Stop reading."""
        close = getattr(self._lines, "aclose", None)
        if close is not None:
            with suppress(RuntimeError):
                await close()


def log_time(time_ns: int) -> str:
    """Docker writes all nine digits of a log line's fraction."""
    text = format_time(time_ns).removesuffix("Z")
    whole, _, fraction = text.partition(".")
    return f"{whole}.{fraction:<09}Z".replace(" ", "0")


def _details(container: Container) -> str:
    """What `--details` shows of a line: labels and variables that the log options choose, and the tag."""
    config = container.record.host_config.log_config
    chosen = attributes(config, container.record.config.labels or {}, container.record.config.env or [])
    template = (config.config or {}).get("tag", "")
    if template:
        with suppress(InvalidArgument):
            chosen["tag"] = make_tag(template, container, os.uname().nodename)
    return ",".join(f"{quote_plus(key)}={quote_plus(value)}" for key, value in sorted(chosen.items()))


async def open_log(
    container: Container,
    *,
    stdout: bool,
    stderr: bool,
    follow: bool,
    tail: int | None = None,
    since_ns: int | None = None,
    until_ns: int | None = None,
    timestamps: bool = False,
    details: bool = False,
) -> LogStream:
    """Open a log. Raises InvalidArgument if no stream is wanted, NotSupported if the driver keeps none."""
    if not (stdout or stderr):
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    log_config = container.record.host_config.log_config
    if not keeps_cache(log_config):
        raise NotSupported("configured logging driver does not support reading")
    prefix = f"{_details(container)} " if details else ""
    ended: asyncio.Event | None = None
    if follow and (container.state.live or container.state.status in ("starting", "restarting")):
        ended = asyncio.Event()
        event = ended
        # With the run, not with the last of its restarts: as with docker, whose clients follow each run anew.
        container.not_running.add_done_callback(lambda _: event.set())
    tty = container.record.config.tty
    lines = read_log(
        await asyncio.to_thread(files_of, container.log_path),
        stdout=stdout,
        stderr=stderr,
        tail=tail,
        since_ns=since_ns,
        until_ns=until_ns,
        follow=ended,
        # With docker each line is a frame of its own, and clients take what a frame holds for a line.
        joined=tty and not (timestamps or details),
        timed=timestamps,
    )
    return LogStream(lines, tty=tty, timestamps=timestamps, prefix=prefix)
