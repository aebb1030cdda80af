"""API versions: which ones are served, and how they compare."""

from typing import Final

from scow.errors import InvalidArgument

ApiVersion = tuple[int, ...]

NEWEST: Final[ApiVersion] = (1, 50)
OLDEST: Final[ApiVersion] = (1, 24)

PRODUCT: Final = "28.2.2"
"""The release of the reference engine whose answers these are; clients read it off the `Server` header."""


class ClientTooOld(InvalidArgument):
    """A client asked for a version that isn't served any more."""

    def __init__(self, version: str, oldest: ApiVersion) -> None:
        super().__init__(
            f"client version {version} is too old. Minimum supported API version is {text_of(oldest)}, "
            "please upgrade your client to a newer version"
        )


class ClientTooNew(InvalidArgument):
    """A client asked for a version that isn't served yet."""

    def __init__(self, version: str) -> None:
        super().__init__(f"client version {version} is too new. Maximum supported API version is {text_of(NEWEST)}")


def text_of(version: ApiVersion) -> str:
    """Write a version as paths and headers do."""
    return ".".join(map(str, version))


def parse_version(text: str | None, oldest: ApiVersion = OLDEST) -> ApiVersion:
    """Read the version of a path; None means the newest. Raises ClientTooOld and ClientTooNew."""
    if text is None:
        return NEWEST
    version = tuple(int(part) if part else 0 for part in text.split("."))
    while len(version) > 2 and version[-1] == 0:
        version = version[:-1]
    if version < oldest:
        raise ClientTooOld(text, oldest)
    if version > NEWEST:
        raise ClientTooNew(text)
    return version
