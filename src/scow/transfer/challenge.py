"""Challenges: what a registry asks for with `WWW-Authenticate`. RFC 9110 section 11.6.1, registry-auth token.md."""

import re
from collections.abc import Iterable
from typing import Final

import msgspec

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME: Final = re.compile(rf"\s*({_TOKEN})(?:\s+|$|(?=,))")
_PARAMETER: Final = re.compile(rf'\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))')
_COMMA: Final = re.compile(r"\s*,")
_GAP: Final = re.compile(r"[\s,]*")
_ESCAPE: Final = re.compile(r"\\(.)")


class Challenge(msgspec.Struct, frozen=True):
    """One way to authenticate that a server offers; scheme and parameter names are in lower case."""

    scheme: str
    parameters: dict[str, str]

    def get(self, name: str) -> str:
        """The parameter `name`, empty if there is none."""
        return self.parameters.get(name, "")

    @property
    def scopes(self) -> frozenset[str]:
        """The scopes that a bearer token should have."""
        return frozenset(self.get("scope").split())


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """Read the `WWW-Authenticate` lines of an answer; several challenges may share a line. Nonsense is left out."""
    return [challenge for header in headers for challenge in _parse_line(header)]


def _parse_line(line: str) -> list[Challenge]:
    found: list[Challenge] = []
    at = 0
    while at < len(line):
        scheme = _SCHEME.match(line, at)
        if scheme is None or _PARAMETER.match(line, at):
            break
        at = scheme.end()
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(line, at):
            name, quoted, bare = parameter.groups()
            parameters.setdefault(name.lower(), _ESCAPE.sub(r"\1", quoted) if quoted is not None else bare)
            at = parameter.end()
            comma = _COMMA.match(line, at)
            if comma is None:
                break
            at = comma.end()
        found.append(Challenge(scheme[1].lower(), parameters))
        rest = _GAP.match(line, at)
        at = rest.end() if rest else at
    return found
