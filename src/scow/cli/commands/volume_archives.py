"""`scow volume export` and `scow volume import`: a volume's content as a tar."""

from __future__ import annotations

import os

from scow.cli.command import Command
from scow.cli.errors import CliError, EngineError
from scow.cli.flags import Flag, Options
from scow.cli.http import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from scow.cli.http import Response
    from scow.cli.session import Session

PIECE = 1 << 18


def export(session: Session, options: Options) -> None:
    """Write a volume as a tar. A file that couldn't be written to its end doesn't stay."""
    output = options.text("output")
    if not output and os.isatty(1):
        raise CliError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    response = _asked(session, "GET", f"/scow/volumes/{quote(options.args[0])}/export")
    partial = f"{output}.part-{os.getpid()}"
    try:
        with open(partial, "wb") if output else os.fdopen(1, "wb", closefd=False) as file:
            for piece in response.pieces():
                file.write(piece)
        if output:
            os.replace(partial, output)
    except OSError as error:
        response.connection.close()
        raise CliError(f"failed to export volume: {output or 'standard output'}: {error.strerror}") from None
    finally:
        if output and os.path.exists(partial):
            os.unlink(partial)
    session.engine.done(response)


def import_(session: Session, options: Options) -> None:
    """Unpack a tar, compressed or not, into a volume."""
    source = options.args[1] if len(options.args) > 1 else "-"
    try:
        fd = 0 if source == "-" else os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CliError(f"open {source}: {(error.strerror or str(error)).lower()}") from None
    if os.isatty(fd):
        raise CliError("cowardly refusing to read from a terminal. Name a file or redirect")
    try:
        headers = {"Content-Type": "application/x-tar"}
        response = _asked(session, "POST", f"/scow/volumes/{quote(options.args[0])}/import", headers, _pieces(fd))
        response.read()
        session.engine.done(response)
    finally:
        if fd != 0:
            os.close(fd)


def _pieces(fd: int) -> Iterator[bytes]:
    while piece := os.read(fd, PIECE):
        yield piece


def _asked(
    session: Session,
    method: str,
    path: str,
    headers: dict[str, str] | None = None,
    data: Iterator[bytes] | None = None,
) -> Response:
    try:
        return session.engine.open(method, path, headers=headers, data=data)
    except EngineError as error:
        if error.status == 404 and "page not found" in error.message:
            raise CliError("this engine can't export or import volumes: it is not Scow's") from None
        raise


COMMANDS = {
    "export": Command(
        export,
        "VOLUME",
        (Flag("output", "o", "string", "Write to a file, instead of STDOUT"),),
        1,
        1,
        long="Export a volume's content as a tar archive, to STDOUT or a file.",
    ),
    "import": Command(
        import_,
        "VOLUME [FILE|-]",
        (),
        1,
        2,
        long="Import a tar archive, compressed or not, into a volume, over what is there. Reads STDIN without a file.",
    ),
}
