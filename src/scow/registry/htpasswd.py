"""An htpasswd file: users whose passwords somebody else keeps, one `name:bcrypt` a line.

It is read again when it changes. What was read stays while the file is gone or has a line that cannot be used: a slip
in an editor shuts nobody out.
"""

import logging
import re
from pathlib import Path
from typing import Final

from scow.errors import InvalidArgument
from scow.registry.settings import SettingsInvalid

_BCRYPT: Final = re.compile(r"\$2[aby]\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{53}\Z")

log = logging.getLogger("scow.registry.htpasswd")


class HtpasswdInvalid(InvalidArgument):
    """A line of the htpasswd file cannot be used."""

    def __init__(self, path: Path, line: int, why: str) -> None:
        super().__init__(f"{path}:{line}: {why}")


class Htpasswd:
    """The users of one file. Its methods block."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises HtpasswdInvalid and SettingsInvalid."""
        self._path = path
        self._said = ""
        try:
            self._stamp = self._look()
            self.users = read_htpasswd(path)
            """Bcrypt hashes by name."""
        except OSError as error:
            raise SettingsInvalid(str(path), f"auth.htpasswd cannot be read: {error.strerror or error}") from error

    def _look(self) -> tuple[int, int, int]:
        stat = self._path.stat()
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def reload(self) -> None:
        """Read the file again if it has changed. What cannot be used is logged once."""
        try:
            if (stamp := self._look()) != self._stamp:
                self.users = read_htpasswd(self._path)
                self._stamp = stamp
            self._said = ""
        except (OSError, HtpasswdInvalid) as error:
            if self._said != (said := str(error)):
                self._said = said
                log.error("users are kept as they were: %s", error)


def read_htpasswd(path: Path) -> dict[str, str]:
    """Names and bcrypt hashes of an htpasswd file. Raises HtpasswdInvalid and OSError."""
    users = {}
    for number, data in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        try:
            line = data.decode().strip()
        except UnicodeDecodeError as error:
            raise HtpasswdInvalid(path, number, "not UTF-8") from error
        if not line or line.startswith("#"):
            continue
        name, colon, password_hash = line.partition(":")
        if not colon or not name:
            raise HtpasswdInvalid(path, number, "expected name:hash")
        if not password_hash.startswith(("$2a$", "$2b$", "$2y$")):
            raise HtpasswdInvalid(path, number, "only bcrypt hashes are supported, make them with htpasswd -B")
        if not _BCRYPT.match(password_hash):
            raise HtpasswdInvalid(path, number, f"the bcrypt hash of {name} is damaged, make it anew with htpasswd -B")
        users[name] = password_hash
    return users
