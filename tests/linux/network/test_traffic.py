"""Who reaches whom, with packets: containers, the machine, and a host outside."""

import asyncio
import socket
import struct
from functools import partial
from pathlib import Path

import pytest

from scow.network.model import Endpoint, EndpointRequest, NetworkRequest, Pool, Port
from scow.network.networks import Networks
from support.ports import free_port

from .conftest import Host, Rig, ask, in_sandbox, serving, unreachable


async def container(
    networks: Networks, name: str, network: str = "bridge", *, ports: tuple[Port, ...] = ()
) -> tuple[Path, Endpoint]:
    sandbox = await networks.sandbox(name, network)
    endpoint = await networks.connect(sandbox, network, EndpointRequest(container_name=name), ports)
    assert sandbox.path is not None
    return sandbox.path, endpoint


async def test_a_container_reaches_the_outside_under_the_machines_address(rig: Rig, outside: Host) -> None:
    networks = await rig.engine()
    path, endpoint = await container(networks, "c1")
    with outside_server(outside, 7000):
        assert in_sandbox(path, partial(ask, outside.address, 7000)) == outside.ours
    assert endpoint.ip == f"{rig.subnet}.2"
    assert endpoint.gateway == f"{rig.subnet}.1"


def outside_server(outside: Host, port: int):  # type: ignore[no-untyped-def]  # a context manager
    return serving(Path(f"/proc/self/fd/{outside.inside.fd}"), port)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
async def test_a_published_port_is_reached_from_everywhere(rig: Rig, outside: Host, kind: int) -> None:
    networks = await rig.engine()
    protocol = "tcp" if kind == socket.SOCK_STREAM else "udp"
    path, endpoint = await container(networks, "c1", ports=(Port(80, protocol),))
    other, _ = await container(networks, "c2")
    port = endpoint.ports[0].host_port
    with serving(path, 80, kind):
        if kind == socket.SOCK_STREAM:
            assert ask("::1", port) == endpoint.gateway
        assert ask("127.0.0.1", port, kind) == endpoint.gateway
        assert ask("127.9.9.9", port, kind) == endpoint.gateway
        assert ask(outside.ours, port, kind)
        assert outside.run(partial(ask, outside.ours, port, kind)) == outside.address, "the source is kept"
        assert in_sandbox(other, partial(ask, outside.ours, port, kind)), "hairpin to a neighbour"
        assert in_sandbox(path, partial(ask, outside.ours, port, kind)), "hairpin to itself"
        assert in_sandbox(other, partial(ask, endpoint.gateway, port, kind))


async def test_only_what_is_published_is_reached_from_outside(rig: Rig, outside: Host) -> None:
    networks = await rig.engine()
    path, endpoint = await container(networks, "c1", ports=(Port(80, host_ip="127.0.0.1"), Port(81)))
    by_port = {port.container_port: port.host_port for port in endpoint.ports}
    with serving(path, 80), serving(path, 81):
        assert ask(endpoint.ip, 80), "the machine itself reaches its containers"
        assert outside.run(partial(unreachable, endpoint.ip, 80)), "directly"
        assert outside.run(partial(unreachable, endpoint.ip, 81)), "directly, a port that is published"
        assert outside.run(partial(unreachable, outside.ours, by_port[80])), "published on loopback only"
        assert ask("127.0.0.1", by_port[80])
        assert outside.run(partial(ask, outside.ours, by_port[81])) == outside.address


async def test_containers_of_one_network_reach_each_other_and_those_of_others_do_not(rig: Rig) -> None:
    networks = await rig.engine()
    await networks.create(NetworkRequest(name="other", pools=(Pool(subnet="10.97.3.0/24", gateway=""),)))
    one, _ = await container(networks, "c1")
    two, second = await container(networks, "c2")
    three, third = await container(networks, "c3", "other", ports=(Port(80),))
    with serving(two, 80), serving(three, 80):
        assert in_sandbox(one, partial(ask, second.ip, 80))
        assert in_sandbox(one, partial(unreachable, third.ip, 80))
        assert in_sandbox(three, partial(unreachable, second.ip, 80))
        assert in_sandbox(one, partial(ask, second.gateway, third.ports[0].host_port)), "published is published"
    await networks.release("c3")
    await networks.remove("other")


async def test_an_internal_network_has_no_way_out(rig: Rig, outside: Host) -> None:
    networks = await rig.engine()
    request = NetworkRequest(name="inner", internal=True, pools=(Pool(subnet="10.97.4.0/24", gateway=""),))
    await networks.create(request)
    one, _ = await container(networks, "c1", "inner", ports=(Port(80),))
    two, second = await container(networks, "c2", "inner")
    assert second.gateway == ""
    with serving(two, 80), outside_server(outside, 7000):
        assert in_sandbox(one, partial(ask, second.ip, 80))
        assert in_sandbox(one, partial(unreachable, outside.address, 7000))
    await networks.release("c1")
    await networks.release("c2")
    await networks.remove("inner")


async def test_a_container_does_not_reach_the_machines_loopback(rig: Rig) -> None:
    networks = await rig.engine()
    path, endpoint = await container(networks, "c1")
    port = free_port("0.0.0.0")

    def try_loopback() -> bool:
        from scow.linux import sysctl

        sysctl.write("net/ipv4/conf/eth0/route_localnet", "1")
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, 25, b"eth0\0")  # SO_BINDTODEVICE: out by the bridge, not its own lo
            client.settimeout(0.4)
            return client.connect_ex(("127.0.0.1", port)) != 0

    with serving(None, port):
        assert in_sandbox(path, try_loopback)
        assert in_sandbox(path, partial(ask, endpoint.gateway, port)), "what listens on all addresses is reached"


