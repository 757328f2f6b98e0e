"""Refusing answers: what they repeat, what they state, how long they are; dnspython is not needed to read them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dns import DNS, DNSRROPT

from egress.wire.dnsrefusal import BLOCKED, MAX_GROWTH, NXDOMAIN, REFUSED, refusal
from tests.engine.resolver import A, question

NAME = "wWw.Example.TEST"
TEXT = "egress: no rule allows this name"
OPT = b"\0" + struct.pack("!HHIH", 41, 4096, 0x8000, 0)  # with DO


def with_edns(message: bytes, option: bytes = OPT) -> bytes:
    return message[:10] + b"\0\1" + message[12:] + option


@pytest.mark.parametrize("code", [NXDOMAIN, REFUSED])
def test_the_question_is_repeated_as_it_was_spelled(code: int) -> None:
    asked = question(NAME, A, 0xBEEF)
    answer = refusal(asked, code, BLOCKED, TEXT)
    assert answer is not None and len(answer) == len(asked)
    assert answer[:2] == b"\xbe\xef" and answer[12:] == asked[12:]
    read = DNS(answer)
    assert (read.qr, read.opcode, read.aa, read.tc, read.rd, read.ra, read.rcode) == (1, 0, 0, 0, 1, 1, code)
    assert (read.qdcount, read.ancount, read.nscount, read.arcount) == (1, 0, 0, 0)


def test_recursion_and_checking_are_echoed_and_nothing_else_is() -> None:
    for sent, back in ((0x0000, 0x8083), (0x0100, 0x8183), (0x0010, 0x8093), (0x07EF, 0x8183)):
        asked = question(NAME)[:2] + sent.to_bytes(2) + question(NAME)[4:]
        answer = refusal(asked, NXDOMAIN, BLOCKED, TEXT)
        assert answer is not None and answer[2:4] == back.to_bytes(2), hex(sent)


def test_edns_is_answered_by_edns_with_the_reason() -> None:
    asked = with_edns(question(NAME))
    answer = refusal(asked, NXDOMAIN, BLOCKED, TEXT)
    assert answer is not None and len(asked) < len(answer) <= len(asked) + MAX_GROWTH
    option = DNS(answer).ar[0]
    assert isinstance(option, DNSRROPT) and (option.z, option.version, option.extrcode) == (0x8000, 0, 0)
    assert answer.endswith(struct.pack("!HHH", 15, 2 + len(TEXT), BLOCKED) + TEXT.encode())
    plain = with_edns(question(NAME), b"\0" + struct.pack("!HHIH", 41, 512, 0, 8) + bytes(8))
    answer = refusal(plain, NXDOMAIN, BLOCKED, "x" * 999)
    assert answer is not None and DNS(answer).ar[0].z == 0 and len(answer) <= len(plain) + MAX_GROWTH


def test_other_records_of_a_query_are_not_repeated() -> None:
    record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 0, 4) + bytes(4)
    asked = question(NAME)[:10] + b"\0\2" + question(NAME)[12:] + record + OPT
    answer = refusal(asked, NXDOMAIN, BLOCKED, TEXT)
    assert answer is not None and DNS(answer).arcount == 1 and isinstance(DNS(answer).ar[0], DNSRROPT)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"evil",
        question(NAME)[:-1],
        question(NAME) + b"x",
        question(NAME)[:2] + b"\x81\x80" + question(NAME)[4:],  # an answer
        question(NAME)[:2] + b"\x28\0" + question(NAME)[4:],  # an update
        question(NAME)[:4] + b"\0\2" + question(NAME)[6:] + question(NAME)[12:],
        with_edns(question(NAME), OPT[:-1]),
    ],
)
def test_what_is_no_query_gets_no_answer(message: bytes) -> None:
    assert refusal(message, NXDOMAIN, BLOCKED, TEXT) is None


@given(st.binary(max_size=80) | st.binary(max_size=60).map(lambda tail: question("a.b")[:12] + tail))
def test_any_bytes_give_a_bounded_answer_or_none(data: bytes) -> None:
    answer = refusal(data, NXDOMAIN, BLOCKED, TEXT)
    assert answer is None or (len(answer) <= len(data) + MAX_GROWTH and answer[:2] == data[:2] and answer[2] & 0x80)
