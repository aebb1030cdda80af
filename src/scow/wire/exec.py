"""Commands run inside a container, on the wire."""

from typing import ClassVar

from msgspec import field

from scow.wire.message import Message, StringList


class ExecCreateRequest(Message, frozen=True, kw_only=True):
    """The body of `POST /containers/{id}/exec`."""

    user: str = ""
    privileged: bool = False
    tty: bool = False
    console_size: list[int] | None = None  # rows, columns
    attach_stdin: bool = False
    attach_stderr: bool = False
    attach_stdout: bool = False
    detach: bool = False
    detach_keys: str = ""
    env: list[str] | None = None
    working_dir: str = ""
    cmd: StringList | None = None


class ExecStartRequest(Message, frozen=True, kw_only=True):
    """The body of `POST /exec/{id}/start`."""

    detach: bool = False
    tty: bool = False
    console_size: list[int] | None = None  # rows, columns


class IdReply(Message, frozen=True, kw_only=True):
    """The answer to a creation that has nothing else to say."""

    id: str


class ProcessConfig(Message, frozen=True, kw_only=True, rename="lower"):
    """What an exec runs, as it was asked for."""

    OMIT_EMPTY: ClassVar[frozenset[str]] = frozenset({"privileged", "user"})

    tty: bool
    entrypoint: str
    arguments: list[str]
    privileged: bool | None = None
    user: str = ""


class ExecInspect(Message, frozen=True, kw_only=True):
    """All that there is to know about one exec; `exit_code` is None while it runs."""

    id: str = field(name="ID")
    running: bool
    exit_code: int | None
    process_config: ProcessConfig
    open_stdin: bool
    open_stderr: bool
    open_stdout: bool
    can_remove: bool
    container_id: str = field(name="ContainerID")
    detach_keys: str  # base64 of the bytes, as Go writes []byte
    pid: int
