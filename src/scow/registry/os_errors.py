"""Errors of the system in words that say what to do about them."""

import os
import pwd
import stat
from pathlib import Path

from scow.registry.errors import StorageUnavailable


def sentence(error: Exception) -> str:
    """What a person reads of an error; of the system's with whose the file is, which is what is mostly wrong."""
    if isinstance(error, StorageUnavailable):  # clients are not told why; who runs the registry is
        return f"{error}: {error.why}"
    if not isinstance(error, OSError) or error.filename is None:
        return str(error)
    said = f"{os.fsdecode(error.filename)}: {error.strerror}"
    if isinstance(error, FileExistsError | NotADirectoryError):
        return f"{said}, where a folder is needed"
    if not isinstance(error, PermissionError):
        return said
    place = Path(os.fsdecode(error.filename))
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    try:
        status = place.stat()
    except OSError:
        return said
    owner, mode = _user_name(status.st_uid), stat.S_IMODE(status.st_mode)
    return f"{said} ({place} is {owner}'s, mode {mode:o}; this process is {_user_name(os.geteuid())}'s)"


def _user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"
