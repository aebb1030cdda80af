"""What settings say that can't be meant: found when they are read rather than when somebody is refused at night."""

import os
from collections.abc import Iterator
from urllib.parse import urlsplit

from scow.registry.names import is_repository, is_tag
from scow.registry.os_errors import sentence
from scow.registry.settings import Oidc, Policy, Remote, Settings, SettingsInvalid, Tls


def check(settings: Settings) -> None:
    """Raise SettingsInvalid for the first thing that can't be meant."""
    settings.address()
    for key, problem in _problems(settings):
        raise SettingsInvalid(key, problem)


def check_files(settings: Settings) -> None:
    """Raise SettingsInvalid for the first file that can't be read or variable that is not there. Blocks."""
    for key, path in _files(settings):
        if not path:
            continue
        try:
            with open(path, "rb") as file:
                file.read(1)
        except OSError as error:
            raise SettingsInvalid(key, sentence(error)) from error
    for key, remote in _remotes(settings):
        if remote.password_env and remote.password_env not in os.environ:
            raise SettingsInvalid(f"{key}.password_env", f"the environment has no {remote.password_env}")


def _files(settings: Settings) -> Iterator[tuple[str, str | None]]:
    auth, tls = settings.auth, settings.tls
    yield "auth.htpasswd", auth.htpasswd
    if auth.token is not None:
        yield "auth.token.ca", auth.token.ca
        yield "auth.token.keys", auth.token.keys if "://" not in auth.token.keys else None
    for number, issuer in enumerate(auth.oidc):
        yield f"auth.oidc[{number}].client_secret_file", issuer.client_secret_file
        yield f"auth.oidc[{number}].ca", issuer.ca
    if tls is not None:
        for name in ("cert", "key", "client_ca", "client_crl"):
            yield f"tls.{name}", getattr(tls, name)
    for key, remote in _remotes(settings):
        yield f"{key}.password_file", remote.password_file


def _remotes(settings: Settings) -> Iterator[tuple[str, Remote]]:
    for number, proxy in enumerate(settings.proxy):
        yield f"proxy[{number}]", proxy
    for number, rule in enumerate(settings.sync):
        yield f"sync[{number}]", rule


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
    for number, issuer in enumerate(auth.oidc):
        yield from _issuer(f"auth.oidc[{number}]", issuer)
    for number, policy in enumerate(settings.policies):
        yield from _policy(f"policies[{number}]", policy)
    if settings.tls is not None:
        yield from _tls(settings.tls)
    yield from _elsewhere(settings)
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


def _policy(key: str, policy: Policy) -> Iterator[tuple[str, str]]:
    yield from _patterns(f"{key}.repositories", policy.repositories)
    for name in ("immutable_tags", "deprecated_tags", "keep_tags", "expire_tags"):
        for pattern in getattr(policy, name):
            if not is_tag(pattern.replace("*", "x")):
                yield f"{key}.{name}", f"no tag can match {pattern!r}: tags have letters, digits, '_', '.' and '-'"
    if not policy.has_retention:
        # Not even another policy's retention would heed these.
        for name in ("keep_tags", "expire_tags"):
            if getattr(policy, name):
                yield f"{key}.{name}", "means nothing without keep_last, keep_days or keep_pulled_days"


def _issuer(key: str, issuer: Oidc) -> Iterator[tuple[str, str]]:
    for name in ("issuer", "client_id", "user_claim"):
        if not getattr(issuer, name):
            yield f"{key}.{name}", "is empty"
    for name in ("client_secret_file", "ca"):
        if getattr(issuer, name) == "":
            yield f"{key}.{name}", "is empty, where a file is to be named"


def _tls(tls: Tls) -> Iterator[tuple[str, str]]:
    for name in ("cert", "key"):
        if not getattr(tls, name):
            yield f"tls.{name}", "is empty, where a file is to be named"


def _elsewhere(settings: Settings) -> Iterator[tuple[str, str]]:
    """What is wrong with what is said of other registries and endpoints."""
    for number, proxy in enumerate(settings.proxy):
        yield from _some_patterns(f"proxy[{number}].repositories", proxy.repositories)
    for number, rule in enumerate(settings.sync):
        if not rule.name:
            yield f"sync[{number}].name", "is empty"
        yield from _patterns(f"sync[{number}].repositories", rule.repositories)
        if rule.namespace and not is_repository(rule.namespace):
            yield f"sync[{number}].namespace", f"no repository's name can begin with {rule.namespace!r} and a slash"
    for number, endpoint in enumerate(settings.webhooks):
        if not endpoint.name:
            yield f"webhooks[{number}].name", "is empty"
        if not endpoint.actions:
            yield f"webhooks[{number}].actions", "is empty: nothing would be told"
        yield from _some_patterns(f"webhooks[{number}].repositories", endpoint.repositories)
    for kind, remotes in (("proxy", settings.proxy), ("sync", settings.sync)):
        for number, remote in enumerate(remotes):
            if not remote.upstream or not _is_quotable(remote.upstream) or " " in remote.upstream:
                yield f"{kind}[{number}].upstream", f"{remote.upstream!r} is neither a host nor a URL"
            if " " in remote.http_proxy or not _is_quotable(remote.http_proxy):
                yield f"{kind}[{number}].http_proxy", f"{remote.http_proxy!r} is no URL"


def _patterns(key: str, patterns: list[str]) -> Iterator[tuple[str, str]]:
    if not patterns:
        yield key, "is empty: no repository is meant"
    yield from _some_patterns(key, patterns)


def _some_patterns(key: str, patterns: list[str]) -> Iterator[tuple[str, str]]:
    for pattern in patterns:
        if not is_repository(pattern.replace("{user}", "x").replace("**", "x").replace("*", "x")):
            yield key, f"no repository's name can match {pattern!r}: names are lower case, as in team/**"


def _is_url(text: str) -> bool:
    parts = urlsplit(text)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and _is_quotable(text) and " " not in text


def _is_quotable(text: str) -> bool:
    return text.isascii() and text.isprintable() and '"' not in text and "\\" not in text
