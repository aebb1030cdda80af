"""Local files as tar streams and back, and docker's rules for what `cp SRC DEST` makes of names."""

from __future__ import annotations

import os
import posixpath
import stat
import tarfile

from scow.cli.errors import CliError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PIECE = 1 << 18
BLOCK = 512


class Place:
    """One end of a copy. `name` is what the archive's top is called if that isn't the path's last part."""

    __slots__ = ("exists", "is_dir", "name", "path")

    def __init__(self, path: str, exists: bool = False, is_dir: bool = False, name: str = "") -> None:
        self.path = path
        self.exists = exists
        self.is_dir = is_dir
        self.name = name


def split_path(path: str) -> tuple[str, str]:
    """Split into folder and last part; a path that ends with `/.` has the last part `.`."""
    simple = posixpath.normpath(path) if path else "."
    if path == "." or path.endswith("/."):
        simple = "/." if simple == "/" else f"{simple}/."
    folder, base = posixpath.split(simple)
    return folder or ".", base or "/"


def keep_end(simple: str, path: str) -> str:
    """Put back the trailing `/` or `/.` of `path`, which has a meaning, after it was simplified."""
    if path == "." or path.endswith("/."):
        return simple.rstrip("/") + "/."
    return simple.rstrip("/") + "/" if path.endswith("/") else simple


def plan(source: Place, target: Place) -> tuple[str, str, str]:
    """Where to unpack, and which first part of the names to replace by what. Raises CliError."""
    base = source.name or split_path(source.path)[1]
    folder, name = split_path(target.path)
    if target.exists and target.is_dir:
        return target.path, "", ""
    if target.exists and source.is_dir:
        raise CliError("cannot copy directory")
    if not target.exists and not source.is_dir and target.path.endswith(("/", "/.")):
        raise CliError("no such directory")
    return folder, base, name


def local_source(path: str, follow_link: bool) -> Place:
    """What is to be copied. Raises CliError if it isn't there."""
    full = keep_end(os.path.abspath(path), path)
    name = ""
    try:
        if follow_link:
            found = os.path.realpath(full, strict=True)
            if os.path.basename(found) != split_path(full)[1] and not full.endswith("/."):
                name = split_path(full)[1]
            full = keep_end(found, full)
        mode = os.lstat(full).st_mode
    except OSError as error:
        raise CliError(f"lstat {full}: {(error.strerror or str(error)).lower()}") from None
    return Place(full, True, stat.S_ISDIR(mode), name)


def local_target(path: str) -> Place:
    """Where it is to go. Raises CliError if there is no folder for it."""
    full = keep_end(os.path.abspath(path), path)
    folder = split_path(full)[0] if not os.path.isdir(full) else full
    if not os.path.isdir(folder):
        raise CliError(f'invalid output path: directory "{folder}" does not exist')
    found = os.path.realpath(full) if os.path.islink(full.rstrip("/")) else full
    if found != full:
        found = keep_end(found, full)
    return Place(found, os.path.exists(found), os.path.isdir(found))


def renamed(name: str, old: str, new: str) -> str:
    """Replace the first part of an entry's name."""
    if not new or old == new:
        return name
    if old == "/":
        return f"{new}/{name.lstrip('/')}".rstrip("/") or new
    return new + name[len(old) :] if name == old or name.startswith(old + "/") else name


