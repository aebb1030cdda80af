"""Ports of the machine that containers publish: which are free, who holds one, and holding them.

Each published port is held by a bound socket that never listens. It keeps other programs (and other engines) from
taking the port without noticing, as docker's userland proxy does, while the packets themselves go by the firewall's
address translation and never reach the socket. Those that it can't lead on do: then the socket listens, and relays
carry what connects to it (see there).
"""

import errno
import ipaddress
import logging
import os
import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from scow.errors import Conflict, Internal, InvalidArgument
from scow.linux import sysctl
from scow.linux.conntrack import forget_answered_by, forget_sent_to
from scow.network.addresses import Address, parse_address
from scow.network.model import Endpoint, Port, PublishedPort
from scow.network.relays import Relays

_log = logging.getLogger(__name__)
_KINDS: Final = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}
RELAYED: Final = ("tcp", "udp")
_LISTENING: Final = {"tcp": "0A", "udp": "07"}


class PortTaken(Conflict):
    """A port that was asked for belongs to another container or to a program of the machine.

    Clients look for `port is already allocated` and `address already in use`. `endpoint` is the container's name and
    endpoint id, `holder` who has the port, if that could be found out.
    """

    def __init__(self, host_ip: str, port: int, protocol: str, *, holder: str = "", ours: bool = True) -> None:
        self.host_ip, self.port, self.protocol, self.holder, self.ours = host_ip, port, protocol, holder, ours
        where = f"[{host_ip}]" if ":" in host_ip else host_ip
        what = (
            "port is already allocated"
            if ours
            else f"failed to bind host port {where}:{port}/{protocol}: address already in use"
        )
        by = f" (held by {holder})" if holder else ""
        super().__init__(f"Bind for {where}:{port} failed: {what}{by}" if ours else f"{what}{by}")


class PublishingFailed(Internal):
    """Docker's sentence around whatever kept ports from being published; it answers 500 as dockerd does."""

    def __init__(self, container_name: str, endpoint_id: str, reason: Exception) -> None:
        super().__init__(
            f"driver failed programming external connectivity on endpoint {container_name} ({endpoint_id}): {reason}"
        )
        self.reason = reason


class BadPort(InvalidArgument):
    """A port or protocol in a request makes no sense."""


class NoPortLeft(Conflict):
    def __init__(self) -> None:
        super().__init__("all ports are allocated")


class Hold(msgspec.Struct):
    """One published port while it is held; `held` is None where the kernel lacks the protocol or another holds it."""

    port: PublishedPort
    holder: str
    held: socket.socket | None = None


