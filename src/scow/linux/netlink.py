"""Netlink messages: packing, sending in batches, reading answers and dumps.

A socket belongs to the network namespace in which it was made and stays there, so a socket opened inside a sandbox
configures that sandbox from any thread. Nothing here is asynchronous: a request may wait for the kernel's RTNL lock
for tens of milliseconds, so callers use threads. pyroute2 would do all of this, and costs 0.15 s of import.
"""

import os
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

NLM_F_REQUEST: Final = 0x1
NLM_F_ACK: Final = 0x4
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
NLM_F_REPLACE: Final = 0x100
NLM_F_DUMP: Final = 0x300

NETLINK_ROUTE: Final = 0
NETLINK_NETFILTER: Final = 12

_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_BATCH_BEGIN: Final = 16  # NFNL_MSG_BATCH_BEGIN
_BATCH_END: Final = 17
_NLM_F_CAPPED: Final = 0x100
_NLM_F_ACK_TLVS: Final = 0x200
_NLM_F_DUMP_INTR: Final = 0x10
_SOL_NETLINK: Final = 270
_NETLINK_CAP_ACK: Final = 10
_NETLINK_EXT_ACK: Final = 11
_NLMSGERR_ATTR_MSG: Final = 1
_NESTED: Final = 0x8000
_TYPE_MASK: Final = 0x3FFF

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")


class Message(NamedTuple):
    """One request: type, flags beyond REQUEST and ACK, and the body after the netlink header."""

    kind: int
    flags: int
    body: bytes


def attribute(kind: int, value: bytes) -> bytes:
    """Pack one attribute, padded to four bytes."""
    length = len(value) + 4
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    """Pack an attribute that holds others."""
    return attribute(kind | _NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    """Pack a string attribute, with its closing NUL."""
    return attribute(kind, value.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    """Pack a 32-bit attribute in host order."""
    return attribute(kind, struct.pack("=I", value))


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (type, value) of packed attributes; a malformed tail ends the walk."""
    offset = 0
    while offset + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            return
        yield kind & _TYPE_MASK, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


class Netlink:
    """A netlink socket; requests on it are serialised by a lock of its own."""

    def __init__(self, family: int = NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        try:
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
            self._socket.bind((0, 0))
        except OSError:
            self._socket.close()
            raise
        self._lock = threading.Lock()
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def request(self, messages: Sequence[Message]) -> None:
        """Send a batch in one system call and await every acknowledgement.

        The kernel goes through the whole batch even when one message fails; the first failure is raised as OSError
        with the kernel's own explanation, if it gave one.
        """
        for failure in self.attempt(messages):
            if failure is not None:
                raise failure

    def attempt(self, messages: Sequence[Message]) -> list[OSError | None]:
        """Like `request`, but return what became of each message."""
        if not messages:
            return []
        with self._lock:
            first = self._sequence + 1
            self._sequence += len(messages)
            self._socket.send(b"".join(_packed(message, NLM_F_ACK, n) for n, message in enumerate(messages, first)))
            return self._answers(first, len(messages))

    def transact(self, subsystem: int, messages: Sequence[Message]) -> None:
        """Send requests to a subsystem of netfilter as one transaction: all take effect, or none (nfnetlink.h).

        Raises OSError with the first failure.
        """
        frame = struct.pack(">BBH", 0, 0, subsystem)
        with self._lock:
            begin, first = self._sequence + 1, self._sequence + 2
            self._sequence += len(messages) + 2
            # Not every kernel acknowledges the two that enclose the others; one that can't begin answers the first.
            parts = [
                _packed(Message(_BATCH_BEGIN, 0, frame), 0, begin),
                *(_packed(message, NLM_F_ACK, number) for number, message in enumerate(messages, first)),
                _packed(Message(_BATCH_END, 0, frame), 0, self._sequence),
            ]
            self._socket.send(b"".join(parts))
            for failure in self._answers(first, len(messages), begin=begin):
                if failure is not None:
                    raise failure

    def _answers(self, first: int, count: int, *, begin: int = 0) -> list[OSError | None]:
        """Await the acknowledgement of `count` requests from number `first` on. Raises OSError for one to `begin`."""
        results: list[OSError | None] = [None] * count
        waiting = count
        while waiting:
            for kind, flags, number, payload in _split(self._socket.recv(65536)):
                if kind != _NLMSG_ERROR:
                    continue
                failure = _failure(flags, payload)
                if begin and number == begin and failure is not None:
                    raise failure
                if first <= number < first + count:
                    results[number - first] = failure
                    waiting -= 1
        return results

    def dump(self, message: Message) -> list[tuple[int, bytes]]:
        """Return (type, body) of every object that a dump request lists; repeats a dump that a change interrupted."""
        with self._lock:
            for _ in range(8):
                complete, found = self._dump_once(message)
                if complete:
                    break
            return found

    def _dump_once(self, message: Message) -> tuple[bool, list[tuple[int, bytes]]]:
        self._sequence += 1
        header = _HEADER.pack(16 + len(message.body), message.kind, NLM_F_REQUEST | NLM_F_DUMP, self._sequence, 0)
        self._socket.send(header + message.body)
        found: list[tuple[int, bytes]] = []
        complete = True
        while True:
            for kind, flags, number, payload in _split(self._socket.recv(1 << 18)):
                if number != self._sequence:
                    continue
                if flags & _NLM_F_DUMP_INTR:
                    complete = False
                if kind == _NLMSG_DONE:
                    return complete, found
                if kind == _NLMSG_ERROR:
                    failure = _failure(flags, payload)
                    if failure is not None:
                        raise failure
                    return complete, found
                found.append((kind, payload))


def _packed(message: Message, flags: int, number: int) -> bytes:
    length = 16 + len(message.body)
    head = _HEADER.pack(length, message.kind, message.flags | NLM_F_REQUEST | flags, number, 0)
    return head + message.body + bytes(-length % 4)


def _split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags, number, _ = _HEADER.unpack_from(data, offset)
        if length < 16:
            return
        yield kind, flags, number, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def _failure(flags: int, payload: bytes) -> OSError | None:
    (code,) = struct.unpack_from("=i", payload)
    if code == 0:
        return None
    explanation = os.strerror(-code)
    if flags & _NLM_F_ACK_TLVS:
        # Without CAPPED the kernel echoes the whole request before its explanation.
        echoed = 16 if flags & _NLM_F_CAPPED else struct.unpack_from("=I", payload, 4)[0]
        for kind, value in attributes(payload[4 + ((echoed + 3) & ~3) :]):
            if kind == _NLMSGERR_ATTR_MSG:
                explanation = f"{explanation}: {value.rstrip(bytes(1)).decode(errors='replace')}"
    return OSError(-code, explanation)
