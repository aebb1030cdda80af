"""Who a container's process runs as: user and group names looked up in the image's own files.

`/etc/passwd` and `/etc/group` belong to the image, so they are opened as if its root were ours: a symlink there can
name nothing outside. Docker's rules and words (moby/sys/user).
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from scow.errors import InvalidArgument
from scow.linux.mount import open_in_root

_MAX_ID: Final = 2**31 - 1
_PIECE: Final = 1 << 20
_MAX_FILE: Final = 16 << 20  # bytes of a passwd or group file that we are willing to read


class UnknownUser(InvalidArgument):
    """The user isn't in the image's passwd file."""

    def __init__(self, user: str) -> None:
        super().__init__(f"unable to find user {user}: no matching entries in passwd file")
        self.user = user


class UnknownGroup(InvalidArgument):
    """The group isn't in the image's group file."""

    def __init__(self, group: str) -> None:
        super().__init__(f"unable to find group {group}: no matching entries in group file")
        self.group = group


class IdOutOfRange(InvalidArgument):
    """A number that no user or group can have."""

    def __init__(self) -> None:
        super().__init__(f"uids and gids must be in range 0-{_MAX_ID}")


class ProcessUser(msgspec.Struct, frozen=True, kw_only=True):
    """Numeric identity of a process, and the home of its user."""

    uid: int = 0
    gid: int = 0
    additional_gids: tuple[int, ...] = ()  # begins with `gid`
    home: str = "/"


class _User(msgspec.Struct, frozen=True):
    name: str
    uid: int
    gid: int
    home: str


class _Group(msgspec.Struct, frozen=True):
    name: str
    gid: int
    members: tuple[str, ...]


def resolve_user(rootfs: Path, user: str, groups: Sequence[str] = ()) -> ProcessUser:
    """Look up `name|uid[:name|gid]` ("" is root) and additional `groups` below `rootfs`.

    A number needs no entry. Raises UnknownUser, UnknownGroup, IdOutOfRange.
    """
    user_part, _, group_part = user.partition(":")
    found, home = None, "/"
    wanted_uid = _number(user_part or "0")
    for entry in _users(rootfs):
        if entry.uid == wanted_uid if wanted_uid is not None else entry.name == user_part:
            found = entry
            break
    if found is not None:
        uid, gid, home = found.uid, found.gid, found.home
    elif wanted_uid is not None:
        uid, gid = wanted_uid, 0
    else:
        raise UnknownUser(user_part)
    additional: list[int] = []
    if group_part or found is not None or groups:
        known = list(_groups(rootfs))
        if group_part:
            gid = _find_group(known, group_part)
        elif found is not None:
            additional = [group.gid for group in known if found.name in group.members]
        additional += [_find_group(known, group) for group in groups]
    for number in (uid, gid, *additional):
        if not 0 <= number <= _MAX_ID:
            raise IdOutOfRange
    return ProcessUser(uid=uid, gid=gid, additional_gids=tuple(dict.fromkeys([gid, *additional])), home=home or "/")


def _find_group(known: Sequence[_Group], wanted: str) -> int:
    number = _number(wanted)
    for group in known:
        if group.gid == number if number is not None else group.name == wanted:
            return group.gid
    if number is None:
        raise UnknownGroup(wanted)
    return number


def _number(text: str) -> int | None:
    # Like Go's Atoi: ASCII digits with a sign, nothing else that Python's int() takes.
    digits = text.removeprefix("-").removeprefix("+")
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) < 20 else None


def _users(rootfs: Path) -> Iterator[_User]:
    for fields in _entries(rootfs, "/etc/passwd"):
        if len(fields) >= 4 and (uid := _number(fields[2])) is not None:
            yield _User(fields[0], uid, _number(fields[3]) or 0, fields[5] if len(fields) > 5 else "")


def _groups(rootfs: Path) -> Iterator[_Group]:
    for fields in _entries(rootfs, "/etc/group"):
        if len(fields) >= 3 and (gid := _number(fields[2])) is not None:
            yield _Group(fields[0], gid, tuple(fields[3].split(",")) if len(fields) > 3 else ())


def _entries(rootfs: Path, path: str) -> Iterator[list[str]]:
    try:
        # Non-blocking: a pipe in the file's place must not hold us up.
        fd = open_in_root(rootfs, path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EACCES):
            return
        raise
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return
        data = b""
        while len(data) < _MAX_FILE and (piece := os.read(fd, _PIECE)):
            data += piece
    finally:
        os.close(fd)
    for line in data.decode(errors="surrogateescape").splitlines():
        line = line.strip()
        if line and not line.startswith("#"):
            yield line.split(":")
