"""What comes by IPv6 where the firewall can't lead it on, TCP and UDP, carried to its containers by the engine.

Address translation keeps the IP version, and the kernel lets nothing leave loopback under ::1. So what is published at
an IPv6 address, of a container without one too, also listens there: connections and datagrams that get as far as that
listener, and none of the others, are carried from here. With the engine's end connections break, as with docker's
userland proxy; its next start listens again at once.

A connection has two ends. What is read at one is written to the other; where that can't take it at once, nothing more
is read until it has, so no more than one piece a direction is ever kept. Datagrams have flows instead: each client is
somebody of its own to the container, and gets its answers from the address that it has written to, until it has been
silent for a while.
"""

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final

_PIECE: Final = 1 << 18
_BATCH: Final = 16  # events that are dealt with while the lock is held: what waits for it waits a moment only
_BACKLOG: Final = 128
_PATIENCE_S: Final = 0.1  # before connections are taken again when files have run out
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: what closes is told as broken off, not as ended
FLOW_IDLE_S: Final = 90.0  # as docker's userland proxy
MOST_FLOWS: Final = 1024  # of a port: each is a socket
_DATAGRAMS: Final = 64  # read at once
_DATAGRAM: Final = 1 << 16
_RECEIVED: Final = 212_992  # bytes that wait to be carried: the kernel's default
_READ: Final = select.EPOLLIN | select.EPOLLHUP


def has_ipv6() -> bool:
    """Whether this machine has an IPv6 address, if only that of loopback."""
    try:
        return bool(Path("/proc/net/if_inet6").read_text())
    except OSError:
        return False


class _Listener:
    """A port that listens; `target` is the container's address and port."""

    def __init__(self, listening: socket.socket, target: tuple[str, int]) -> None:
        self.socket = listening
        self.target = target
        self.ends: set[_End] = set()


class _End:
    """One side of a connection: `unsent` waits to be written to it, `ended` is whether all was read from it."""

    def __init__(self, listener: _Listener, connection: socket.socket) -> None:
        self.listener = listener
        self.socket = connection
        self.other: _End = self
        self.unsent = memoryview(b"")
        self.ended = False
        self.connecting = False
        self.events = 0  # that epoll watches for; 0 if it isn't registered

    def wanted(self) -> int:
        """What to watch for now."""
        if self.connecting:
            return select.EPOLLOUT
        reads = not self.ended and not self.other.unsent and not self.other.connecting
        return (select.EPOLLIN if reads else 0) | (select.EPOLLOUT if self.unsent else 0)


class _Port:
    """A UDP port; its flows by client and the address that was written to, the least recently used first."""

    def __init__(self, bound: socket.socket, target: tuple[str, int]) -> None:
        self.socket = bound
        self.target = target
        self.flows: OrderedDict[tuple[object, bytes], _Flow] = OrderedDict()


