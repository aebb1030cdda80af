"""Tars that commands write to, or read from, a file or the client's own streams."""

from __future__ import annotations

import os
import stat
import sys

from scow.cli.errors import CliError
from scow.cli.http import HttpError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from scow.cli.http import Response
    from scow.cli.session import Session

PIECE = 1 << 20
KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link directly",
    stat.S_IFCHR: "a character device file",
    stat.S_IFBLK: "a block device file",
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
}
"""What is no regular file, as docker's client calls it."""


def check_output(session: Session, output: str, doing: str) -> None:
    """Refuse, before the engine is asked, what no tar can be written to; in docker's words. `output` "" is stdout.

    The file is written beside and renamed: over a device, that would take the machine's `/dev/null` from everybody.
    """
    if not output:
        if session.is_terminal(1):
            raise CliError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
        return
    folder = os.path.dirname(os.path.abspath(output))
    if not os.path.isdir(folder):
        raise CliError(f'failed to {doing}: invalid output path: directory "{folder}" does not exist')
    try:
        mode = os.lstat(output.rstrip("/") or "/").st_mode
    except OSError:
        return
    if not stat.S_ISREG(mode):
        raise CliError(f"failed to {doing}: cannot write to {KINDS.get(stat.S_IFMT(mode), 'an irregular file')}")


def write_output(response: Response, output: str, doing: str) -> None:
    """Write a reply's body. A file is its owner's alone, and one that couldn't be written to its end doesn't stay."""
    partial = os.path.join(os.path.dirname(output), f".tmp-{os.path.basename(output)}{os.urandom(4).hex()}")
    try:
        if output:
            with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
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


def opened(path: str) -> BinaryIO:
    """Open a file for reading; "-" is stdin, which stays open. Raises CliError in docker's words."""
    if path == "-":
        return open(0, "rb", closefd=False)
    try:
        return open(path, "rb")
    except OSError as error:
        raise CliError(f"open {path}: {(error.strerror or str(error)).lower()}") from None


def pieces(source: BinaryIO) -> Iterator[bytes]:
    """Yield a file's content in pieces."""
    while data := source.read(PIECE):
        yield data
