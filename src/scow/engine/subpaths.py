"""A path below a volume or an image that a container is given instead of all of it.

Who can write into a volume can put a symlink where a directory was, at any moment. So the path is resolved once, by
the kernel and never leaving its base (openat2(2), RESOLVE_BENEATH), and what is then mounted is the open descriptor.
Standard library and `scow.linux.mount` only, since the archive worker imports it.
"""

import errno
import os

from scow.errors import InvalidArgument
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


def path_of(fd: int, process: int | str) -> str:
    """A path by which `process`'s open descriptor can be mounted by whoever sees its /proc entry.

    With a directory's `/.`, it is one to those too that only look whether the path is a symlink.
    """
    path = f"/proc/{process}/fd/{fd}"
    return f"{path}/." if os.path.isdir(f"/proc/self/fd/{fd}") else path