async def test_ipv6_networks_carry_traffic_and_publish(rig: Rig) -> None:
    networks = await rig.engine()
    pools = (Pool(subnet="10.97.5.0/24", gateway=""), Pool(subnet="fd97:5::/64", gateway=""))
    await networks.create(NetworkRequest(name="six", enable_ipv6=True, pools=pools))
    one, first = await container(networks, "c1", "six", ports=(Port(80),))
    two, _ = await container(networks, "c2", "six")
    with serving(one, 80, ip="::"):
        assert first.ipv6 == "fd97:5::2"
        assert in_sandbox(two, partial(ask, first.ipv6, 80)) == "fd97:5::3"
        public = next(port for port in first.ports if port.host_ip == "::")
        assert ask("fd97:5::1", public.host_port)
        assert ask("::1", public.host_port) == "fd97:5::1", "the kernel carries nothing from there, a relay does"
    for name in ("c1", "c2"):
        await networks.release(name)
    await networks.remove("six")


async def test_ports_are_published_for_the_ip_versions_that_a_container_has(rig: Rig) -> None:
    networks = await rig.engine()
    pool = Pool(subnet="fd97:8::/64", gateway="")
    await networks.create(NetworkRequest(name="six", enable_ipv4=False, enable_ipv6=True, pools=(pool,)))
    wanted = (Port(80), Port(81, host_ip="127.0.0.1"), Port(82, host_ip="::1"))
    _, six = await container(networks, "c1", "six", ports=wanted)
    assert [(port.container_port, port.host_ip) for port in six.ports] == [(80, "::"), (82, "::1")]
    _, four = await container(networks, "c2", ports=wanted)
    addresses = [(80, "0.0.0.0"), (80, "::"), (81, "127.0.0.1"), (82, "::1")]
    assert [(port.container_port, port.host_ip) for port in four.ports] == addresses
    for name in ("c1", "c2"):
        await networks.release(name)
    await networks.remove("six")


async def test_a_second_network_can_come_and_go_while_the_container_runs(rig: Rig, outside: Host) -> None:
    networks = await rig.engine()
    await networks.create(NetworkRequest(name="other", pools=(Pool(subnet="10.97.6.0/24", gateway=""),)))
    sandbox = await networks.sandbox("c1")
    await networks.connect(sandbox, "bridge")
    second = await networks.connect(sandbox, "other", EndpointRequest(ipv4="10.97.6.77"))
    assert (second.interface, second.ip) == ("eth1", "10.97.6.77")
    assert sandbox.path is not None
    with serving(sandbox.path, 80):
        assert ask("10.97.6.77", 80)
    await networks.disconnect("c1", "bridge")
    with outside_server(outside, 7000):
        assert in_sandbox(sandbox.path, partial(ask, outside.address, 7000)), "the other network is the way out now"
    await networks.release("c1")
    await networks.remove("other")


async def test_a_udp_client_that_keeps_its_port_reaches_whoever_has_the_port_next(rig: Rig) -> None:
    networks = await rig.engine()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(60)
        number = free_port()
        for name in ("c1", "c2"):
            sandbox = await networks.sandbox(name)
            address = f"{rig.subnet}.{10 + int(name[1])}"
            published = [Port(53, "udp", "127.0.0.1", number)]
            endpoint = await networks.connect(sandbox, "bridge", EndpointRequest(ipv4=address), published)
            assert endpoint.ports[0].host_port == number
            server = in_sandbox(sandbox.path, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            server.bind(("0.0.0.0", 53))
            server.settimeout(60)
            client.sendto(name.encode(), ("127.0.0.1", number))
            assert await asyncio.to_thread(server.recv, 100) == name.encode()
            server.close()
            await networks.release(name)


async def test_sctp_is_led_to_the_container_and_back(rig: Rig, outside: Host) -> None:
    """By raw sockets: not every kernel has SCTP itself, but its connection tracking has."""
    networks = await rig.engine()
    path, endpoint = await container(networks, "c1", ports=(Port(7000, "sctp"),))
    port = endpoint.ports[0].host_port

    def new_socket() -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_SCTP)

    with in_sandbox(path, new_socket) as server, outside.run(new_socket) as client:
        server.settimeout(60)
        client.settimeout(60)
        client.sendto(sctp(9999, port, tag=0, chunk=bytes([1]) + INIT[1:]), (outside.ours, 0))
        packet, peer = await asyncio.to_thread(server.recvfrom, 1000)
        assert (ports_of(packet), peer[0]) == ((9999, 7000), outside.address)
        server.sendto(sctp(7000, 9999, tag=1, chunk=bytes([2]) + INIT[1:]), peer)
        packet, peer = await asyncio.to_thread(client.recvfrom, 1000)
        assert (ports_of(packet), peer[0]) == ((port, 9999), outside.ours)


INIT = struct.pack(">BBHIIHHI", 1, 0, 20, 1, 65536, 1, 1, 1)  # the first chunk; INIT ACK, type 2, looks the same


def ports_of(packet: bytes) -> tuple[int, ...]:
    return struct.unpack_from(">HH", packet, (packet[0] & 15) * 4)


def sctp(source: int, target: int, tag: int, chunk: bytes) -> bytes:
    """A packet with its checksum (RFC 9260, appendix A)."""
    head = struct.pack(">HHI", source, target, tag)
    crc = 0xFFFFFFFF
    for byte in head + bytes(4) + chunk:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return head + struct.pack("<I", crc ^ 0xFFFFFFFF) + chunk
