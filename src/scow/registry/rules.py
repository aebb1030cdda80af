"""Who may do what in which repository: pure decisions from the configuration."""

from typing import Final

import msgspec

from scow.registry.patterns import matches
from scow.registry.settings import Auth, Rule

ACTIONS: Final = frozenset({"pull", "push", "delete"})
NOTHING: Final[frozenset[str]] = frozenset()
ROBOT: Final = "robot+"
"""Names of robots begin with it, so that no person's name can be one's by chance."""
_KEPT_LIMIT: Final = 20_000


class Identity(msgspec.Struct, frozen=True):
    """Who somebody is, as a password or an issuer says."""

    name: str
    groups: frozenset[str] = NOTHING  # that an issuer names; those of the settings come besides
    local: bool = True  # has an account here, rather than an issuer's word


class Rules:
    """Decides. Without rules whoever has logged in may do everything."""

    def __init__(self, auth: Auth) -> None:
        self._auth = auth
        self._groups = {name: frozenset(members) for name, members in auth.groups.items()}
        self._kept: dict[tuple[Identity | None, str], frozenset[str]] = {}

    @property
    def groups(self) -> frozenset[str]:
        """Groups that rules name."""
        return frozenset(group for rule in self._auth.rules for group in rule.groups)

    @property
    def anonymous_may_pull(self) -> bool:
        """Whether there is anything that somebody without a name may read."""
        return self._auth.anonymous_pull or any(rule.anonymous and _grants(rule, "pull") for rule in self._auth.rules)

    def actions(self, who: Identity | None, repository: str) -> frozenset[str]:
        """What a caller, None for one without a name, may do in a repository."""
        key = (who, repository)
        found = self._kept.get(key)
        if found is None:
            if len(self._kept) >= _KEPT_LIMIT:
                self._kept.clear()
            found = self._kept[key] = self._decide(who, repository)
        return found

    def _decide(self, who: Identity | None, repository: str) -> frozenset[str]:
        if not self._auth.rules and who is not None:
            return ACTIONS
        name = who.name if who is not None else None
        found: set[str] = {"pull"} if self._auth.anonymous_pull else set()
        for rule in self._auth.rules:
            if self._concerns(rule, who) and any(_covers(p, repository, name) for p in rule.repositories):
                found |= ACTIONS if "*" in rule.actions else set(rule.actions)
        return frozenset(found)

    def _concerns(self, rule: Rule, who: Identity | None) -> bool:
        if rule.anonymous:
            return True
        if who is None:
            return False
        name = who.name
        if name in rule.users:
            return True
        if name.startswith(ROBOT):  # a rule for every user is one for people
            if "*" in rule.robots or name.removeprefix(ROBOT) in rule.robots:
                return True
        elif "*" in rule.users:
            return True
        return any(group in who.groups or name in self._groups.get(group, ()) for group in rule.groups)


def _grants(rule: Rule, action: str) -> bool:
    return action in rule.actions or "*" in rule.actions


def _covers(pattern: str, repository: str, name: str | None) -> bool:
    if "{user}" in pattern:
        if not name or "*" in name or "/" in name:  # issuers name people as they like
            return False
        pattern = pattern.replace("{user}", name)
    return matches(repository, pattern)
