"""Who is told what: names within shared networks, everything else from the servers of whoever asks."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import cast

import pytest

from scow.network.dns import forwarding, message
from scow.network.dns.answering import Answering
from scow.network.dns.forwarding import Forwarder, Upstream
from scow.network.dns.names import Names
from scow.network.dns.server import Server, bind
from scow.network.model import Endpoint, Network, Pool

NETWORKS = {
    name: Network(
        id=name,
        name=f"net{name}",
        driver="bridge",
        created=datetime.now(UTC),
        bridge=f"br{name}",
        internal=name == "i",
        pools=(Pool(subnet="127.0.0.0/8", gateway="127.0.0.1"),),
    )
    for name in "abi"
}


class World:
    def __init__(self) -> None:
        self.names = Names()
        self.endpoints: list[Endpoint] = []
        self.forwarder = Forwarder()
        self.answering = Answering(
            self.names,
            lambda container: [each for each in self.endpoints if each.container_id == container],
            NETWORKS.get,
            self.forwarder,
        )

    def join(self, container: str, network: str, ip: str, *names: str, ipv6: str = "", **more: object) -> Endpoint:
        endpoint = Endpoint(
            id=f"{container}{network}",
            network_id=network,
            network_name=NETWORKS[network].name,
            container_id=container,
            ip=ip,
            ipv6=ipv6,
            names=(container, *names),
            **more,  # type: ignore[arg-type]  # shorthand
        )
        self.endpoints.append(endpoint)
        self.names.put(endpoint)
        return endpoint

    def ask(self, container: str, name: str, kind: int = message.A) -> tuple[int, list[bytes]] | None:
        reply = self.answering.at_once(container, message.parse_query(ask_for(name, kind)))
        return None if reply is None else read(reply)


def ask_for(name: str, kind: int = message.A) -> bytes:
    return struct.pack(">HHHHHH", 77, 0x0100, 1, 0, 0, 0) + message.pack_name(name) + struct.pack(">HH", kind, 1)


def read(reply: bytes) -> tuple[int, list[bytes]]:
    """The code, and the data of the records of an answer of ours."""
    count, offset, found = int.from_bytes(reply[6:8], "big"), 12, []
    while reply[offset]:
        offset += reply[offset] + 1
    offset += 5
    for _ in range(count):
        length = int.from_bytes(reply[offset + 10 : offset + 12], "big")
        found.append(reply[offset + 12 : offset + 12 + length])
        offset += 12 + length
    return message.code_of(reply), found


@pytest.fixture
def world() -> World:
    world = World()
    world.join("web", "a", "10.0.1.2", "alias", "abcdef012345")
    world.join("db", "a", "10.0.1.3", ipv6="fd00::3")
    world.join("db", "b", "10.0.2.3")
    world.join("far", "b", "10.0.2.4")
    return world


def test_names_aliases_and_short_ids_are_known_in_any_case(world: World) -> None:
    for name in ("web", "WEB", "alias", "abcdef012345", "web.neta", "alias.NETA"):
        assert world.ask("db", name) == (0, [bytes([10, 0, 1, 2])])


def test_names_are_known_within_shared_networks_only(world: World) -> None:
    assert world.ask("web", "far") is None  # perhaps another server knows it
    assert world.ask("web", "far.netb") is None
    assert world.ask("db", "far") == (0, [bytes([10, 0, 2, 4])])  # db asks, which is on both
    assert world.ask("db", "db.netb") == (0, [bytes([10, 0, 2, 3])])


def test_strangers_are_told_nothing(world: World) -> None:
    assert world.ask("stranger", "web") == (message.SERVER_FAILURE, [])
    assert world.ask("stranger", "example.com") == (message.SERVER_FAILURE, [])


def test_a_name_without_an_address_of_the_kind_exists_all_the_same(world: World) -> None:
    assert world.ask("db", "web", message.AAAA) == (0, [])
    assert world.ask("db", "web", 15) == (0, [])
    assert world.ask("web", "db", message.AAAA) == (0, [bytes.fromhex("fd00" + "0" * 27 + "3")])
    answer = world.ask("web", "db", message.ANY)
    assert answer is not None
    assert len(answer[1]) == 2


def test_containers_with_one_name_take_turns(world: World) -> None:
    for number in range(10, 14):
        world.join(f"worker_{number}", "a", f"10.0.1.{number}", "worker")
    answers = [world.ask("web", "worker") for _ in range(60)]
    assert {tuple(sorted(found)) for _, found in filter(None, answers)} == {
        tuple(bytes([10, 0, 1, number]) for number in range(10, 14))
    }
    assert {found[0][3] for _, found in filter(None, answers)} == set(range(10, 14))


def test_addresses_are_known_by_name(world: World) -> None:
    answer = world.ask("web", "3.1.0.10.in-addr.arpa", message.PTR)
    assert answer == (0, [message.pack_name("db.neta")])
    assert world.ask("web", "4.2.0.10.in-addr.arpa", message.PTR) is None


def test_a_name_that_dns_cannot_tell_is_not_told(world: World) -> None:
    world.join("x" * 64, "a", "10.0.1.40")
    assert world.ask("web", "40.1.0.10.in-addr.arpa", message.PTR) is None


def test_links_are_names_of_one_container_only(world: World) -> None:
    world.join("linked", "a", "10.0.1.20", links=(("database", "db"),))
    assert world.ask("linked", "database") == (0, [bytes([10, 0, 1, 3])])
    assert world.ask("web", "database") is None


def test_an_internal_network_is_no_way_out_for_questions(world: World) -> None:
    world.join("inner", "i", "10.0.3.2")
    assert world.ask("inner", "inner") == (0, [bytes([10, 0, 3, 2])])
    assert world.ask("inner", "example.com") == (message.SERVER_FAILURE, [])
    world.join("inner", "a", "10.0.1.30")
    assert world.ask("inner", "example.com") is None


def test_who_left_is_forgotten(world: World) -> None:
    for endpoint in list(world.endpoints):
        world.names.drop(endpoint)
        world.names.drop(endpoint)
    assert (world.names._by_name, world.names._by_address, world.names._entries) == ({}, {}, {})


def test_a_renamed_container_has_its_new_name_only(world: World) -> None:
    old = next(each for each in world.endpoints if each.container_id == "far")
    world.names.drop(old)
    world.join("new", "b", "10.0.2.4")
    assert world.ask("db", "far") is None
    assert world.ask("db", "new") == (0, [bytes([10, 0, 2, 4])])


# --- over sockets


class Elsewhere(asyncio.DatagramProtocol):
    """A server that answers every question by UDP and TCP with what `reply` makes of it; b"" means silence."""

    def __init__(self, reply: Callable[[bytes], bytes]) -> None:
        self.reply = reply
        self.asked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.asked += 1
        if answer := self.reply(data):
            self.transport.sendto(answer, addr)

    async def stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = int.from_bytes(await reader.readexactly(2), "big")
        answer = self.reply(await reader.readexactly(length))
        writer.write(len(answer).to_bytes(2, "big") + answer)
        writer.close()


def external(data: bytes) -> bytes:
    return message.answer(message.parse_query(data), [(message.A, bytes([192, 0, 2, 1]))])


@pytest.fixture
async def upstreams() -> AsyncIterator[Callable[..., object]]:
    """Makes upstreams on loopback addresses, all on one port, which is the first one's."""
    made: list[object] = []
    port = 0

    async def make(address: str, reply: Callable[[bytes], bytes]) -> tuple[Elsewhere, int]:
        nonlocal port
        loop = asyncio.get_running_loop()
        transport, upstream = await loop.create_datagram_endpoint(lambda: Elsewhere(reply), local_addr=(address, port))
        port = transport.get_extra_info("sockname")[1]
        made.extend([transport, await asyncio.start_server(upstream.stream, address, port)])
        return upstream, port

    yield make
    for each in made:
        each.close()  # type: ignore[attr-defined]  # transports and servers