def pack(source: Place, old: str, new: str) -> Iterator[bytes]:
    """Yield a tar of a local file or tree, in pieces."""
    base = source.name or split_path(source.path)[1]
    top = source.path
    links: dict[tuple[int, int], str] = {}
    entries = [(top, base)]
    while entries:
        path, inside = entries.pop()
        info = os.lstat(path)
        if stat.S_ISSOCK(info.st_mode):
            continue
        name = renamed(inside, old, new)
        entry = tarfile.TarInfo(name)
        entry.mode, entry.mtime = stat.S_IMODE(info.st_mode), int(info.st_mtime)
        entry.uid, entry.gid = info.st_uid, info.st_gid
        if stat.S_ISDIR(info.st_mode):
            entry.type = tarfile.DIRTYPE
            prefix = "" if inside == "/" else inside
            names = sorted(os.listdir(path), reverse=True)
            entries += [(os.path.join(path, each), f"{prefix}/{each}") for each in names]
        elif stat.S_ISLNK(info.st_mode):
            entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(path)
        elif not stat.S_ISREG(info.st_mode):
            kinds = {stat.S_IFIFO: tarfile.FIFOTYPE, stat.S_IFCHR: tarfile.CHRTYPE, stat.S_IFBLK: tarfile.BLKTYPE}
            entry.type = kinds[stat.S_IFMT(info.st_mode)]
            entry.devmajor, entry.devminor = os.major(info.st_rdev), os.minor(info.st_rdev)
        elif info.st_nlink > 1 and (info.st_dev, info.st_ino) in links:
            entry.type, entry.linkname = tarfile.LNKTYPE, links[info.st_dev, info.st_ino]
        else:
            links[info.st_dev, info.st_ino] = name
            yield from pack_file(path, entry)
            continue
        yield pack_header(entry)
    yield bytes(2 * BLOCK)


def pack_header(entry: tarfile.TarInfo) -> bytes:
    """An entry's header, with what the format has no room for before it."""
    return entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def pack_file(path: str, entry: tarfile.TarInfo) -> Iterator[bytes]:
    """Yield a regular file with its header, exactly as long as it was when it was opened."""
    with open(path, "rb", buffering=0) as file:
        entry.size = os.fstat(file.fileno()).st_size
        yield pack_header(entry)
        left = entry.size
        while left and (data := file.read(min(left, PIECE))):
            left -= len(data)
            yield data
        while left:  # it shrank meanwhile
            data = bytes(min(left, PIECE))
            left -= len(data)
            yield data
        if entry.size % BLOCK:
            yield bytes(BLOCK - entry.size % BLOCK)


class Pieces:
    """Pieces of bytes as a file to be read; `count` is how many bytes came."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._held = b""
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._held) < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self.count += len(piece)
            self._held += piece
        if size < 0:
            size = len(self._held)
        data, self._held = self._held[:size], self._held[size:]
        return data


def unpack(content: Pieces, folder: str, old: str, new: str) -> None:
    """Unpack a tar into a local folder; nothing is written outside of it. Raises CliError."""
    top = os.path.realpath(folder)
    folders: list[tuple[str, tarfile.TarInfo]] = []
    with tarfile.open(fileobj=content, mode="r|", errors="surrogateescape") as archive:  # type: ignore[call-overload]  # typeshed knows no duck of a file
        # Who runs the client owns what it makes, and paths are checked below.
        archive.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
        while (entry := archive.next()) is not None:
            archive.members.clear()
            entry.name = renamed(entry.name, old, new).lstrip("/") or "."
            entry.uid, entry.gid = os.geteuid(), os.getegid()
            path = _checked(top, entry.name)
            if entry.islnk():
                entry.linkname = renamed(entry.linkname, old, new).lstrip("/")
                entry.linkname = os.path.relpath(_checked(top, entry.linkname), top)
            _make_room(path, entry)
            if entry.isdir():
                os.makedirs(path, exist_ok=True)
                folders.append((path, entry))
            else:
                archive.extract(entry, top, numeric_owner=True)
    for path, entry in reversed(folders):
        os.chmod(path, entry.mode & 0o7777)
        os.utime(path, (entry.mtime, entry.mtime))


def _checked(top: str, name: str) -> str:
    """The path of an entry, whose folder must lie in `top` whatever links came before it."""
    path = os.path.normpath(os.path.join(top, name))
    parent = os.path.realpath(os.path.dirname(path))
    if path != top and os.path.commonpath((top, parent)) != top:
        raise CliError(f'"{name}" is outside of "{top}"')
    return path


def _make_room(path: str, entry: tarfile.TarInfo) -> None:
    if not os.path.lexists(path):
        return
    is_dir = os.path.isdir(path) and not os.path.islink(path)
    if is_dir and not entry.isdir():
        raise CliError(f'cannot overwrite directory "{path}" with non-directory "{os.path.dirname(path)}"')
    if entry.isdir() and not is_dir:
        raise CliError(f'cannot overwrite non-directory "{path}" with directory "{os.path.dirname(path)}"')
    if not is_dir:
        os.unlink(path)
