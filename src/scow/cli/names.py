"""Image names as users type them, normalised as docker's clients do before the engine sees them."""

from __future__ import annotations

from scow.cli.errors import CliError

DEFAULT_DOMAIN = "docker.io"
INDEX_SERVER = "https://index.docker.io/v1/"
PATH_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-/")
TAG_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
HEX = frozenset("0123456789abcdef")


class Name:
    """A normalised image name; `tag` and `digest` are "" when absent."""

    __slots__ = ("digest", "domain", "path", "tag")

    def __init__(self, domain: str, path: str, tag: str, digest: str) -> None:
        self.domain = domain
        self.path = path
        self.tag = tag
        self.digest = digest

    @property
    def full(self) -> str:
        """Domain and path: "docker.io/library/busybox"."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """As users write it: "busybox"."""
        if self.domain != DEFAULT_DOMAIN:
            return self.full
        rest = self.path.removeprefix("library/")
        return rest if "/" not in rest else self.path

    @property
    def suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def familiar(self) -> str:
        return self.familiar_name + self.suffix

    def __str__(self) -> str:
        return self.full + self.suffix

    @property
    def auth_key(self) -> str:
        """The key under which credentials for this name's registry are kept."""
        return INDEX_SERVER if self.domain == DEFAULT_DOMAIN else self.domain


def parse_name(text: str, default_tag: bool = False) -> Name:
    """Normalise a name; with `default_tag` a bare one gets ":latest". Raises CliError in docker's words."""
    if len(text) == 64 and HEX.issuperset(text):
        raise CliError(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    rest, _, digest = text.partition("@")
    slash = rest.rfind("/")
    colon = rest.rfind(":")
    tag = ""
    if colon > slash:
        rest, tag = rest[:colon], rest[colon + 1 :]
        if not tag or not TAG_LETTERS.issuperset(tag) or tag[0] in ".-" or len(tag) > 128:
            raise CliError("invalid reference format")
    domain, mark, path = rest.partition("/")
    if not mark or not ("." in domain or ":" in domain or domain == "localhost" or domain.lower() != domain):
        domain, path = DEFAULT_DOMAIN, rest
    if domain == "index.docker.io":
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and path and "/" not in path:
        path = f"library/{path}"
    if path.lower() != path:
        raise CliError(f"invalid reference format: repository name ({path}) must be lowercase")
    parts = path.split("/")
    if not PATH_LETTERS.issuperset(path) or any(not part or part[0] in "._-" or part[-1] in "._-" for part in parts):
        raise CliError("invalid reference format")
    if "@" in text:
        algorithm, _, encoded = digest.partition(":")
        if not algorithm or len(encoded) < 32 or not HEX.issuperset(encoded):
            raise CliError("invalid reference format")
    if default_tag and not tag and not digest:
        tag = "latest"
    return Name(domain, path, tag, digest)