class _Flow:
    """A client of a UDP port: `socket` is what the container sees of it."""

    def __init__(self, port: _Port, client: tuple[Any, ...], here: bytes) -> None:
        self.port = port
        self.client = client
        self.here = here  # in6_pktinfo: the address of ours, and the link
        family = socket.AF_INET6 if ":" in port.target[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.used_at = time.monotonic()
        try:
            self.socket.connect(port.target)
        except OSError:
            self.socket.close()
            raise

    @property
    def key(self) -> tuple[object, bytes]:
        return self.client, self.here


class Relays:
    """Carries connections in one thread of its own, which begins with the first listener. Calls don't wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # over all of the following
        self._epoll: select.epoll | None = None
        self._wake = -1
        self._thread: threading.Thread | None = None
        self._listeners: dict[int, _Listener] = {}
        self._ends: dict[int, _End] = {}
        self._ports: dict[int, _Port] = {}
        self._flows: dict[int, _Flow] = {}

    def listen(self, bound: socket.socket, target: tuple[str, int]) -> None:
        """Carry what comes to a bound socket, of TCP or UDP, to `target`, an address and a port, until `forget`.

        Raises OSError.
        """
        bound.setblocking(False)
        if bound.type == socket.SOCK_DGRAM:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVED)
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            with self._lock:
                self._ports[bound.fileno()] = _Port(bound, target)
                self._begun().register(bound.fileno(), select.EPOLLIN)
            return
        # Connections inherit it: what remains of them (TIME_WAIT) keeps nobody from the port afterwards.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.listen(_BACKLOG)
        with self._lock:
            self._listeners[bound.fileno()] = _Listener(bound, target)
            self._begun().register(bound.fileno(), select.EPOLLIN)

    def forget(self, bound: socket.socket) -> None:
        """Take nothing more at a socket, which is the caller's to close, and break off what is carried. Any other is
        fine."""
        with self._lock:
            port = self._ports.get(bound.fileno())
            if port is not None and port.socket is bound:
                del self._ports[bound.fileno()]
                self._begun().unregister(bound.fileno())
                for flow in tuple(port.flows.values()):
                    self._end_flow(flow)
                return
            listener = self._listeners.get(bound.fileno())
            if listener is None or listener.socket is not bound:
                return
            del self._listeners[bound.fileno()]
            self._begun().unregister(bound.fileno())
            for end in tuple(listener.ends):
                self._break(end)

    def close(self) -> None:
        """Forget all sockets, and end the thread. Idempotent."""
        listening: list[_Listener | _Port] = [*self._listeners.values(), *self._ports.values()]
        for each in listening:
            self.forget(each.socket)
        if self._thread is not None:
            os.eventfd_write(self._wake, 1)
            self._thread.join()
            self._thread = None

    # the thread

    def _begun(self) -> select.epoll:
        if self._epoll is None:
            self._begin()
        assert self._epoll is not None
        return self._epoll

    def _begin(self) -> None:
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, args=(self._epoll,), name="relays", daemon=True)
        self._thread.start()

    def _run(self, epoll: select.epoll) -> None:
        pause = threading.Event()  # never set
        while True:
            events = epoll.poll(FLOW_IDLE_S if self._flows else None, _BATCH)
            with self._lock:
                self._end_idle_flows()
                if any(fd == self._wake for fd, _ in events):
                    break
                scarce = not all([self._deal_with(fd, found) for fd, found in events])
            if scarce:
                pause.wait(_PATIENCE_S)
        epoll.close()
        os.close(self._wake)

    def _deal_with(self, fd: int, events: int) -> bool:
        """Act on what epoll tells of a descriptor; False if there were no files left for a connection."""
        end = self._ends.get(fd)
        if end is not None:
            try:
                self._carry(end, events)
            except OSError:
                self._break(end)
            return True
        if (port := self._ports.get(fd)) is not None:
            self._carry_in(port)
            return True
        if (flow := self._flows.get(fd)) is not None:
            self._carry_out(flow)
            return True
        listener = self._listeners.get(fd)
        return listener is None or self._accept(listener)

    def _accept(self, listener: _Listener) -> bool:
        try:
            taken, _ = listener.socket.accept()
        except OSError as error:  # the client has gone, or files have run out
            return isinstance(error, BlockingIOError | ConnectionError)
        client = _End(listener, taken)
        try:
            family = socket.AF_INET6 if ":" in listener.target[0] else socket.AF_INET
            container = _End(listener, socket.socket(family, socket.SOCK_STREAM))
        except OSError:
            taken.close()
            return False
        client.other, container.other = container, client
        container.connecting = True
        for end in (client, container):
            end.socket.setblocking(False)
            end.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            listener.ends.add(end)
            self._ends[end.socket.fileno()] = end
        try:
            with contextlib.suppress(BlockingIOError):
                container.socket.connect(listener.target)
            self._watch(client, container)
        except OSError:
            self._break(client)
        return True

    def _carry(self, end: _End, events: int) -> None:
        """Do what `end` is ready for. Raises OSError if either side is broken."""
        error = end.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if events & select.EPOLLERR else 0
        if error:
            raise OSError(error, os.strerror(error))
        other = end.other
        if end.connecting:
            end.connecting = False
        elif events & select.EPOLLOUT and end.unsent:
            self._send(end)
        if events & _READ and end.wanted() & select.EPOLLIN:
            piece = end.socket.recv(_PIECE)
            other.unsent = memoryview(piece)
            end.ended = not piece
            self._send(other)
        if end.ended and other.ended and not end.unsent and not other.unsent:
            self._drop(end)
        else:
            self._watch(end, other)

    def _send(self, end: _End) -> None:
        """Write what waits, and the end of it if the other side has ended."""
        if end.unsent:
            with contextlib.suppress(BlockingIOError):
                end.unsent = end.unsent[end.socket.send(end.unsent) :]
        if not end.unsent and end.other.ended:
            end.socket.shutdown(socket.SHUT_WR)

    def _watch(self, *ends: _End) -> None:
        """Have epoll watch for what the ends wait for. One that waits for nothing would tell of its end for ever."""
        assert self._epoll is not None
        for end in ends:
            wanted, fd = end.wanted(), end.socket.fileno()
            if wanted and not end.events:
                self._epoll.register(fd, wanted)
            elif end.events and not wanted:
                self._epoll.unregister(fd)
            elif wanted != end.events:
                self._epoll.modify(fd, wanted)
            end.events = wanted

    # datagrams, which may be lost whenever one can't be carried at once

    def _carry_in(self, port: _Port) -> None:
        for _ in range(_DATAGRAMS):
            try:
                data, found, _, client = port.socket.recvmsg(_DATAGRAM, socket.CMSG_SPACE(32))
            except OSError:  # that's all, or an answer of ours could not be delivered
                return
            here = next((value for _, kind, value in found if kind == socket.IPV6_PKTINFO), b"")
            with contextlib.suppress(OSError):  # nobody listens inside, or files have run out
                self._flow(port, client, here).socket.send(data)

    def _carry_out(self, flow: _Flow) -> None:
        for _ in range(_DATAGRAMS):
            try:
                data = flow.socket.recv(_DATAGRAM)
            except OSError:
                return
            self._used(flow)
            told = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, flow.here)] if flow.here else []
            with contextlib.suppress(OSError):
                flow.port.socket.sendmsg([data], told, 0, flow.client)

    def _flow(self, port: _Port, client: tuple[Any, ...], here: bytes) -> _Flow:
        flow = port.flows.get((client, here))
        if flow is None:
            if len(port.flows) >= MOST_FLOWS:
                self._end_flow(next(iter(port.flows.values())))
            flow = _Flow(port, client, here)
            port.flows[flow.key] = self._flows[flow.socket.fileno()] = flow
            self._begun().register(flow.socket.fileno(), select.EPOLLIN)
        self._used(flow)
        return flow

    def _used(self, flow: _Flow) -> None:
        flow.used_at = time.monotonic()
        flow.port.flows.move_to_end(flow.key)

    def _end_idle_flows(self) -> None:
        before = time.monotonic() - FLOW_IDLE_S
        for port in self._ports.values():
            while port.flows and (flow := next(iter(port.flows.values()))).used_at <= before:
                self._end_flow(flow)

    def _end_flow(self, flow: _Flow) -> None:
        del self._flows[flow.socket.fileno()]
        del flow.port.flows[flow.key]
        flow.socket.close()

    def _break(self, end: _End) -> None:
        """Close both sides so that each sees that the connection was broken off."""
        for each in (end, end.other):
            with contextlib.suppress(OSError):
                each.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._drop(end)

    def _drop(self, end: _End) -> None:
        for each in (end, end.other):
            self._ends.pop(each.socket.fileno(), None)
            each.listener.ends.discard(each)
            each.socket.close()  # which ends the watching, too
