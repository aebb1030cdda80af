"""Reading queries that come from anybody, and writing answers."""

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scow.network.dns import message
from scow.network.dns.message import Malformed, answer, parse_query

OPT = b"\0" + struct.pack(">HHIH", message.OPT, 4096, 0, 0)


def query(
    name: bytes = b"\3web\0", kind: int = message.A, *, flags: int = 0x0100, extra: bytes = b"", **counts: int
) -> bytes:
    sections = (counts.get("questions", 1), counts.get("answers", 0), 0, counts.get("additional", int(bool(extra))))
    return struct.pack(">HHHHHH", 0x1234, flags, *sections) + name + struct.pack(">HH", kind, 1) + extra


def test_a_query_is_read_in_lower_case_and_its_question_kept_as_it_came() -> None:
    found = parse_query(query(b"\3wEb\5mYnEt\0", message.AAAA, extra=OPT))
    assert (found.name, found.kind, found.network_class, found.extended) == ("web.mynet", message.AAAA, 1, True)
    assert found.question == b"\3wEb\5mYnEt\0\0\x1c\0\1"
    assert found.size == message.MAX_UDP_SIZE
    assert parse_query(query()).size == 512
    assert parse_query(query(b"\0")).name == ""


def test_a_dot_within_a_label_makes_no_other_name() -> None:
    assert parse_query(query(b"\7web.net\0")).name == "web\\.net"


IGNORED = [b"", b"\0", query()[:11], query(flags=0x8180)]
REFUSED = {
    "no question": query(questions=0),
    "two questions": query(questions=2),
    "many records": query(additional=17),
    "nothing after the header": query()[:12],
    "a label beyond the packet": query()[:12] + b"\x3fabc",
    "a compressed name": query(b"\xc0\x0c"),
    "a name that points at itself": query(b"\3web\xc0\x0c"),
    "an overlong label": query(b"\x40" + b"a" * 64 + b"\0"),
    "an overlong name": query(b"".join(b"\x3f" + b"a" * 63 for _ in range(5)) + b"\0"),
    "no type": query()[:-3],
    "an OPT record without body": query(extra=b"\0"),
    "a record that is longer than the packet": query(extra=b"\0" + struct.pack(">HHIH", 41, 512, 0, 999)),
    "a record's name without end": query(extra=b"\x3f" * 300),
    "records that aren't there": query(additional=3, extra=OPT * 2),
}


@pytest.mark.parametrize("data", IGNORED)
def test_what_is_no_query_is_not_answered(data: bytes) -> None:
    with pytest.raises(Malformed) as failure:
        parse_query(data)
    assert failure.value.reply == b""


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_a_query_that_makes_no_sense_is_answered_with_a_format_error(data: bytes) -> None:
    if data == REFUSED["records that aren't there"]:
        assert parse_query(data).size == message.MAX_UDP_SIZE  # found before the packet ends
        return
    with pytest.raises(Malformed) as failure:
        parse_query(data)
    reply = failure.value.reply
    assert reply[:2] == data[:2]
    assert message.code_of(reply) == message.FORMAT_ERROR
    assert len(reply) == 12


def test_other_operations_are_not_implemented() -> None:
    with pytest.raises(Malformed) as failure:
        parse_query(query(flags=0x2800))
    assert message.code_of(failure.value.reply) == message.NOT_IMPLEMENTED


@given(st.binary(max_size=600))
def test_no_packet_breaks_the_reader(data: bytes) -> None:
    try:
        found = parse_query(data)
    except Malformed:
        return
    assert len(answer(found)) >= 12 + len(found.question)


@given(st.binary(max_size=80), st.binary(max_size=40))
def test_no_question_breaks_the_reader(name: bytes, rest: bytes) -> None:
    try:
        parse_query(struct.pack(">HHHHHH", 7, 0, 1, 0, 0, 1) + name + rest)
    except Malformed:
        return


def test_an_answer_repeats_the_question_and_names_its_records_by_it() -> None:
    asked = parse_query(query(b"\3WEB\0", extra=OPT))
    reply = answer(asked, [(message.A, bytes([10, 0, 0, 2]))])
    head = struct.unpack_from(">HHHHHH", reply)
    assert head == (0x1234, 0x8180, 1, 1, 0, 1)
    assert reply[12:21] == asked.question
    assert reply[21:37] == b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, message.TTL_S, 4) + bytes([10, 0, 0, 2])
    assert reply[37:] == b"\0" + struct.pack(">HHIH", message.OPT, message.MAX_UDP_SIZE, 0, 0)


def test_an_answer_that_is_too_long_is_cut_and_says_so() -> None:
    asked = parse_query(query())
    records = [(message.A, bytes([10, 0, 0, n])) for n in range(100)]
    short, whole = answer(asked, records, limit=512), answer(asked, records)
    assert len(short) <= 512 < len(whole)
    assert (short[2] & 2, whole[2] & 2) == (2, 0)
    assert int.from_bytes(short[6:8], "big") == (512 - 12 - 9) // 16
    empty = message.truncated(whole, asked)
    assert (empty[2] & 2, len(empty)) == (2, 12 + 9)


@pytest.mark.parametrize("text", ["172.17.0.2", "fd00::12", "0.0.0.0", "::1"])
def test_reverse_names_are_read_as_addresses(text: str) -> None:
    assert message.reverse_address(ipaddress.ip_address(text).reverse_pointer) == text


NO_ADDRESSES = [
    *("in-addr.arpa", "1.2.3.in-addr.arpa", "1.2.3.400.in-addr.arpa", "a.b.c.d.in-addr.arpa"),
    *("¹.2.3.4.in-addr.arpa", "1.ip6.arpa"),
]


@pytest.mark.parametrize("name", ["", *NO_ADDRESSES, "x." * 32 + "ip6.arpa", "00.0." * 16 + "ip6.arpa"])
def test_other_names_are_no_addresses(name: str) -> None:
    assert message.reverse_address(name) == ""


def test_only_the_answer_to_a_request_counts_as_one() -> None:
    request = query()
    question = parse_query(request).question
    reply = answer(parse_query(request))
    assert message.answers(reply, request, question)
    assert message.answers(reply.replace(b"web", b"WEB"), request, question)
    assert not message.answers(message.with_id(reply, 9), request, question)
    assert not message.answers(reply.replace(b"web", b"wub"), request, question)
    assert not message.answers(request, request, question)
    assert not message.answers(b"\x12\x34", request, question)
