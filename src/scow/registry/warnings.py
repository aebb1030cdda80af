"""What a client is told beside its answer: `Warning` headers. distribution-spec spec.md#warnings."""

from collections.abc import Sequence
from typing import Final

from scow.registry.metadata import QuotaUse
from scow.registry.replies import Headers

NEARLY_FULL: Final = 0.9
"""A quota of which so much is used is worth a warning."""
WARNINGS_LIMIT: Final = 4096
"""Bytes of all warnings of an answer together, by the specification."""


def deprecation_warning(repository: str, tag: str) -> tuple[str, str]:
    """Warn whoever uses a tag that is deprecated."""
    return "Warning", f'299 - "tag {tag} of {repository} is deprecated"'


def quota_warnings(repository: str, uses: Sequence[QuotaUse]) -> Headers:
    """Warn whoever has pushed to a repository of quotas that are nearly used up; the fullest first."""
    headers: list[tuple[str, str]] = []
    room = WARNINGS_LIMIT
    for use in sorted(uses, key=lambda use: -use.used / use.quota.size):
        if use.used < use.quota.size * NEARLY_FULL:
            break
        # A prefix is the beginning of a checked name, as the repository's own is one: neither has to be escaped.
        prefix = use.quota.prefix
        who = repository if prefix is None else f"namespace {prefix.rstrip('/')}" if prefix else "the registry"
        share = use.used * 100 // use.quota.size
        value = f'299 - "{who} uses {share} % of its quota: {use.used} of {use.quota.size} bytes"'
        room -= len(value)
        if room < 0:
            break
        headers.append(("Warning", value))
    return headers
