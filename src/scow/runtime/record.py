"""What is written beside a bundle about a running container, so that another engine process finds it again."""

import os
from pathlib import Path
from typing import Final

import msgspec

from scow.linux.process import ProcessIdentity

FILE: Final = "monitor.json"


class MonitorRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Who watches and who is watched. Without `container` the creation didn't come to its end."""

    runtime: str  # path of the runtime's program
    runtime_arguments: tuple[str, ...] = ()
    cgroups_path: str
    terminal: bool = False
    keep_stdin: bool = True  # conmon leaves standard input open when an attachment ends
    monitor: ProcessIdentity | None = None
    container: ProcessIdentity | None = None


def write(bundle: Path, record: MonitorRecord) -> None:
    """Write the record; it becomes visible as a whole."""
    temporary = bundle / f"{FILE}.new"
    temporary.write_bytes(msgspec.json.encode(record))
    os.rename(temporary, bundle / FILE)


def read(bundle: Path) -> MonitorRecord | None:
    """The record of a bundle, if there is a legible one."""
    try:
        return msgspec.json.decode((bundle / FILE).read_bytes(), type=MonitorRecord)
    except (OSError, msgspec.MsgspecError):
        return None
