"""What the configured policies say about a repository: immutable tags, quotas, retention. Pure."""

import re
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from scow.registry.patterns import fixed_part, matches_any
from scow.registry.settings import Policy, SettingsInvalid

DAY_S: Final = 86400.0


class Quota(msgspec.Struct, frozen=True):
    """A bound on the bytes of blobs. `prefix` is what the names of the repositories begin with that share it."""

    size: int
    prefix: str | None = None  # None: this repository alone


class TagTime(msgspec.Struct, frozen=True):
    """A tag, when it was moved or pushed last, and what it stands for pulled (seconds since the epoch)."""

    name: str
    updated_at: float
    used_at: float = 0.0  # 0 where nobody counts


class Policies:
    """All policies; every one whose pattern matches a repository holds there."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        """Raises SettingsInvalid for a namespace's quota whose pattern is no namespace."""
        self._policies = policies
        self.deprecates = any(policy.deprecated_tags for policy in policies)
        self.pulls_matter = any(policy.keep_pulled_days for policy in policies)
        for policy in policies:
            for pattern in policy.repositories:
                if policy.namespace_quota_size and not re.fullmatch(r"([^*]*/)?\*\*", pattern):
                    raise SettingsInvalid(pattern, "namespace_quota_size needs patterns of the form name/** or **")

    def _holding(self, repository: str) -> list[Policy]:
        return [policy for policy in self._policies if matches_any(repository, policy.repositories)]

    def is_immutable(self, repository: str, tag: str) -> bool:
        """Whether a tag, once there, never moves nor goes."""
        return any(matches_any(tag, policy.immutable_tags) for policy in self._holding(repository))

    def is_deprecated(self, repository: str, tag: str) -> bool:
        """Whether people should use another tag."""
        return any(matches_any(tag, policy.deprecated_tags) for policy in self._holding(repository))

    def has_immutable(self, repository: str) -> bool:
        """Whether there can be immutable tags at all."""
        return any(policy.immutable_tags for policy in self._holding(repository))

    def quotas(self, repository: str) -> list[Quota]:
        """The bounds on a repository."""
        found = []
        for policy in self._holding(repository):
            if policy.quota_size:
                found.append(Quota(policy.quota_size))
            if policy.namespace_quota_size:
                prefixes = [fixed_part(p) for p in policy.repositories if matches_any(repository, [p])]
                found += [Quota(policy.namespace_quota_size, prefix) for prefix in prefixes]
        return found

    @property
    def retain(self) -> bool:
        """Whether anything is ever removed by age or number."""
        return any(policy.has_retention or policy.untagged_days for policy in self._policies)

    def expires_tags(self, repository: str) -> bool:
        """Whether tags of a repository are ever removed by age or number."""
        return any(policy.has_retention for policy in self._holding(repository))

    def counts_pulls(self, repository: str) -> bool:
        """Whether it matters when something was pulled last."""
        return self.pulls_matter and any(policy.keep_pulled_days for policy in self._holding(repository))

    def unused_before(self, repository: str, now: float | None = None) -> float | None:
        """What was pulled since this time stays; None if pulls don't matter."""
        days = [policy.keep_pulled_days for policy in self._holding(repository) if policy.keep_pulled_days]
        now = time.time() if now is None else now
        return now - max(days) * DAY_S if days else None

    def expired_tags(self, repository: str, tags: Sequence[TagTime], now: float | None = None) -> list[TagTime]:
        """Tags that retention removes: those that it is about and that no policy with retention keeps."""
        now = time.time() if now is None else now
        retaining = [policy for policy in self._holding(repository) if policy.has_retention]
        kept: set[str] = {tag.name for tag in tags if self.is_immutable(repository, tag.name)}
        concerned: set[str] = set()
        newest_first = sorted(tags, key=lambda tag: (-tag.updated_at, tag.name))
        for policy in retaining:
            others = []
            for tag in newest_first:
                if policy.expire_tags and not matches_any(tag.name, policy.expire_tags):
                    continue
                concerned.add(tag.name)
                if matches_any(tag.name, policy.keep_tags):
                    kept.add(tag.name)
                else:
                    others.append(tag)
            kept.update(tag.name for tag in others[: policy.keep_last])
            kept.update(tag.name for tag in others if tag.updated_at > now - policy.keep_days * DAY_S)
            unused = now - policy.keep_pulled_days * DAY_S
            kept.update(tag.name for tag in others if max(tag.updated_at, tag.used_at) > unused)
        expired = concerned - kept
        return [tag for tag in newest_first if tag.name in expired]

    def untagged_before(self, repository: str, now: float | None = None) -> float | None:
        """Manifests that nothing needs since before this time go; None if they stay for ever."""
        days = [policy.untagged_days for policy in self._holding(repository) if policy.untagged_days]
        now = time.time() if now is None else now
        return now - max(days) * DAY_S if days else None
