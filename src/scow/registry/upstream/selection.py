"""Which of an upstream's tags a rule means: patterns, regular expressions, versions. Pure."""

import re
from collections.abc import Iterable, Sequence
from functools import total_ordering
from typing import Final

from scow.registry.patterns import matches
from scow.registry.settings import SettingsInvalid, Sync

_VERSION: Final = re.compile(r"v?(\d{1,18}(?:\.\d{1,18}){0,5})(?:[-_.]?([0-9A-Za-z][0-9A-Za-z._-]*))?\Z")
_BOUND: Final = re.compile(r"(>=|<=|>|<|=|~|\^)\s*(\S+)")
_NUMBER: Final = re.compile(r"(\d+)")


@total_ordering
class Version:
    """A tag such as `v1.2.3` or `1.2-rc1`. What follows the numbers makes it an earlier one, as in semver."""

    def __init__(self, numbers: tuple[int, ...], suffix: str) -> None:
        self.numbers = numbers
        self.suffix = suffix

    def _key(self) -> tuple[tuple[int, ...], bool, list[tuple[int, int, str]]]:
        padded = self.numbers + (0,) * (6 - len(self.numbers))
        parts = [part for part in _NUMBER.split(self.suffix) if part]
        return padded, not self.suffix, [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self._key() == other._key()

    def __lt__(self, other: "Version") -> bool:
        return self._key() < other._key()

    def __hash__(self) -> int:
        return hash(self.numbers)


def parse_version(tag: str) -> Version | None:
    """The version that a tag is, None if it is none. One number alone is one too: `3`."""
    match = _VERSION.match(tag)
    if match is None:
        return None
    return Version(tuple(int(number) for number in match[1].split(".")), match[2] or "")


class TagRule:
    """One entry of `tags` or `exclude`."""

    def __init__(self, text: str, where: str) -> None:
        """Raises SettingsInvalid."""
        self.text = text
        self._regex: re.Pattern[str] | None = None
        self._bounds: list[tuple[str, Version]] = []
        if len(text) > 1 and text.startswith("/") and text.endswith("/"):
            try:
                self._regex = re.compile(text[1:-1])
            except re.error as error:
                raise SettingsInvalid(where, f"{text}: {error}") from error
        elif text[:1] in ("<", ">", "=", "~", "^"):
            self._bounds = [self._bound(sign, version, where) for sign, version in _BOUND.findall(text)]
            if _BOUND.sub("", text).strip(" ,") or not self._bounds:
                raise SettingsInvalid(where, f"{text!r} is not a range of versions such as >=1.2 <2")

    def _bound(self, sign: str, text: str, where: str) -> tuple[str, Version]:
        version = parse_version(text.rstrip(","))
        if version is None:
            raise SettingsInvalid(where, f"{text!r} is not a version")
        return sign, version

    def matches(self, tag: str) -> bool:
        """Whether it means a tag."""
        if self._regex is not None:
            return self._regex.search(tag) is not None
        if not self._bounds:
            return matches(tag, self.text)
        version = parse_version(tag)
        return version is not None and all(_within(version, sign, bound) for sign, bound in self._bounds)


def _within(version: Version, sign: str, bound: Version) -> bool:
    match sign:
        case ">=":
            return version >= bound
        case ">":
            return version > bound
        case "<=":
            return version <= bound
        case "<":
            # 2.0-rc1 is not what somebody wants who asks for less than 2.
            return version < bound and not (version.suffix and version.numbers == bound.numbers)
        case "=":
            return version == bound
    # npm's: ~1.2 is 1.2.*, ^1.2 is 1.* from 1.2 on.
    fixed = 1 if sign == "^" or len(bound.numbers) == 1 else 2
    return version >= bound and version.numbers[:fixed] == bound.numbers[:fixed]


class Selection:
    """The tags that a rule of `[[sync]]` means."""

    def __init__(self, rule: Sync) -> None:
        """Raises SettingsInvalid."""
        where = f"sync {rule.name}"
        self._tags = [TagRule(text, where) for text in rule.tags]
        self._exclude = [TagRule(text, where) for text in rule.exclude]
        self._latest = rule.latest

    def of(self, tags: Iterable[str]) -> list[str]:
        """Those of `tags` that are meant, the highest versions first, then the others by name."""
        found = [tag for tag in tags if self._means(tag)]
        versions = [(version, tag) for tag in found if (version := parse_version(tag)) is not None]
        versions.sort(key=lambda pair: (pair[0], pair[1]), reverse=True)
        if self._latest:
            kept = [tag for _, tag in versions[: self._latest]]
            # What is no version is kept if it was asked for: `latest` by name, not by `*`.
            named = sorted(tag for tag in found if parse_version(tag) is None and self._names(tag))
            return kept + named
        return [tag for _, tag in versions] + sorted(tag for tag in found if parse_version(tag) is None)

    def _means(self, tag: str) -> bool:
        if any(rule.matches(tag) for rule in self._exclude):
            return False
        return not self._tags or any(rule.matches(tag) for rule in self._tags)

    def _names(self, tag: str) -> bool:
        return any(rule.text == tag for rule in self._tags)


def is_pattern(name: str) -> bool:
    """Whether a repository's entry stands for several."""
    return "*" in name


def select_repositories(names: Sequence[str], catalog: Sequence[str]) -> list[str]:
    """Repositories by their entries: names as they are, patterns by what the upstream has."""
    found = [name for name in names if not is_pattern(name)]
    for pattern in (name for name in names if is_pattern(name)):
        found += [name for name in catalog if matches(name, pattern)]
    return list(dict.fromkeys(found))
