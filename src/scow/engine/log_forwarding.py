"""Sending what containers write to syslog or the journal, while they run and after, across restarts of the engine.

conmon writes each container's log to its file whatever the driver, so containers never wait for a log server, nor
need the engine. From there lines are sent on, oldest first; how far that came is recorded beside the log. A server
that doesn't answer is tried again: what is lost is what the file's limits (`cache-max-size`, `cache-max-file`) drop
meanwhile. The file is also what `docker logs` reads: docker's dual logging. A line that was sent just before the
engine was killed may be sent once more.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

import msgspec

from scow.engine.container import Container, ContainerTable
from scow.engine.events import Events
from scow.engine.log_limits import boolean
from scow.engine.log_options import FORWARDED, attributes
from scow.engine.log_tags import make_tag
from scow.errors import Internal, ScowError
from scow.runtime.journald import JOURNAL, JournalSink, field_name
from scow.runtime.log_files import files_of
from scow.runtime.log_following import LogFollower
from scow.runtime.logs import LogLine, Position
from scow.runtime.syslog import SyslogFormat, SyslogSink, TlsFiles, parse_address, parse_facility, parse_format
from scow.wire.event import Event

log = logging.getLogger(__name__)

POSITION: Final = "forwarded"
"""The file beside the log that tells how far it was sent."""

FIRST_WAIT_S: Final = 0.2
LONGEST_WAIT_S: Final = 10.0
LAST_LINES_S: Final = 5.0
"""How long a removal waits for the lines of a container that were not sent yet."""


class Sink(Protocol):
    """Where lines go. What `open` and `send` raise is a ScowError; both may be called again after it."""

    async def open(self) -> None: ...

    async def send(self, lines: list[LogLine]) -> None: ...

    async def aclose(self) -> None: ...


class _Run:
    """The sending of one container's log."""

    def __init__(self, container: Container, sink: Sink) -> None:
        self.container = container
        self.sink = sink
        self.ended = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class LogForwarding:
    """Sends logs of the containers whose driver says so."""

    def __init__(self, table: ContainerTable, events: Events, journal: Path = JOURNAL) -> None:
        self._table = table
        self._events = events
        self._journal = journal
        self._hostname = os.uname().nodename
        self._runs: dict[str, _Run] = {}
        events.observers.append(self._observe)

    def adopt(self) -> None:
        """Go on with the logs of containers that were made by an earlier engine process."""
        for container in self._table:
            if is_forwarded(container) and container.log_path.exists():
                self._begin(container)

    async def check(self, container: Container) -> None:
        """Before a start: see that the tag is one and lines can be sent. Raises Internal, in docker's words, if not."""
        try:
            config = container.record.host_config.log_config
            make_tag((config.config or {}).get("tag", ""), container, self._hostname)
            if not is_forwarded(container):
                return
            sink = self._sink(container)
            try:
                await sink.open()
            finally:
                await sink.aclose()
        except ScowError as error:
            raise Internal(
                f"failed to create task for container: failed to initialize logging driver: {error}"
            ) from error

    async def finish(self, container: Container) -> None:
        """Before a removal: let the last lines go out, for a while."""
        run = self._runs.get(container.id)
        if run is None or run.task is None:
            return
        run.ended.set()
        await asyncio.wait((run.task,), timeout=LAST_LINES_S)
        run.task.cancel()
        await asyncio.gather(run.task, return_exceptions=True)

    async def aclose(self) -> None:
        """Stop sending; what has not been sent is next time."""
        self._events.observers.remove(self._observe)
        tasks = [run.task for run in self._runs.values() if run.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _observe(self, event: Event) -> None:
        if event.type != "container" or event.action not in ("start", "die"):
            return
        container = self._table.find(event.actor.id)
        if container is None or not is_forwarded(container):
            return
        if event.action == "die":
            if container.id in self._runs:
                self._runs[container.id].ended.set()
            return
        self._begin(container)

    def _begin(self, container: Container) -> None:
        run = self._runs.get(container.id)
        if run is None:
            try:
                run = _Run(container, self._sink(container))
            except ScowError as error:
                log.error("the log of container %s can't be sent: %s", container.id, error)
                return
            self._runs[container.id] = run
            run.task = asyncio.get_running_loop().create_task(self._forward(run), name=f"log of {container.id[:12]}")
        if container.state.live:
            run.ended.clear()
        else:
            run.ended.set()

    async def _forward(self, run: _Run) -> None:
        container = run.container
        path = container.folder / POSITION
        follower = LogFollower(lambda: files_of(container.log_path), await asyncio.to_thread(_read, path))
        try:
            while True:
                lines = await follower.read(run.ended)
                if lines is not None:
                    await _send(run, lines)
                    # To its end even if we are cancelled: those lines are not to be sent again.
                    await asyncio.shield(asyncio.to_thread(_write, path, follower.position))
                elif run.ended.is_set():  # and not started again while the end was looked for
                    return
        except Exception:
            log.exception("the log of container %s is not sent any further", container.id)
        finally:
            if self._runs.get(container.id) is run:
                del self._runs[container.id]
            follower.close()
            await run.sink.aclose()

    def _sink(self, container: Container) -> Sink:
        """Make what sends a container's lines. Raises InvalidArgument."""
        config = container.record.host_config.log_config
        options = config.config or {}
        tag = make_tag(options.get("tag", ""), container, self._hostname)
        if config.type == "journald":
            labels, env = container.record.config.labels or {}, container.record.config.env or []
            return JournalSink(
                {
                    "CONTAINER_ID": container.id[:12],
                    "CONTAINER_ID_FULL": container.id,
                    "CONTAINER_NAME": container.name,
                    "CONTAINER_TAG": tag,
                    "IMAGE_NAME": container.record.image_name,
                    "SYSLOG_IDENTIFIER": tag,
                    **{field_name(name): value for name, value in attributes(config, labels, env).items()},
                },
                self._journal,
            )
        return _syslog(options, tag, self._hostname)


def is_forwarded(container: Container) -> bool:
    """Whether a container's lines go elsewhere."""
    return container.record.host_config.log_config.type in FORWARDED


def _syslog(options: Mapping[str, str], tag: str, hostname: str) -> SyslogSink:
    address = parse_address(options.get("syslog-address", ""))
    form = parse_format(options.get("syslog-format", ""))
    return SyslogSink(
        address,
        SyslogFormat(
            name=form,
            facility=parse_facility(options.get("syslog-facility", "")),
            tag=tag,
            hostname=hostname,
            counted=address.scheme == "tcp+tls" and form.startswith("rfc5424"),
        ),
        TlsFiles(
            ca=options.get("syslog-tls-ca-cert", ""),
            cert=options.get("syslog-tls-cert", ""),
            key=options.get("syslog-tls-key", ""),
            skip_verify=bool(boolean(options.get("syslog-tls-skip-verify", ""))),
        ),
    )


async def _send(run: _Run, lines: list[LogLine]) -> None:
    """Send, as often as it takes."""
    wait_s = FIRST_WAIT_S
    while True:
        try:
            return await run.sink.send(lines)
        except ScowError as error:
            if wait_s == FIRST_WAIT_S:
                log.warning("the log of container %s waits for its server: %s", run.container.id, error)
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


def _read(path: Path) -> Position | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Position)
    except (OSError, msgspec.DecodeError):
        return None


def _write(path: Path, position: Position | None) -> None:
    if position is None:
        return
    new = path.with_suffix(".new")
    with contextlib.suppress(FileNotFoundError):  # the container was removed meanwhile
        new.write_bytes(msgspec.json.encode(position))
        os.replace(new, path)
