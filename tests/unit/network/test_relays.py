"""Relays between IPv6 and IPv4 on loopback: what is carried, what breaks off, and which ports get one."""

import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from scow.network.model import Port
from scow.network.ports import PortTable, PortTaken
from scow.network.relays import Relays, has_ipv6

pytestmark = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")

TIMEOUT_S = 60.0


@pytest.fixture
def relays() -> Iterator[Relays]:
    made = Relays()
    yield made
    made.close()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(TIMEOUT_S)
        yield listening


@contextlib.contextmanager
def entrance(relays: Relays, target: tuple[str, int]) -> Iterator[int]:
    """A port at ::1 that leads to `target`."""
    with socket.socket(socket.AF_INET6) as bound:
        bound.bind(("::1", 0))
        relays.listen(bound, target)
        yield int(bound.getsockname()[1])
        relays.forget(bound)


def connected(port: int) -> socket.socket:
    return socket.create_connection(("::1", port), timeout=TIMEOUT_S)


def everything(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def test_a_connection_is_carried_both_ways_and_ends_one_way_after_the_other(
    relays: Relays, server: socket.socket
) -> None:
    with entrance(relays, server.getsockname()) as port, connected(port) as client:
        inside, _ = server.accept()
        with inside:
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
            assert everything(inside) == b"question"
            inside.sendall(b"answer")
            inside.close()
            assert everything(client) == b"answer"


def test_much_is_carried_whole_to_who_reads_slowly(relays: Relays, server: socket.socket) -> None:
    data = hashlib.shake_128(b"seed").digest(20_000_000)
    with entrance(relays, server.getsockname()) as port, connected(port) as client:
        inside, _ = server.accept()
        with inside:
            inside.settimeout(TIMEOUT_S)
            threads = [threading.Thread(target=each.sendall, args=(data,)) for each in (client, inside)]
            for thread in threads:
                thread.start()
            for reader in (client, inside):
                found = b""
                while len(found) < len(data):
                    found += reader.recv(1 << 20)
                assert found == data
            for thread in threads:
                thread.join()


def test_who_finds_nobody_inside_is_told_so(relays: Relays, server: socket.socket) -> None:
    target = server.getsockname()
    server.close()
    with entrance(relays, target) as port, pytest.raises(ConnectionResetError), connected(port) as client:
        client.recv(1)


def test_what_breaks_off_inside_breaks_off_outside(relays: Relays, server: socket.socket) -> None:
    with entrance(relays, server.getsockname()) as port, connected(port) as client:
        inside, _ = server.accept()
        inside.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        inside.close()
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_port_that_is_given_back_takes_its_connections_along(relays: Relays, server: socket.socket) -> None:
    with entrance(relays, server.getsockname()) as port:
        client = connected(port)
        inside, _ = server.accept()
    with client, inside:
        for each in (client, inside):
            with pytest.raises(ConnectionResetError):
                each.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connected(port)


@pytest.fixture
def echoing() -> Iterator[tuple[str, int]]:
    """Something that answers each datagram with where it came from."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inside:
        inside.bind(("127.0.0.1", 0))

        def answer() -> None:
            while (received := inside.recvfrom(1 << 16))[0] != b"end":
                inside.sendto(b"%d %s" % (received[1][1], received[0]), received[1])

        thread = threading.Thread(target=answer)
        thread.start()
        address: tuple[str, int] = inside.getsockname()
        yield address
        inside.sendto(b"end", address)
        thread.join(TIMEOUT_S)


@contextlib.contextmanager
def datagram_entrance(relays: Relays, target: tuple[str, int]) -> Iterator[int]:
    """A UDP port at all IPv6 addresses that leads to `target`."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # as ports are held
        bound.bind(("::", 0))
        relays.listen(bound, target)
        yield int(bound.getsockname()[1])
        relays.forget(bound)


@contextlib.contextmanager
def speaker(port: int) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.settimeout(TIMEOUT_S)
        client.connect(("::1", port))  # answers from elsewhere don't count
        yield client


def ask(client: socket.socket, question: bytes) -> tuple[bytes, bytes]:
    client.send(question)
    number, _, said = client.recv(1 << 16).partition(b" ")
    return number, said


def test_datagrams_are_carried_and_each_client_is_somebody_of_its_own(relays: Relays, echoing: tuple[str, int]) -> None:
    with datagram_entrance(relays, echoing) as port, speaker(port) as one, speaker(port) as other:
        first, said = ask(one, b"hello")
        assert said == b"hello"
        second, said = ask(other, b"x" * 20_000)
        assert said == b"x" * 20_000
        assert first != second
        assert ask(one, b"again") == (first, b"again")
        assert len(relays._flows) == 2
    assert not relays._flows


def test_a_client_that_is_silent_for_a_while_is_forgotten(
    relays: Relays, echoing: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with datagram_entrance(relays, echoing) as port, speaker(port) as one, speaker(port) as other:
        ask(one, b"hello")
        (flow,) = relays._flows.values()
        monkeypatch.setattr("scow.network.relays.FLOW_IDLE_S", -1.0)
        other.send(b"hello")  # whatever comes next finds that the time is over
        end = time.monotonic() + TIMEOUT_S
        while flow.socket.fileno() >= 0:
            assert time.monotonic() < end
            time.sleep(0.005)
        monkeypatch.undo()
        assert ask(one, b"again")[1] == b"again"


def test_no_more_clients_are_remembered_than_may_be(
    relays: Relays, echoing: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scow.network.relays.MOST_FLOWS", 2)
    with datagram_entrance(relays, echoing) as port, contextlib.ExitStack() as stack:
        for _ in range(5):
            ask(stack.enter_context(speaker(port)), b"hello")
        assert len(relays._flows) == 2


def test_a_port_at_which_nobody_listens_inside_goes_on(relays: Relays, echoing: tuple[str, int]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind(("127.0.0.1", 0))
        target = nobody.getsockname()
    with datagram_entrance(relays, target) as deaf, datagram_entrance(relays, echoing) as port:
        with speaker(deaf) as client:
            for _ in range(3):
                client.send(b"anybody?")
        with speaker(port) as client:
            assert ask(client, b"hello")[1] == b"hello"


def test_ports_of_containers_without_ipv6_are_published_there_too_if_there_are_relays(relays: Relays) -> None:
    table, plain = PortTable(relays), PortTable()
    wanted = [Port(80), Port(81, "udp"), Port(82, host_ip="127.0.0.1"), Port(83, host_ip="::1")]
    published = table.reserve(wanted, "one", (4,))
    assert [(port.container_port, port.host_ip) for port in published] == [
        (80, "0.0.0.0"),
        (80, "::"),
        (81, "0.0.0.0"),
        (81, "::"),
        (82, "127.0.0.1"),
        (83, "::1"),
    ]
    assert len({port.host_port for port in published if port.container_port == 80}) == 1
    assert [port.host_ip for port in plain.reserve(wanted, "two", (4,))] == ["0.0.0.0", "0.0.0.0", "127.0.0.1"]
    table.close()
    plain.close()


def test_a_relayed_port_leads_to_its_container_until_it_is_released(relays: Relays, server: socket.socket) -> None:
    table = PortTable(relays)
    ip, inside_port = server.getsockname()
    port = next(each for each in table.reserve([Port(inside_port)], "one", (4,)) if each.host_ip == "::")
    table.relay("one", ip)
    with connected(port.host_port):
        server.accept()[0].close()
    table.release("one")
    with pytest.raises(ConnectionRefusedError):
        connected(port.host_port)
    again = table.reserve([Port(inside_port, host_port=port.host_port)], "two", (4,))
    assert [each.host_ip for each in again] == ["0.0.0.0", "::"]
    table.close()


def test_who_has_the_port_at_ipv6_alone_keeps_it(relays: Relays) -> None:
    table = PortTable(relays)
    with socket.socket(socket.AF_INET6) as other:
        other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        other.bind(("::1", 0))
        other.listen()
        number = other.getsockname()[1]
        assert [each.host_ip for each in table.reserve([Port(80, host_port=number)], "one", (4,))] == ["0.0.0.0"]
        with pytest.raises(PortTaken):
            table.reserve([Port(80, host_ip="::1", host_port=number)], "two", (4,))
    table.close()
