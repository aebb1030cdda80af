"""References: the names of images, parsed and normalised as docker does.

Grammar and normalisation are those of docker's reference package: a first component without dot, colon or capital,
and other than `localhost`, belongs to the path; the default domain is `docker.io`, whose one-component paths get
`library/` in front.
"""

import re
from typing import Final

import msgspec

from scow.errors import InvalidArgument
from scow.oci.digest import Digest, InvalidDigest, parse_digest

DEFAULT_DOMAIN: Final = "docker.io"
DEFAULT_TAG: Final = "latest"
OFFICIAL: Final = "library"
NAME_LIMIT: Final = 255

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*\Z")
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN: Final = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?\Z")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
_ID: Final = re.compile(r"[0-9a-f]{64}\Z")


class InvalidReference(InvalidArgument):
    """The text is no image reference. Its words are docker's: clients show and match them."""

    def __init__(self, text: str, why: str = "invalid reference format") -> None:
        super().__init__(why)
        self.text = text


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """`domain/path[:tag][@digest]`, normalised."""

    domain: str
    path: str
    tag: str | None = None
    digest: Digest | None = None

    @property
    def name(self) -> str:
        """Domain and path: `docker.io/library/alpine`."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The name as people write it: `alpine`."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        head, _, rest = self.path.partition("/")
        return rest if head == OFFICIAL and rest and "/" not in rest else self.path

    @property
    def familiar(self) -> str:
        """The whole reference as people write it: `alpine:3.20`."""
        return self.familiar_name + self._suffix

    @property
    def is_name_only(self) -> bool:
        """Whether neither tag nor digest is given."""
        return self.tag is None and self.digest is None

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return self.name + self._suffix

    def with_default_tag(self) -> "Reference":
        """The same, with `:latest` if it has neither tag nor digest."""
        return msgspec.structs.replace(self, tag=DEFAULT_TAG) if self.is_name_only else self

    def with_tag(self, tag: str) -> "Reference":
        """The repository with `tag`, without digest. Raises InvalidReference."""
        if not _TAG.match(tag):
            raise InvalidReference(tag, "invalid tag format")
        return Reference(domain=self.domain, path=self.path, tag=tag)

    def with_digest(self, digest: Digest) -> "Reference":
        """The repository with `digest`, without tag."""
        return Reference(domain=self.domain, path=self.path, digest=digest)

    def repository(self) -> "Reference":
        """The reference without tag and digest."""
        return Reference(domain=self.domain, path=self.path)


def is_tag(text: str) -> bool:
    """Tell whether `text` can be a tag."""
    return bool(_TAG.match(text))


def parse_reference(text: str) -> Reference:
    """Parse and normalise what a user typed. Raises InvalidReference in docker's words."""
    if _ID.match(text):
        raise InvalidReference(text, f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    rest, at, digest_text = text.partition("@")
    digest = None
    if at:
        try:
            digest = parse_digest(digest_text)
        except InvalidDigest as error:
            raise InvalidReference(text) from error
    domain, path = _split_domain(rest)
    path, colon, tag = path.partition(":")
    if path.lower() != path:
        shown = path.removeprefix("library/") if domain == DEFAULT_DOMAIN else path
        raise InvalidReference(text, f"invalid reference format: repository name ({shown}) must be lowercase")
    if (colon and not _TAG.match(tag)) or not _PATH.match(path):
        raise InvalidReference(text)
    if not _DOMAIN.match(domain):
        raise InvalidReference(text)
    if len(domain) + 1 + len(path) > NAME_LIMIT:
        raise InvalidReference(text, f"repository name must not be more than {NAME_LIMIT} characters")
    return Reference(domain=domain, path=path, tag=tag or None, digest=digest)


def _split_domain(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    if not slash or not (any(mark in first for mark in ".:") or first == "localhost" or first.lower() != first):
        domain, path = DEFAULT_DOMAIN, text
    else:
        domain, path = first, rest
    if domain == "index.docker.io":
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = f"{OFFICIAL}/{path}"
    return domain, path
