"""What settings say that can't be meant: found when they are read rather than when somebody is refused at night."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from scow.registry.names import is_repository
from scow.registry.settings import Settings, SettingsInvalid


def check(settings: Settings) -> None:
    """Raise SettingsInvalid for the first thing that can't be meant."""
    settings.address()
    for key, problem in _problems(settings):
        raise SettingsInvalid(key, problem)


def advise(settings: Settings) -> Iterator[str]:
    """What can be meant and mostly is not, a sentence for each."""
    auth, tls = settings.auth, settings.tls
    reads = auth.anonymous_pull or any(rule.anonymous and {"pull", "*"} & {*rule.actions} for rule in auth.rules)
    others = not auth.rules or any(rule.users or rule.groups or rule.robots for rule in auth.rules)
    has_other_way = auth.token is not None or (tls is not None and tls.client_names)
    mirrors = any(not proxy.namespace for proxy in settings.proxy)  # nobody pushes there
    if reads and others and not has_other_way and not mirrors:
        yield (
            "docker sends no password where it may read without one, so that nobody can push or pull more with it: "
            "add the table [auth.token]"
        )


def _problems(settings: Settings) -> Iterator[tuple[str, str]]:
    auth = settings.auth
    for number, rule in enumerate(auth.rules):
        key = f"auth.rules[{number}]"
        yield from _patterns(f"{key}.repositories", rule.repositories)
        if not rule.actions:
            yield f"{key}.actions", "is empty: the rule allows nothing"
        if not (rule.anonymous or rule.users or rule.groups or rule.robots):
            yield key, "is for nobody: it needs users, groups, robots or anonymous = true"
        for group in rule.groups:
            if group not in auth.groups and not auth.oidc:  # an issuer has groups of its own
                known = ", ".join(sorted(auth.groups)) or "none"
                yield f"{key}.groups", f"there is no group {group!r} in auth.groups: {known}"
        for robot in rule.robots:
            if robot.startswith("robot+"):
                yield f"{key}.robots", f"{robot!r} is to be written without 'robot+'"
    for number, policy in enumerate(settings.policies):
        yield from _patterns(f"policies[{number}].repositories", policy.repositories)
    realm = auth.token.realm if auth.token else ""
    for key, url in (("url", settings.url), ("auth.token.realm", realm), ("traces.endpoint", settings.traces.endpoint)):
        if url and not _is_url(url):
            yield key, f"{url!r} is no URL with http:// or https://"
    if auth.token is not None and not _is_quotable(auth.token.service):
        yield "auth.token.service", "is to be of printable ASCII without quotes: it goes into a header"

    try:
        _ = urlsplit(settings.database.url).port
    except ValueError as error:  # the URL itself has the password in it
        yield "database.url", str(error)


def _patterns(key: str, patterns: list[str]) -> Iterator[tuple[str, str]]:
    if not patterns:
        yield key, "is empty: no repository is meant"
    for pattern in patterns:
        if not is_repository(pattern.replace("{user}", "x").replace("**", "x").replace("*", "x")):
            yield key, f"no repository's name can match {pattern!r}: names are lower case, as in team/**"


def _is_url(text: str) -> bool:
    parts = urlsplit(text)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and _is_quotable(text) and " " not in text


def _is_quotable(text: str) -> bool:
    return text.isascii() and text.isprintable() and '"' not in text and "\\" not in text
