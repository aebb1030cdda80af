"""`scow cp`, `scow export` and `scow diff`: a container's files."""

from __future__ import annotations

import posixpath
import sys

from scow.cli.command import Command
from scow.cli.errors import CliError
from scow.cli.flags import Flag, Options
from scow.cli.http import quote
from scow.cli.tarfiles import check_output, opened, pieces, write_output
from scow.cli.units import human_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from scow.cli.session import Session

DIRECTORY = 1 << 31
SYMLINK = 1 << 27
SPECIAL = 1 << 26 | 1 << 25 | 1 << 24 | 1 << 21  # device, pipe, socket, character device
STAT = "x-docker-container-path-stat"
KINDS = {0: "C", 1: "A", 2: "D"}


def split_argument(text: str) -> tuple[str, str]:
    """Split CONTAINER:PATH; the container is "" for a local path."""
    if text.startswith("/"):
        return "", text
    container, colon, path = text.partition(":")
    return (container, path) if colon and not container.startswith(".") else ("", text)


def cp(session: Session, options: Options) -> None:
    """Copy between a container and the local file system."""
    for text, what in zip(options.args, ("source", "destination"), strict=True):
        if not text:
            raise CliError(f"{what} can not be empty")
    (from_container, source), (to_container, target) = (split_argument(text) for text in options.args)
    if from_container and to_container:
        raise CliError("copying between containers is not supported")
    if not from_container and not to_container:
        raise CliError("must specify at least one container source")
    quiet = options.flag("quiet") if options.changed("quiet") else not session.is_terminal(1)
    follow = options.flag("follow-link")
    if from_container:
        _copy_from(session, from_container, source, target, follow, quiet)
    else:
        _copy_to(session, source, to_container, target, follow, options.flag("archive"), quiet)


def _stat(session: Session, container: str, path: str) -> dict[str, Any]:
    response = session.engine.open("HEAD", f"/containers/{quote(container)}/archive", {"path": path})
    session.engine.done(response)
    return decode_stat(response.headers.get(STAT, ""))


def decode_stat(text: str) -> dict[str, Any]:
    """Read what the header tells of a path."""
    import base64

    from scow.cli.jsontext import loads

    found: dict[str, Any] = loads(base64.b64decode(text))
    return found


def _copy_from(session: Session, container: str, source: str, target: str, follow: bool, quiet: bool) -> None:
    from scow.cli import archives

    place = archives.local_target(target) if target != "-" else archives.Place("-")
    name = ""
    if follow:
        try:
            found = _stat(session, container, source)
        except CliError:
            found = {"mode": 0}
        if found["mode"] & SYMLINK:
            link = posixpath.join(archives.split_path(source)[0], found["linkTarget"])
            if posixpath.basename(link) != posixpath.basename(source):
                name = posixpath.basename(source)
            source = archives.keep_end(link, source)
    response = session.engine.open("GET", f"/containers/{quote(container)}/archive", {"path": source})
    if target == "-":
        for piece in response.pieces():
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        session.engine.done(response)
        return
    found = decode_stat(response.headers.get(STAT, ""))
    content = archives.Pieces(response.pieces())
    top = archives.Place(source, True, bool(found["mode"] & DIRECTORY))
    # The archive's names begin with the name of what was asked for; a followed link's are given the link's.
    folder, old, new = archives.plan(top, place)
    if name and not new:
        old, new = archives.split_path(source)[1], name
    archives.unpack(content, folder, old, new)
    content.read()
    session.engine.done(response)
    if not quiet:
        session.warn(f"Successfully copied {human_size(content.count)} to {archives.keep_end(place.path, target)}")


def _copy_to(session: Session, source: str, container: str, target: str, follow: bool, own: bool, quiet: bool) -> None:
    from scow.cli import archives

    place = archives.Place(target)
    found: dict[str, Any] | None
    try:
        found = _stat(session, container, target)
        if found["mode"] & SYMLINK:
            place.path = posixpath.join(archives.split_path(target)[0], found["linkTarget"])
            found = _stat(session, container, place.path)
    except CliError:
        found = None  # if its folder exists, the copy may succeed nevertheless
    if found is not None:
        if found["mode"] & SPECIAL:
            raise CliError(f'destination "{container}:{target}" must be a directory or a regular file')
        place.exists, place.is_dir = True, bool(found["mode"] & DIRECTORY)
    if source == "-":
        if not place.is_dir:
            raise CliError(f'destination "{container}:{target}" must be a directory')
        folder, data = place.path, pieces(opened("-"))
    else:
        top = archives.local_source(source, follow)
        folder, old, new = archives.plan(top, place)
        data = archives.pack(top, old, new)
    counted = _Counted(data)
    query = {"path": folder, "noOverwriteDirNonDir": "true"}
    if own:
        query["copyUIDGID"] = "true"
    headers = {"Content-Type": "application/x-tar"}
    response = session.engine.open("PUT", f"/containers/{quote(container)}/archive", query, None, headers, counted)
    response.read()
    session.engine.done(response)
    if not quiet:
        session.warn(f"Successfully copied {human_size(counted.count)} to {container}:{target}")


class _Counted:
    """Pieces on their way out, and how many bytes they were."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self.count = 0

    def __iter__(self) -> _Counted:
        return self

    def __next__(self) -> bytes:
        piece = next(self._pieces)
        self.count += len(piece)
        return piece


def export(session: Session, options: Options) -> None:
    """Write a container's root file system as a tar."""
    output = options.text("output")
    check_output(session, output, "export container")
    response = session.engine.open("GET", f"/containers/{quote(options.args[0])}/export")
    write_output(response, output, "export container")
    session.engine.done(response)


def diff(session: Session, options: Options) -> None:
    """List what differs from the image."""
    if not options.args[0]:
        raise CliError("Container name cannot be empty")
    for change in session.engine.get(f"/containers/{quote(options.args[0])}/changes") or []:
        session.print(f"{KINDS.get(change['Kind'], '?')} {change['Path']}")


COMMANDS = {
    "cp": Command(
        cp,
        "CONTAINER:SRC_PATH DEST_PATH|-\n       scow cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
        (
            Flag("archive", "a", "bool", "Archive mode (copy all uid/gid information)"),
            Flag("follow-link", "L", "bool", "Always follow symbol link in SRC_PATH"),
            Flag("quiet", "q", "bool", "Suppress progress output during copy. Progress output is automatically"),
        ),
        2,
        2,
        long="Copy files/folders between a container and the local filesystem\n\n"
        "Use '-' as the source to read a tar archive from stdin and extract it to a directory destination in a "
        "container.\nUse '-' as the destination to stream a tar archive of a container source to stdout.",
    ),
    "export": Command(
        export,
        "CONTAINER",
        (Flag("output", "o", "string", "Write to a file, instead of STDOUT"),),
        1,
        1,
    ),
    "diff": Command(diff, "CONTAINER", (), 1, 1),
}
