"""Tars that commands write to, or read from, a file or the client's own streams."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager

from scow.cli.errors import CliError
from scow.cli.http import HttpError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from scow.cli.http import Response
    from scow.cli.session import Session

PIECE = 1 << 20


def check_output(session: Session, output: str, doing: str) -> None:
    """Refuse a terminal and a folder that isn't there, before the engine is asked. `output` "" is stdout."""
    if not output and session.is_terminal(1):
        raise CliError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    folder = os.path.dirname(output)
    if not os.path.isdir(folder or "."):
        raise CliError(f'failed to {doing}: invalid output path: directory "{folder}" does not exist')


def write_output(response: Response, output: str, doing: str) -> None:
    """Write a reply's body. A file that couldn't be written to its end doesn't stay."""
    partial = os.path.join(os.path.dirname(output), f".tmp-{os.path.basename(output)}{os.getpid()}")
    try:
        if output:
            with open(partial, "wb") as file:
                response.copy_to(file.fileno())
            os.replace(partial, output)
        else:
            sys.stdout.flush()
            response.copy_to(1)
    except HttpError as error:
        raise CliError(str(error)) from None
    except OSError as error:
        raise CliError(f"failed to {doing}: {output or 'standard output'}: {error.strerror}") from None
    finally:
        if output and os.path.lexists(partial):
            os.unlink(partial)


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """Open a file for reading; "-" is stdin. Raises CliError in docker's words."""
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below; what happens while it is open is not about opening it
    except OSError as error:
        raise CliError(f"open {path}: {(error.strerror or str(error)).lower()}") from None
    with file:
        yield file


def pieces(source: BinaryIO) -> Iterator[bytes]:
    """Yield a file's content in pieces."""
    while data := source.read(PIECE):
        yield data
