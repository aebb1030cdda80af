"""What a build asks of whoever runs commands for it."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from scow.errors import ScowError
from scow.oci.digest import DiffID
from scow.store.layer_records import Layer

Output = Callable[[int, bytes], Awaitable[None]]
"""Takes what a command writes, by the number of its stream; it may wait while nobody reads that."""
"""Hears what a command writes: stream number (1 or 2) and bytes."""


class RunMount(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is mounted while a command runs, and leaves nothing in the layer."""

    target: str  # absolute
    source: Path | None = None  # None: a tmpfs
    rw: bool = False
    size: int | None = None  # bytes of a tmpfs


class RunRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A command to be run on a stack of layers."""

    base: tuple[DiffID, ...]
    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    network: Literal["default", "none", "host"] = "default"
    insecure: bool = False
    mounts: Sequence[RunMount] = ()
    epoch: int | None = None  # the latest time that a file of the layer may have, seconds


class CommandFailed(ScowError):
    """A RUN step's command ended with an exit code other than 0. The words are docker's; `why` is what we know."""

    def __init__(self, command: str, code: int, why: str = "") -> None:
        super().__init__(f"The command '{command}' returned a non-zero code: {code}" + (f": {why}" if why else ""))
        self.command = command
        self.code = code


class Runner(Protocol):
    """Runs commands in containers that nobody else sees."""

    async def run(self, id: str, request: RunRequest, output: Output) -> tuple[int, Layer | None]:
        """Run a command; give its exit code and, if that is 0, the layer of what it changed (None: nothing).

        Cancelled, it ends the command at once. Whatever happens, nothing but the layer is left.
        """
