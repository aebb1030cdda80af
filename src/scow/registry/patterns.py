"""Patterns of repository names and tags: `*` stands within a path component, `**` across them."""

import re
from collections.abc import Iterable
from functools import lru_cache


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    # The groups are atomic: what stands behind a wildcard is looked for at its first place only, as the next wildcard
    # reaches as far from there as from any other. Else a name made for it takes seconds with four of them or five.
    first, *others = pattern.split("**")
    text = _part(first, not others)
    for number, part in enumerate(others, 1):
        ends = number == len(others)
        text += f".*?{_part(part, True)}" if ends else f"(?>.*?{_part(part, False)})"
    return re.compile(text, re.DOTALL)


def _part(pattern: str, ends: bool) -> str:
    """The expression for what is between two `**`; if it `ends` the pattern, its last wildcard goes on to the end."""
    text, *others = map(re.escape, pattern.split("*"))
    for number, fixed in enumerate(others, 1):
        text += f"[^/]*?{fixed}" if ends and number == len(others) else f"(?>[^/]*?{fixed})"
    return text


def matches(text: str, pattern: str) -> bool:
    """Whether a name as a whole is one that the pattern stands for."""
    return _compiled(pattern).fullmatch(text) is not None


def matches_any(text: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns stands for it."""
    return any(matches(text, pattern) for pattern in patterns)


def fixed_part(pattern: str) -> str:
    """What every name of the pattern begins with."""
    return pattern.partition("*")[0]
