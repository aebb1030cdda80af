"""Which repositories belong to other registries, and what they are called there: pure, from the configuration."""

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import msgspec

from scow.registry.errors import NameInvalid
from scow.registry.names import parse_repository
from scow.registry.patterns import matches_any
from scow.registry.settings import Proxy, Remote, SettingsInvalid

HUB: Final = "docker.io"
HUB_URL: Final = "https://registry-1.docker.io"
_HUB_NAMES: Final = frozenset({HUB, "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})


class Place(msgspec.Struct, frozen=True):
    """A repository here that stands for one of another registry."""

    proxy: Proxy
    local: str
    remote: str

    @property
    def allowed(self) -> bool:
        """Whether it may be fetched."""
        return not self.proxy.repositories or matches_any(self.remote, self.proxy.repositories)


class Places:
    """Finds the proxy that a repository belongs to; of several the one with the longest namespace."""

    def __init__(self, proxies: Sequence[Proxy], url: str = "") -> None:
        """`url` is this registry's own, which a `?ns=` may name. Raises SettingsInvalid."""
        self._by_namespace: dict[str, Proxy] = {}
        self._by_ns: dict[str, Proxy] = {}
        self._own = {urlsplit(url).netloc.lower()} - {""}
        for proxy in proxies:
            check_remote(proxy, f"proxy {proxy.namespace or proxy.upstream}")
            _check_namespace(proxy)
            if proxy.namespace in self._by_namespace:
                raise SettingsInvalid("proxy", f"namespace {proxy.namespace or '(the whole registry)'} is there twice")
            self._by_namespace[proxy.namespace] = proxy
            for name in {host_of(proxy), *(ns.lower() for ns in proxy.ns)}:
                self._by_ns.setdefault(name, proxy)

    def __bool__(self) -> bool:
        return bool(self._by_namespace)

    def place(self, repository: str) -> Place | None:
        """The place of a repository, None for those of our own."""
        if not self._by_namespace:
            return None
        namespace, rest = repository, ""
        while namespace:
            namespace, _, last = namespace.rpartition("/")
            rest = f"{last}/{rest}" if rest else last
            if (proxy := self._by_namespace.get(namespace)) is not None:
                return Place(proxy, repository, remote_name(proxy, rest))
        return None

    def named(self, ns: str, repository: str, host: str) -> str | None:
        """What is called here what a client calls `repository` of the registry `ns`; None if nothing is.

        `ns` is only looked up: nobody is asked for being named. `host` is this registry as the client has called it.
        """
        ns = ns.lower()
        if ns in self._own or ns == host.lower():
            return repository
        proxy = self._by_ns.get(HUB if ns in _HUB_NAMES else ns)
        if proxy is None:
            return None
        return f"{proxy.namespace}/{repository}" if proxy.namespace else repository


def host_of(proxy: Remote) -> str:
    """The host that names the upstream, `docker.io` for Docker Hub."""
    host = (urlsplit(proxy.upstream).netloc if "://" in proxy.upstream else proxy.upstream.rstrip("/")).lower()
    return HUB if host in _HUB_NAMES else host


def url_of(proxy: Remote) -> str:
    """The URL to which `/v2/` is added."""
    if host_of(proxy) == HUB and "://" not in proxy.upstream:
        return HUB_URL
    return (proxy.upstream if "://" in proxy.upstream else f"https://{proxy.upstream}").rstrip("/")


def remote_name(proxy: Remote, name: str) -> str:
    """What a repository is called at the upstream: Docker Hub's official images have short everyday names."""
    return f"library/{name}" if "/" not in name and host_of(proxy) == HUB else name


def check_remote(remote: Remote, where: str) -> None:
    """Raise SettingsInvalid if an upstream cannot be spoken to as it is described."""
    parts = urlsplit(url_of(remote))
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path or parts.query or parts.fragment:
        raise SettingsInvalid(where, f"upstream {remote.upstream!r} is neither a host nor a URL without a path")
    if "@" in parts.netloc:
        raise SettingsInvalid(where, "credentials belong into username and password, not into the URL")
    if sum(map(bool, (remote.password, remote.password_file, remote.password_env))) > 1:
        raise SettingsInvalid(where, "only one of password, password_file and password_env can be there")
    if (remote.password or remote.password_file or remote.password_env) and not remote.username:
        raise SettingsInvalid(where, "a password without a username")


def _check_namespace(proxy: Proxy) -> None:
    if proxy.namespace:
        try:
            parse_repository(proxy.namespace)
        except NameInvalid as error:
            where = f"proxy {proxy.namespace}"
            raise SettingsInvalid(where, "a namespace is the beginning of names, without a slash at its end") from error
