"""`scow volume export` and `scow volume import`: a volume's content as a tar."""

from __future__ import annotations

import os

from scow.cli.command import Command
from scow.cli.errors import CliError, EngineError
from scow.cli.flags import Flag, Options
from scow.cli.http import quote
from scow.cli.tarfiles import check_output, opened, pieces, write_output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from scow.cli.http import Response
    from scow.cli.session import Session


def export(session: Session, options: Options) -> None:
    """Write a volume as a tar. A file that couldn't be written to its end doesn't stay."""
    output = options.text("output")
    check_output(session, output, "export volume")
    response = _asked(session, "GET", f"/scow/volumes/{quote(options.args[0])}/export")
    write_output(response, output, "export volume")
    session.engine.done(response)


def import_(session: Session, options: Options) -> None:
    """Unpack a tar, compressed or not, into a volume."""
    source = options.args[1] if len(options.args) > 1 else "-"
    with opened(source) as file:
        if os.isatty(file.fileno()):
            raise CliError("cowardly refusing to read from a terminal. Name a file or redirect")
        headers = {"Content-Type": "application/x-tar"}
        response = _asked(session, "POST", f"/scow/volumes/{quote(options.args[0])}/import", headers, pieces(file))
        response.read()
        session.engine.done(response)


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