class PortTable:
    """Every port that this engine publishes. Owned by the event loop: nothing here waits.

    Without `relays`, ports of containers without IPv6 are not published at the machine's IPv6 addresses.
    """

    def __init__(self, relays: Relays | None = None) -> None:
        self._relays = relays
        self._holds: dict[tuple[str, int], list[Hold]] = {}
        self._by_holder: dict[str, list[Hold]] = {}
        self._cursor = 0

    def reserve(
        self, requests: Iterable[Port], holder: str, versions: Collection[int], default_ip: str = ""
    ) -> tuple[PublishedPort, ...]:
        """Take all the ports or none, for `holder` (an endpoint id). Raises PortTaken, NoPortLeft, BadPort.

        A request without address takes the port on all addresses of the IP versions that the holder has; one for an
        address of another version leads nowhere, and is left out. Relays carry TCP and UDP from IPv6 to IPv4; a request
        without address does without that if somebody else has the port there.
        """
        try:
            found = [port for request in requests for port in self._reserve(request, holder, versions, default_ip)]
        except BaseException:
            self.release(holder)
            raise
        return tuple(found)

    def adopt(self, ports: Iterable[PublishedPort], holder: str) -> list[OSError]:
        """Hold ports that were published before the engine started; returns what could not be held, and goes on."""
        failures = []
        for port in ports:
            try:
                held = _bind(port)
            except OSError as error:
                failures.append(error)
                held = None
            self._add(Hold(port, holder, held))
        return failures

    def relay(self, holder: str, ip: str) -> None:
        """Have what connects to a holder's ports at IPv6 addresses, in spite of the firewall, carried to `ip`."""
        for hold in self._by_holder.get(holder, ()):
            if self._relays is not None and hold.held is not None and _may_be_relayed(hold.port):
                try:
                    self._relays.listen(hold.held, (ip, hold.port.container_port))
                except OSError as error:
                    _log.warning("port %d can't be reached by IPv6: %s", hold.port.host_port, error)

    def release(self, holder: str) -> None:
        """Give back what a holder has; a holder of nothing is fine."""
        for hold in self._by_holder.pop(holder, []):
            if hold.held is not None:
                if self._relays is not None:
                    self._relays.forget(hold.held)
                hold.held.close()
            key = (hold.port.protocol, hold.port.host_port)
            self._holds[key].remove(hold)
            if not self._holds[key]:
                del self._holds[key]

    def close(self) -> None:
        """Close every socket; the ports stay published in the firewall."""
        for holder in list(self._by_holder):
            self.release(holder)
        if self._relays is not None:
            self._relays.close()

    def _add(self, hold: Hold) -> None:
        self._holds.setdefault((hold.port.protocol, hold.port.host_port), []).append(hold)
        self._by_holder.setdefault(hold.holder, []).append(hold)

    def _reserve(self, request: Port, holder: str, versions: Collection[int], default_ip: str) -> list[PublishedPort]:
        if request.protocol not in _KINDS:
            raise BadPort(f"invalid proto: {request.protocol}")
        if not 0 < request.container_port < 65536 or not 0 <= request.host_port < 65536:
            raise BadPort(f"invalid port number: {request.host_port}:{request.container_port}")
        host_ip = request.host_ip or default_ip
        relayed = self._relays is not None and request.protocol in RELAYED
        reachable = {*versions, 6} if relayed else set(versions)
        addresses = _addresses(host_ip, reachable)
        if not addresses:
            _log.warning(
                "port %d is not published at %s: no such address inside", request.container_port, request.host_ip
            )
            return []
        last_failure: PortTaken | None = None
        for number in self._numbers(request):
            try:
                return self._take(request, number, addresses, holder, versions)
            except PortTaken as failure:
                last_failure = failure
        if last_failure is not None and request.host_port:
            raise last_failure
        raise NoPortLeft

    def _numbers(self, request: Port) -> Iterator[int]:
        if request.host_port:
            yield from range(request.host_port, max(request.host_port, request.last_host_port) + 1)
            return
        low, high = (int(part) for part in sysctl.read("net/ipv4/ip_local_port_range").split())
        count = high - low + 1
        for step in range(count):
            number = low + (self._cursor + step) % count
            if (request.protocol, number) not in self._holds:
                self._cursor = number - low + 1
                yield number

    def _take(
        self, request: Port, number: int, addresses: Sequence[Address], holder: str, versions: Collection[int]
    ) -> list[PublishedPort]:
        taken: list[Hold] = []
        try:
            for address in addresses:
                port = PublishedPort(request.container_port, request.protocol, str(address), number)
                try:
                    taken.append(self._hold(address, port, holder))
                except (PortTaken, BadPort) as failure:
                    must = not taken or address.version in versions
                    if must or (isinstance(failure, PortTaken) and not request.host_port):  # another number may do
                        raise
        except BaseException:
            for hold in taken:
                if hold.held is not None:
                    hold.held.close()
            raise
        for hold in taken:
            self._add(hold)
        return [hold.port for hold in taken]

    def _hold(self, address: Address, port: PublishedPort, holder: str) -> Hold:
        other = self._conflict(address, port)
        if other is not None:
            raise PortTaken(port.host_ip, port.host_port, port.protocol, holder=other.holder)
        try:
            return Hold(port, holder, _bind(port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise BadPort(
                    f"failed to bind host port {port.host_ip}:{port.host_port}/{port.protocol}: {error.strerror}"
                ) from error
            raise PortTaken(port.host_ip, port.host_port, port.protocol, ours=False) from error

    def _conflict(self, address: Address, port: PublishedPort) -> Hold | None:
        for hold in self._holds.get((port.protocol, port.host_port), []):
            other = parse_address(hold.port.host_ip)
            if other.version == address.version and (
                other == address or other.is_unspecified or address.is_unspecified
            ):
                return hold
        return None


def _may_be_relayed(port: PublishedPort) -> bool:
    return port.protocol in RELAYED and ":" in port.host_ip


def _addresses(host_ip: str, versions: Collection[int]) -> list[Address]:
    everywhere = (ipaddress.IPv4Address("0.0.0.0"), ipaddress.IPv6Address("::"))
    wanted = (parse_address(host_ip),) if host_ip else everywhere
    return [address for address in wanted if address.version in versions]


def _bind(port: PublishedPort) -> socket.socket | None:
    """Bind a socket that only holds the port; None if the kernel doesn't know the protocol. Raises OSError."""
    family = socket.AF_INET6 if ":" in port.host_ip else socket.AF_INET
    kind, protocol = _KINDS[port.protocol]
    try:
        held = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
    except OSError as error:
        if error.errno in (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT, errno.EAFNOSUPPORT):
            return None
        raise
    try:
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_DGRAM:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        # Not SO_REUSEADDR: with it, a program that sets it too could take the port from a socket that doesn't listen.
        try:
            held.bind((port.host_ip, port.host_port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or port.protocol != "tcp":
                raise
            _bind_over_remains(held, port)
    except BaseException:
        held.close()
        raise
    return held


def _bind_over_remains(held: socket.socket, port: PublishedPort) -> None:
    """Bind although connections of a server that has gone still wait on the port (TIME_WAIT); a live one refuses."""
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((port.host_ip, port.host_port))
    held.listen(0)  # fails while anybody listens there
    held.shutdown(socket.SHUT_RDWR)  # stops listening, keeps the port


def forget_flows_before(endpoint: Endpoint) -> None:
    """Have UDP clients of ports that were just published reach the container, though they knew the machine. Blocks."""
    for port in endpoint.ports:
        if port.protocol == "udp":
            _forget(lambda port=port: forget_sent_to(port.host_port, parse_address(port.host_ip).version))  # type: ignore[misc]  # a default


def forget_flows_to(endpoint: Endpoint) -> None:
    """Have UDP clients of ports that were just released find whoever gets them next. Blocks."""
    if any(port.protocol == "udp" for port in endpoint.ports):
        for text in filter(None, (endpoint.ip, endpoint.ipv6)):
            _forget(lambda text=text: forget_answered_by(parse_address(text)))  # type: ignore[misc]  # a default


def _forget(job: Callable[[], int]) -> None:
    try:
        job()
    except OSError as error:
        _log.warning("cannot forget UDP flows: %s", error)


def find_process(protocol: str, port: int) -> str:
    """Name a program of the machine that holds a port (`nginx, pid 12`), or return "" if that can't be told.

    Reads /proc for every process: for error messages, in a thread.
    """
    if protocol not in _LISTENING:
        return ""
    inodes = {f"socket:[{inode}]" for inode in _inodes(protocol, port)}
    if not inodes:
        return ""
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            if any(os.readlink(fd) in inodes for fd in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()}, pid {process.name}"
        except OSError:
            continue  # it ended meanwhile
    return ""


def _inodes(protocol: str, port: int) -> Iterator[str]:
    for suffix in ("", "6"):
        try:
            lines = Path(f"/proc/net/{protocol}{suffix}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if int(fields[1].rsplit(":", 1)[1], 16) == port and fields[3] in (_LISTENING[protocol], "07"):
                yield fields[9]
