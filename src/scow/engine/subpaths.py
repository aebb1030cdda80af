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


def show_subpath(base: str | os.PathLike[str], subpath: str, place: Path, shift: Path | None = None) -> None:
    """Bind what is at `subpath` below `base` at `place`, as `show`. Raises SubpathFailed, MountFailed."""
    fd = open_subpath(base, subpath)
    try:
        show(f"/proc/self/fd/{fd}", place, shift)
    finally:
        os.close(fd)


def show(source: str, place: Path, shift: Path | None) -> None:
    """Bind `source` at `place`, which is made, with IDs shifted by the user namespace at `shift`. Blocks.

    A file system that can't shift is shown as it is: a container finds it with nobody's files. Raises MountFailed.
    """
    hide_subpath(place)
    if os.path.isdir(source):
        place.mkdir()
    else:
        place.touch()
    bind(source, place, shift)


def bind(source: str, target: str | os.PathLike[str], shift: str | os.PathLike[str] | None) -> None:
    """Bind `source` at `target`, shifted if its file system can. Blocks. Raises MountFailed."""
    if shift is not None:
        namespace = os.open(shift, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return mount.bind_mapped(source, target, namespace, recursive=True)
        except mount.MountFailed as error:
            if error.errno not in (errno.EINVAL, errno.EPERM):
                raise
        finally:
            os.close(namespace)
    mount.bind(source, target, recursive=True)


def hide_subpath(place: Path) -> None:
    """Undo `show_subpath` or `show`. Blocks; idempotent."""
    if not place.exists():
        return
    while mount.ensure_unmounted(place):
        pass
    if place.is_dir():
        place.rmdir()
    else:
        place.unlink()
