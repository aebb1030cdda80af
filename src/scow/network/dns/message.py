"""DNS messages, as much of them as a forwarder for container names needs (RFC 1035, RFC 6891).

Queries are read up to their question and the size that the client can take; answers to them are written. What comes
from other servers is passed on as it is. Nothing a packet says is trusted: every length is checked against the packet,
and no compression pointer is ever followed.
"""

import ipaddress
import struct
from collections.abc import Sequence
from typing import Final

import msgspec

A: Final = 1
PTR: Final = 12
AAAA: Final = 28
OPT: Final = 41
ANY: Final = 255
INTERNET: Final = 1

NO_ERROR: Final = 0
FORMAT_ERROR: Final = 1
SERVER_FAILURE: Final = 2
NAME_ERROR: Final = 3
NOT_IMPLEMENTED: Final = 4
REFUSED: Final = 5

UDP_SIZE: Final = 512  # bytes: what a client can take that says nothing else
MAX_UDP_SIZE: Final = 1232  # bytes: no path is known to break this into fragments (dnsflagday.net/2020)
TTL_S: Final = 5  # containers come and go; docker says 600, and proxies then talk to addresses of others

_HEADER = struct.Struct(">HHHHHH")
_FIELDS = struct.Struct(">HH")
_RECORD = struct.Struct(">HHIH")
_RESPONSE: Final = 0x8000
_TRUNCATED: Final = 0x0200
_RECURSION_DESIRED: Final = 0x0100
_RECURSION_AVAILABLE: Final = 0x0080
_CHECKING_DISABLED: Final = 0x0010
_MAX_RECORDS: Final = 16  # a query has one additional record, perhaps two


class Malformed(Exception):
    """A packet is no query that makes sense; `reply` says so, or is empty for one that is better ignored."""

    def __init__(self, reply: bytes = b"") -> None:
        super().__init__("malformed query")
        self.reply = reply


class Query(msgspec.Struct, frozen=True):
    """A question: `name` in lower case without the last dot, and what the answer has to repeat or keep to."""

    id: int
    flags: int
    name: str
    kind: int
    network_class: int
    question: bytes  # as it came, whose upper and lower case clients compare
    size: int  # bytes that the client can take by UDP
    extended: bool  # it sent an OPT record, so the answer has one too


def parse_query(data: bytes) -> Query:
    """Read a query. Raises Malformed."""
    if len(data) < _HEADER.size:
        raise Malformed
    number, flags, questions, answers, authorities, additional = _HEADER.unpack_from(data)
    if flags & _RESPONSE:
        raise Malformed  # answering answers is how two servers keep each other busy for ever
    if flags & 0x7800:
        raise Malformed(_head(number, flags, NOT_IMPLEMENTED))
    if questions != 1 or answers + authorities + additional > _MAX_RECORDS:
        raise Malformed(_head(number, flags, FORMAT_ERROR))
    try:
        name, offset = _read_name(data, _HEADER.size)
        kind, network_class = _FIELDS.unpack_from(data, offset)
        end = offset + _FIELDS.size
        size = _read_size(data, end, answers + authorities + additional)
    except (ValueError, IndexError, struct.error):
        raise Malformed(_head(number, flags, FORMAT_ERROR)) from None
    return Query(
        id=number,
        flags=flags,
        name=name,
        kind=kind,
        network_class=network_class,
        question=data[_HEADER.size : end],
        size=min(max(size, UDP_SIZE), MAX_UDP_SIZE),
        extended=size > 0,
    )


def _read_name(data: bytes, offset: int) -> tuple[str, int]:
    """Read a name that isn't compressed. Raises ValueError, IndexError."""
    labels: list[str] = []
    begin = offset
    while length := data[offset]:
        if length > 63:
            raise ValueError("a compressed or overlong label in a question")
        label = data[offset + 1 : offset + 1 + length]
        offset += 1 + length
        if offset >= len(data) or offset - begin > 254:
            raise ValueError("a name beyond its bounds")
        # A dot within a label is no separator: written so that it equals no name of ours.
        labels.append(label.decode("latin-1").lower().replace(".", "\\."))
    return ".".join(labels), offset + 1


def _skip_name(data: bytes, offset: int) -> int:
    begin = offset
    while length := data[offset]:
        if length & 0xC0 == 0xC0:
            return offset + 2
        if length > 63 or offset - begin > 254:
            raise ValueError("an overlong name")
        offset += 1 + length
    return offset + 1


