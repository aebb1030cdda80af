"""Patterns of repository names and tags: `*` stands within a path component, `**` across them."""

import re
from collections.abc import Iterable
from functools import lru_cache


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*|\*)", pattern)
    wild = {"**": ".*", "*": "[^/]*"}
    return re.compile("".join(wild.get(part) or re.escape(part) for part in parts), re.DOTALL)


def matches(text: str, pattern: str) -> bool:
    """Whether a name as a whole is one that the pattern stands for."""
    return _compiled(pattern).fullmatch(text) is not None


def matches_any(text: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns stands for it."""
    return any(matches(text, pattern) for pattern in patterns)


def fixed_part(pattern: str) -> str:
    """What every name of the pattern begins with."""
    return pattern.partition("*")[0]
