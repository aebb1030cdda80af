"""Where a reference leads: the endpoints of a registry and its mirrors, and which hosts may do without safety."""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import msgspec

from scow.errors import InvalidArgument
from scow.oci.reference import DEFAULT_DOMAIN, Reference

HUB_HOST: Final = "registry-1.docker.io"
HUB_KEY: Final = "https://index.docker.io/v1/"
"""The name under which clients keep the Hub's credentials, for ever."""

CERTS_DIRS: Final = ("/etc/docker/certs.d", "/etc/scow/certs.d", "/etc/containers/certs.d")
LOOPBACK: Final = ("::1/128", "127.0.0.0/8")

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class InvalidMirror(InvalidArgument):
    """A configured mirror is no usable URL."""

    def __init__(self, text: str, why: str) -> None:
        super().__init__(f"invalid mirror: {why}: {text!r}")
        self.text = text


class InvalidInsecureRegistry(InvalidArgument):
    """A configured insecure registry is neither host, host:port nor CIDR."""

    def __init__(self, text: str) -> None:
        super().__init__(f"insecure registry {text} is not valid: expected HOST, HOST:PORT or a CIDR range")
        self.text = text


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One base URL to try, without a slash at its end; `/v2/` follows."""

    url: str
    mirror: bool = False
    verify: bool = True  # whether the server must have a certificate that we trust

    @property
    def host(self) -> str:
        """Host and port as the URL has them: the name of the folder in `certs.d`."""
        return urlsplit(self.url).netloc

    @property
    def plain(self) -> bool:
        """Whether it speaks HTTP without TLS."""
        return self.url.startswith("http://")


class Proxies(msgspec.Struct, frozen=True, kw_only=True):
    """HTTP proxies, with the meaning of the usual environment variables."""

    http: str = ""
    https: str = ""
    no_proxy: str = ""

    def for_url(self, url: str) -> str | None:
        """The proxy to use for `url`, if any. Loopback is never proxied, as in Go."""
        parts = urlsplit(url)
        proxy = self.https if parts.scheme == "https" else self.http
        host = parts.hostname or ""
        if not proxy or host == "localhost" or _is_loopback(host) or self._exempt(host, parts.port):
            return None
        return proxy if "://" in proxy else f"http://{proxy}"

    def _exempt(self, host: str, port: int | None) -> bool:
        address = _address(host)
        for entry in filter(None, (each.strip().lower() for each in self.no_proxy.split(","))):
            if entry == "*":
                return True
            network = _network(entry)
            if address is not None and network is not None and address in network:
                return True
            name, _, wanted_port = entry.partition(":") if entry.count(":") == 1 else (entry, "", "")
            if wanted_port and wanted_port != str(port):
                continue
            name = name.lstrip("*")
            if host == name.lstrip(".") or host.endswith(name if name.startswith(".") else f".{name}"):
                return True
        return False


class HostPolicy:
    """What the configuration says about registries: mirrors of Docker Hub, insecure hosts, certificates, proxies.

    Raises InvalidMirror and InvalidInsecureRegistry for entries that make no sense.
    """

    def __init__(
        self,
        *,
        mirrors: Sequence[str] = (),
        insecure: Sequence[str] = (),
        certs_dirs: Sequence[str] = CERTS_DIRS,
        proxies: Proxies | None = None,
        hub_url: str = f"https://{HUB_HOST}",
    ) -> None:
        self.mirrors = tuple(_check_mirror(mirror) for mirror in mirrors)
        self.certs_dirs = tuple(certs_dirs)
        self.proxies = proxies or Proxies()
        self._hub_url = hub_url.rstrip("/")
        self._insecure_hosts: set[str] = set()
        self._insecure_networks: list[_Network] = []
        for entry in (*insecure, *LOOPBACK):
            self._add_insecure(entry)

    def _add_insecure(self, entry: str) -> None:
        text = entry.removeprefix("http://").removeprefix("https://").rstrip("/")
        network = _network(text) if "/" in text else None
        if network is not None:
            self._insecure_networks.append(network)
            return
        if not text or "/" in text or not urlsplit(f"//{text}").hostname:
            raise InvalidInsecureRegistry(entry)
        self._insecure_hosts.add(text.lower())

    @property
    def insecure_hosts(self) -> list[str]:
        """The insecure hosts by name, sorted."""
        return sorted(self._insecure_hosts)

    @property
    def insecure_networks(self) -> list[str]:
        """The insecure networks as CIDRs, loopback among them."""
        return [str(network) for network in self._insecure_networks]

    async def endpoints(self, reference: Reference, *, for_push: bool = False) -> list[Endpoint]:
        """The endpoints to try, in order: mirrors (pulls from Docker Hub only), https, then http if that is allowed."""
        if reference.domain != DEFAULT_DOMAIN:
            return await self.host_endpoints(reference.domain)
        hub = Endpoint(url=self._hub_url)
        if for_push:
            return [hub]
        mirrors = [
            Endpoint(url=mirror, mirror=True, verify=not await self.is_insecure(urlsplit(mirror).netloc))
            for mirror in self.mirrors
        ]
        return [*mirrors, hub]

    async def host_endpoints(self, host: str) -> list[Endpoint]:
        """The endpoints of one registry host, `name[:port]`."""
        if host in (DEFAULT_DOMAIN, f"index.{DEFAULT_DOMAIN}", HUB_HOST):
            return [Endpoint(url=self._hub_url)]
        if not await self.is_insecure(host):
            return [Endpoint(url=f"https://{host}")]
        return [Endpoint(url=f"https://{host}", verify=False), Endpoint(url=f"http://{host}", verify=False)]

    async def is_insecure(self, host: str) -> bool:
        """Whether `host` (`name[:port]`) may lack TLS or a certificate that we trust.

        It is named in the configuration, or one of its addresses lies in a configured network or on loopback.
        """
        if host.lower() in self._insecure_hosts:
            return True
        name = urlsplit(f"//{host}").hostname or host
        if name in self._insecure_hosts:
            return True
        own = _address(name)
        addresses = [own] if own is not None else await _look_up(name)
        return any(address in network for address in addresses for network in self._insecure_networks)


async def _look_up(name: str) -> list[_Address]:
    if name == "localhost":
        return [ipaddress.IPv4Address("127.0.0.1")]
    try:
        answers = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []  # the connection will say it better
    found = (_address(str(answer[4][0])) for answer in answers)
    return [address for address in found if address is not None]


def _check_mirror(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https"):
        raise InvalidMirror(text, f"unsupported scheme {parts.scheme!r}")
    if not parts.hostname:
        raise InvalidMirror(text, "no host")
    if parts.query or parts.fragment:
        raise InvalidMirror(text, "query or fragment at end of the URI")
    if parts.username or parts.password:
        raise InvalidMirror(text.replace(parts.netloc, parts.netloc.rpartition("@")[2]), "username/password in the URL")
    return text.rstrip("/")


def _network(text: str) -> _Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None


def _address(text: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return address is not None and address.is_loopback
