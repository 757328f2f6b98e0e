"""Turns: pings, repeated requests, and the request that was told something, through the real engine."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.dissection.events import Turn
from egress.engine.engine import Engine
from egress.engine.turns import Turns
from egress.limits import Limits
from egress.model import ACK, TCP, Action, Effect, Packet, Policy, Rule, Severity
from egress.records.shape import FindingRecord
from signatures.beacon_timing import BeaconTiming
from tests.traffic import SERVER4, Played, Talk, agent

PERIOD = 20.0
Exchange = tuple[bytes, bytes]
ALLOW = Rule("r1", Action.ACCEPT)


def conversation(exchanges: list[Exchange], first: Exchange = (b"hi\n", b"yo\n"), jitter: float = 0.02) -> Played:
    """Play exchanges one PERIOD apart on one connection under a default that allows."""
    dice = random.Random(7)
    talk = Talk(dport=9000).open().client(first[0]).server(first[1])
    for request, answer in exchanges:
        talk.client(request, gap=PERIOD * dice.uniform(1 - jitter, 1 + jitter))
        if answer:
            talk.server(answer)
    return talk.play(Engine(Limits(), Policy(), [BeaconTiming()]), agent(default=Action.ACCEPT))


def kinds(played: Played) -> list[tuple[Severity, Effect, Action]]:
    return [(each.severity, each.effect, each.action) for each in played.findings]


def websocket(count: int) -> Iterator[Exchange]:
    dice = random.Random(1)
    for _ in range(count):
        mask, text = dice.randbytes(4), dice.randbytes(4)
        yield (
            b"\x89\x84" + mask + bytes(one ^ two for one, two in zip(text, mask, strict=True)),
            b"\x8a\x04" + text,
        )


UPGRADE = (
    b"GET /chat HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
)
H2 = b"\0\0\x08\x06%c\0\0\0\0%08d"
HONEST = {
    "websocket": (list(websocket(60)), UPGRADE),
    "postgresql": ([(b"Q\0\0\0\rSELECT 1\0", b"T\0\0\0\x06\0\0C\0\0\0\rSELECT 1\0Z\0\0\0\x05I")] * 60, (b"Q", b"R")),
    "mysql": ([(b"\x01\0\0\0\x0e", b"\x07\0\0\x01\0\0\0\x02\0\0\0")] * 60, (b"Q", b"R")),
    "mqtt": ([(b"\xc0\0", b"\xd0\0")] * 60, (b"\x10\x02ab", b"\x20\x02\0\0")),
    "amqp": ([(b"\x08\0\0\0\0\0\0\xce", b"\x08\0\0\0\0\0\0\xce")] * 60, (b"AMQP\0\0\x09\x01", b"x")),
    "redis": ([(b"PING\r\n", b"+PONG\r\n")] * 60, (b"AUTH x\r\n", b"+OK\r\n")),
    "http2": (
        [(b"\0\0\x08\x06\0\0\0\0\0%08d" % n, b"\0\0\x08\x06\x01\0\0\0\0%08d" % n) for n in range(60)],
        (b"x", b"y"),
    ),
    "imap": ([(b"A%03d NOOP\r\n" % n, b"A%03d OK done\r\n" % n) for n in range(60)], (b"A0 LOGIN\r\n", b"A0 OK\r\n")),
    "websocket, pushes between": ([(ping, answer + b"\x81\x02hi") for ping, answer in websocket(60)], UPGRADE),
    "unanswered": ([(b"PING\r\n", b"")] * 60, (b"x", b"y")),
}


@pytest.mark.parametrize("name", HONEST)
def test_the_keep_alives_of_protocols_are_no_beacon(name: str) -> None:
    exchanges, first = HONEST[name]
    assert conversation(exchanges, first=first).findings == []


def test_a_keep_alive_of_an_unknown_protocol_is_a_suspicion_and_refuses_nothing() -> None:
    played = conversation([(b"alive?\n", b"alive!\n")] * 60)
    assert kinds(played) == [(Severity.LOW, Effect.NONE, Action.ACCEPT)]
    assert set(played.actions) == {Action.ACCEPT}


def test_work_between_such_keep_alives_refuses_nothing_either() -> None:
    idle = [(b"alive?\n", b"alive!\n")] * 12
    dice = random.Random(3)
    talk = Talk(dport=9000).open().client(b"hi\n").server(b"yo\n")
    for number in range(12):
        for request, answer in idle:
            talk.client(request, gap=PERIOD).server(answer)
        talk.client(b"work %d\n" % number, gap=dice.uniform(1, 18)).server(b"result %d\n" % number)
    played = talk.play(Engine(Limits(), Policy(), [BeaconTiming()]), agent(default=Action.ACCEPT))
    assert kinds(played) == [(Severity.LOW, Effect.NONE, Action.ACCEPT)]


@pytest.mark.parametrize("request_", [b"task?\n", b"PING\r\n", b"Q\0\0\0\rSELECT 1\0"])
def test_polls_refuse_their_flow_once_they_are_told_something(request_: bytes) -> None:
    """Also those that pose as a keep-alive: each command takes one turn, and their rhythm is found in the end."""
    told = [(request_, b"nothing\n" if number % 2 else b"run %d\n" % number) for number in range(60)]
    findings = conversation([(request_, b"nothing\n")] * 20 + told).findings
    assert [each.effect for each in findings][-1] is Effect.DESTINATION
    assert conversation([(request_, b"nothing\n")] * 20 + told).actions[-1] is Action.REJECT


def test_different_requests_are_a_beacon_as_before() -> None:
    played = conversation([(b"report %d\n" % number, b"ok\n") for number in range(20)])
    assert kinds(played) == [(Severity.MEDIUM, Effect.DESTINATION, Action.REJECT)]


def polls(rule: Rule | None) -> tuple[list[FindingRecord], list[Action]]:
    """Open a connection every 3 s, as a client does that waits for a job."""
    engine, found, actions, ts = Engine(Limits(), Policy(1, (rule,) if rule else ()), [BeaconTiming()]), [], [], 1e9
    for number in range(30):
        talk = Talk(sport=40000 + number, dport=443).open().client(b"GET /%d\n" % number).server(b"wait\n").close()
        played = talk.play(engine, agent(default=Action.ACCEPT if rule is None else Action.REJECT), ts + 3.0 * number)
        found += played.findings
        actions += played.actions
    return found, actions


@pytest.mark.parametrize("destination", [SERVER4, f"{SERVER4}/32", "203.0.113.0/24"])
def test_polls_of_a_destination_that_a_rule_names_are_recorded_and_refuse_nothing(destination: str) -> None:
    found, actions = polls(Rule("r1", Action.ACCEPT, destination=destination))
    assert found and {(each.effect, each.action) for each in found} == {(Effect.NONE, Action.ACCEPT)}
    assert set(actions) == {Action.ACCEPT}


@pytest.mark.parametrize("rule", [None, ALLOW, Rule("r1", Action.ACCEPT, destination="0.0.0.0/0")])
def test_polls_of_a_destination_that_nobody_names_are_refused(rule: Rule | None) -> None:
    found, actions = polls(rule)
    assert [each.effect for each in found] == [Effect.DESTINATION]
    assert Action.REJECT in actions


STEPS = st.lists(
    st.tuples(
        st.sampled_from([b"", b"a", b"PING\r\n", b"\x89\x80abcd", b"x" * 300]),
        st.integers(0, 0xFFFFFFFF),
        st.integers(0, 0xFFFFFFFF),
        st.binary(max_size=40),
        st.sampled_from([TCP, 17]),
    ),
    max_size=12,
)


@given(STEPS)
def test_no_numbers_raise(steps: list[tuple[bytes, int, int, bytes, int]]) -> None:
    turns = Turns()
    for request, seq, ack, received, proto in steps:
        packet = Packet(4, proto, b"\x0a\0\0\1", b"\x0a\0\0\2", 1, 2, ACK, seq, ack, request, 60, 0)
        assert turns.begin(packet, received, ack) in Turn