async def ask(port: int, data: bytes, client: str = "127.0.1.2") -> bytes:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[bytes] = loop.create_future()

    class Client(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: object) -> None:
            future.set_result(data)

    transport, _ = await loop.create_datagram_endpoint(Client, local_addr=(client, 0), remote_addr=("127.0.0.1", port))
    try:
        transport.sendto(data)
        async with asyncio.timeout(60):
            return await future
    finally:
        transport.close()


async def here(family: int, kind: int) -> socket.socket:
    return socket.socket(family, kind | socket.SOCK_NONBLOCK)


@pytest.fixture
async def served() -> AsyncIterator[tuple[World, int]]:
    """Names, and the port of web's server for them."""
    world = World()
    world.join("web", "a", "127.0.1.2")
    world.join("db", "a", "127.0.1.3")
    server = Server("web", world.answering, here)
    pair = bind(0, "127.0.0.1")
    port = pair[0].getsockname()[1]
    await server.listen(*pair)
    yield world, port
    await server.aclose()


async def test_what_no_network_knows_is_asked_elsewhere(
    served: tuple[World, int], upstreams: Callable[..., object]
) -> None:
    world, port = served
    silent, there = await upstreams("127.0.5.1", lambda data: b"")  # type: ignore[misc]  # a fixture's function
    failing, _ = await upstreams("127.0.5.2", lambda data: message.answer(message.parse_query(data), code=2))  # type: ignore[misc]
    _, _ = await upstreams("127.0.5.3", external)  # type: ignore[misc]
    world.forwarder._port = there
    asked: list[str] = []
    world.answering.upstreams = lambda container: (
        asked.append(container) or list(map(Upstream, ("127.0.5.2", "127.0.5.3")))
    )  # type: ignore[func-returns-value]
    assert read(await ask(port, ask_for("db"))) == (0, [bytes([127, 0, 1, 3])])
    assert read(await ask(port, ask_for("example.com"))) == (0, [bytes([192, 0, 2, 1])])
    assert (asked, failing.asked, silent.asked) == (["web"], 1, 0)