def _read_size(data: bytes, offset: int, records: int) -> int:
    """Find the size that an OPT record offers, 0 without one. Raises ValueError, IndexError, struct.error."""
    for _ in range(records):
        root = data[offset] == 0
        offset = _skip_name(data, offset)
        kind, value, _, length = _RECORD.unpack_from(data, offset)
        offset += _RECORD.size + length
        if offset > len(data):
            raise ValueError("a record beyond the packet")
        if kind == OPT and root:
            return max(int(value), 1)
    return 0


def _head(number: int, flags: int, code: int) -> bytes:
    kept = flags & (0x7800 | _RECURSION_DESIRED | _CHECKING_DISABLED)
    return _HEADER.pack(number, _RESPONSE | _RECURSION_AVAILABLE | kept | code, 0, 0, 0, 0)


def answer(query: Query, records: Sequence[tuple[int, bytes]] = (), code: int = NO_ERROR, limit: int = 65535) -> bytes:
    """Write an answer whose records, pairs of type and data, belong to the name that was asked for.

    One that would be larger than `limit` bytes is cut, and says so: then clients ask again by TCP.
    """
    flags = _RESPONSE | _RECURSION_AVAILABLE | query.flags & (_RECURSION_DESIRED | _CHECKING_DISABLED) | code
    tail = b"\0" + _RECORD.pack(OPT, MAX_UDP_SIZE, 0, 0) if query.extended else b""
    room = limit - _HEADER.size - len(query.question) - len(tail)
    written: list[bytes] = []
    for kind, data in records:
        # C0 0C points at the question's name.
        record = b"\xc0\x0c" + _RECORD.pack(kind, INTERNET, TTL_S, len(data)) + data
        room -= len(record)
        if room < 0:
            flags |= _TRUNCATED
            break
        written.append(record)
    head = _HEADER.pack(query.id, flags, 1, len(written), 0, 1 if tail else 0)
    return b"".join((head, query.question, *written, tail))


def truncated(reply: bytes, query: Query) -> bytes:
    """The head of a reply that says that there is more."""
    short = bytearray(answer(query, code=code_of(reply)))
    short[2] |= _TRUNCATED >> 8
    return bytes(short)


def pack_name(name: str) -> bytes:
    """Write a name as a record's data. Raises ValueError for one that can't be."""
    packed = b""
    for label in name.split("."):
        data = label.encode()
        if not 0 < len(data) < 64:
            raise ValueError(f"no name of DNS: {name!r}")
        packed += bytes([len(data)]) + data
    if len(packed) > 254:
        raise ValueError(f"no name of DNS: {name!r}")
    return packed + b"\0"


def reverse_address(name: str) -> str:
    """Read `2.0.17.172.in-addr.arpa` as an address in its usual form, and IPv6's kind too; "" for other names."""
    labels = name.split(".")
    if labels[-2:] == ["in-addr", "arpa"] and len(labels) == 6:
        numbers = labels[3::-1]
        if all(each.isascii() and each.isdigit() and len(each) < 4 and int(each) < 256 for each in numbers):
            return ".".join(str(int(each)) for each in numbers)
    if labels[-2:] == ["ip6", "arpa"] and len(labels) == 34:
        digits = "".join(labels[31::-1])
        if len(digits) == 32 and all(digit in "0123456789abcdef" for digit in digits):
            return str(ipaddress.IPv6Address(bytes.fromhex(digits)))
    return ""


def code_of(reply: bytes) -> int:
    """The response code of a message of at least twelve bytes."""
    return reply[3] & 0x0F


def with_id(message: bytes, number: int) -> bytes:
    """The same message under another id."""
    return number.to_bytes(2, "big") + message[2:]


def answers(reply: bytes, request: bytes, question: bytes) -> bool:
    """Whether a packet is the reply to our request: its id, and the question that it repeats, in any case."""
    return (
        len(reply) >= _HEADER.size
        and reply[:2] == request[:2]
        and bool(reply[2] & 0x80)
        # Some servers leave the question out of an error.
        and (
            reply[_HEADER.size : _HEADER.size + len(question)].lower() == question.lower()
            or (reply[4:6] == b"\0\0" and code_of(reply) != NO_ERROR)
        )
    )
