"""What can be set: one TOML file, the same keys as flags where a flag exists."""

import tomllib
from pathlib import Path

import msgspec

from scow.errors import InvalidArgument


class SettingsInvalid(InvalidArgument):
    """The configuration cannot be used."""

    def __init__(self, source: str, why: str) -> None:
        super().__init__(f"{source}: {why}")


class Auth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table `[auth]`."""

    htpasswd: str | None = None  # file of name:bcrypt lines, read again when it changes
    anonymous_pull: bool = False  # reading needs no password


class Gc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table `[gc]`."""

    interval_s: float = 300.0  # between two runs; 0 leaves it to `scow registry gc`
    grace_s: float = 86400.0  # what nobody refers to is kept for so long
    upload_expiry_s: float = 86400.0  # an upload that nobody goes on with


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Table `[tls]`."""

    cert: str
    key: str


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole configuration."""

    listen: str = "127.0.0.1:5000"
    storage: str = ""
    auth: Auth = Auth()
    gc: Gc = Gc()
    tls: Tls | None = None
    drain_s: float = 30.0  # requests in flight may go on for so long when the server ends
    access_log: bool = False

    def address(self) -> tuple[str, int]:
        """Host and port to listen on. Raises SettingsInvalid."""
        host, colon, port = self.listen.rpartition(":")
        if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
            raise SettingsInvalid(self.listen, "listen must be host:port")
        return host.strip("[]") or "0.0.0.0", int(port)


def read_settings(path: Path) -> Settings:
    """Read a TOML file. Raises SettingsInvalid, which names an unknown or wrong key."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), Settings)
    except OSError as error:
        raise SettingsInvalid(str(path), error.strerror or str(error)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise SettingsInvalid(str(path), str(error)) from error