async def test_a_silent_server_is_asked_last_from_then_on(
    served: tuple[World, int], upstreams: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scow.network.dns.forwarding._PATIENCE_S", 0.5)
    world, port = served
    silent, there = await upstreams("127.0.5.1", lambda data: b"")  # type: ignore[misc]
    await upstreams("127.0.5.3", external)  # type: ignore[misc]
    world.forwarder._port = there
    world.answering.upstreams = lambda container: [Upstream("127.0.5.1"), Upstream("127.0.5.3")]
    for _ in range(3):
        assert read(await ask(port, ask_for("example.com"))) == (0, [bytes([192, 0, 2, 1])])
    assert silent.asked == 1
    world.answering.upstreams = lambda container: [Upstream("127.0.5.1"), Upstream("127.0.5.9")]
    assert read(await ask(port, ask_for("example.com"))) == (message.SERVER_FAILURE, [])


async def test_answers_that_answer_something_else_are_not_passed_on(
    served: tuple[World, int], upstreams: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scow.network.dns.forwarding._PATIENCE_S", 0.1)
    world, port = served
    _, there = await upstreams("127.0.5.1", lambda data: external(ask_for("evil.com")))  # type: ignore[misc]
    world.forwarder._port = there
    world.answering.upstreams = lambda container: [Upstream("127.0.5.1")]
    assert read(await ask(port, ask_for("example.com"))) == (message.SERVER_FAILURE, [])


async def test_questions_by_tcp_go_on_by_tcp_and_long_answers_are_cut_by_udp(
    served: tuple[World, int], upstreams: Callable[..., object]
) -> None:
    world, port = served
    records = [(message.A, bytes([192, 0, 2, n])) for n in range(100)]
    _, there = await upstreams("127.0.5.1", lambda data: message.answer(message.parse_query(data), records))  # type: ignore[misc]
    world.forwarder._port = there
    world.answering.upstreams = lambda container: [Upstream("127.0.5.1")]
    short = await ask(port, ask_for("example.com"))
    assert (short[2] & 2, read(short)) == (2, (0, []))
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.1.2", 0))
    for name, count in (("example.com", 100), ("db", 1)):
        data = ask_for(name)
        writer.write(len(data).to_bytes(2, "big") + data)
        reply = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        assert len(read(reply)[1]) == count
    writer.close()


async def test_hostile_packets_leave_the_server_answering(served: tuple[World, int]) -> None:
    _, port = served
    good = ask_for("db")
    with socket.socket(type=socket.SOCK_DGRAM) as hostile:
        hostile.bind(("127.0.1.2", 0))
        hostile.connect(("127.0.0.1", port))
        for cut in range(len(good)):
            hostile.send(good[:cut])
            hostile.send(good[:cut] + b"\xff" * (len(good) - cut))
        hostile.send(b"\xff" * 4000)
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.1.2", 0))
    writer.write(b"\xff\xff" + b"\xff" * 65535)
    assert await reader.read() == b""
    writer.close()
    assert read(await ask(port, good)) == (0, [bytes([127, 0, 1, 3])])


def test_a_port_is_kept_if_it_is_free() -> None:
    first = bind(0, "127.0.0.1")
    port = first[0].getsockname()[1]
    second = bind(port, "127.0.0.1")
    assert second[0].getsockname()[1] != port
    for each in (*first, *second):
        each.close()
    again = bind(port, "127.0.0.1")
    assert again[1].getsockname()[1] == port
    for each in again:
        each.close()


async def test_one_clients_unanswered_questions_hold_up_nobody_else(
    upstreams: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "_MAX_PENDING", 6)
    monkeypatch.setattr(forwarding, "_MAX_PENDING_EACH", 4)
    _, port = await upstreams("127.0.5.1", lambda data: b"")  # type: ignore[misc]
    await upstreams("127.0.5.2", external)  # type: ignore[misc]
    forwarder = Forwarder(port)
    data = ask_for("example.com")

    async def asked(client: str, server: str) -> int:
        reply = await forwarder.ask(message.parse_query(data), data, [Upstream(server)], client, here, tcp=False)
        return message.code_of(reply)

    flood = [asyncio.create_task(asked(client, "127.0.5.1")) for client in ("a", "b") for _ in range(6)]
    await asyncio.sleep(0)
    begun = asyncio.get_running_loop().time()
    assert await asked("c", "127.0.5.2") == message.NO_ERROR
    assert asyncio.get_running_loop().time() - begun < 1
    assert sum(map(len, forwarder._pending.values())) <= 6
    for each in flood:
        each.cancel()
    await asyncio.gather(*flood, return_exceptions=True)
    assert not forwarder._pending
