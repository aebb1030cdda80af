"""A path below a volume or an image that a container is given instead of all of it.

Who can write into a volume can put a symlink where a directory was, at any moment. So the path is resolved once, by
the kernel and never leaving its base (openat2(2), RESOLVE_BENEATH), and what is then mounted is the open descriptor.
Standard library and `scow.linux.mount` only, since the archive worker imports it.
"""

import errno
import os
from pathlib import Path

from scow.errors import InvalidArgument
from scow.linux import mount
from scow.linux.mount import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, openat2


class SubpathFailed(InvalidArgument):
    """The path isn't there, or leads out."""


def open_subpath(base: str | os.PathLike[str], subpath: str) -> int:
    """Open what is at `subpath` below `base`, as a descriptor that can be mounted. Blocks. Raises SubpathFailed."""
    path = os.path.join(os.fspath(base), subpath)
    try:
        top = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise SubpathFailed(f"cannot access path {path}: lstat {base}: {(error.strerror or '').lower()}") from error
    try:
        return openat2(top, subpath or ".", os.O_PATH, 0, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise SubpathFailed(
                f'path concatenation escapes the base directory (base: "{os.fspath(base)}", subpath: "{subpath}")'
            ) from error
        raise SubpathFailed(f"cannot access path {path}: lstat {path}: {(error.strerror or '').lower()}") from error
    finally:
        os.close(top)


def show_subpath(base: str | os.PathLike[str], subpath: str, place: Path) -> None:
    """Bind what is at `subpath` below `base` at `place`, which is made. Blocks. Raises SubpathFailed, MountFailed."""
    fd = open_subpath(base, subpath)
    try:
        source = f"/proc/self/fd/{fd}"
        hide_subpath(place)
        if os.path.isdir(source):
            place.mkdir()
        else:
            place.touch()
        mount.bind(source, place, recursive=True)
    finally:
        os.close(fd)


def hide_subpath(place: Path) -> None:
    """Undo `show_subpath`. Blocks; idempotent."""
    if not place.exists():
        return
    while mount.ensure_unmounted(place):
        pass
    if place.is_dir():
        place.rmdir()
    else:
        place.unlink()
