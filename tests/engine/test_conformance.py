"""Rules with `app` bind from the first byte: raw bytes, other protocols, broken framing, mid-stream, settled TLS."""

from __future__ import annotations

import random
from typing import Any

import pytest

from egress.engine.engine import Engine
from egress.limits import Limits
from egress.model import ACK, PSH, Action, App, Direction, Mode, Policy, PolicyChange, Reason, Rule
from egress.records.shape import FlowRecord
from tests.dissection.conversations import GET, Turn, conversations, datagrams
from tests.engine.resolver import resolve
from tests.traffic import (
    AGENT4,
    AGENT6,
    SERVER4,
    SERVER6,
    START,
    Played,
    Step,
    Talk,
    agent,
    client_hello,
    play,
    tcp,
    udp,
)

OUT, IN = Direction.OUT, Direction.IN
DENIED = agent(default=Action.REJECT)
HELLO = client_hello("a.example")
SERVER_HELLO = b"\x16\x03\x03\x00\x05\x02\x00\x00\x01\x00"
IDENT = b"SSH-2.0-OpenSSH_9.9\r\n"
RECORD = b"\x17\x03\x03\x01\x00" + bytes(256)


def allow(app: str = "", **changes: object) -> Rule:
    values: dict[str, object] = {"id": f"for-{app or 'all'}", "action": Action.ACCEPT, "app": app} | changes
    return Rule(**values)  # type: ignore[arg-type]


def held(*rules: Rule, limits: Limits | None = None) -> Engine:
    return Engine(limits or Limits(), Policy(1, rules), [])


def talk_of(turns: list[Turn], *, segment: int = 1400, **ends: object) -> Talk:
    talk = Talk(**ends).open()  # type: ignore[arg-type]
    for direction, data in turns:
        (talk.client if direction is OUT else talk.server)(data, segment=segment)
    return talk


def last(played: Played) -> FlowRecord:
    return [record for record in played.records if isinstance(record, FlowRecord)][-1]


def whole(turns: list[Turn], direction: Direction) -> bytes:
    return b"".join(data for side, data in turns if side is direction)


@pytest.mark.parametrize("ends", [{}, {"local": AGENT6, "remote": SERVER6}], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("app", ["tls", "ssh", "http", "http2", "dns", "socks", "stratum", "quic"])
def test_of_raw_bytes_not_one_leaves(app: str, ends: dict[str, Any]) -> None:
    judge = held(allow(app))
    for number in range(20):
        talk = talk_of([(OUT, random.Random(number).randbytes(60_000))], sport=40000 + number, **ends)
        played = talk.play(judge, DENIED)
        assert played.passed(talk.steps) == b""
        found = last(played)
        assert (found.action, found.reason, found.rule_id) == (Action.REJECT, Reason.APPLICATION, f"for-{app}")
        assert (found.app_proto, found.app_expected) == ("unknown", "http,http2" if app == "http" else app)


@pytest.mark.parametrize("app", sorted(conversations()))
@pytest.mark.parametrize("segment", [1400, 100])
def test_real_conversations_pass_whole_in_both_directions(app: str, segment: int) -> None:
    outer = {"http": 10, "socks": 1, "stratum": 2}.get(app)  # what is carried inside is another application
    for turns in conversations()[App(app)][:outer]:
        talk = talk_of(turns, segment=segment, dport=53 if app == "dns" else 443)
        played = talk.play(held(allow(app), allow(App.UNKNOWN, ports=((1, 1),))), agent())
        assert played.passed(talk.steps) == whole(turns, OUT), last(played)
        assert played.passed(talk.steps, IN) == whole(turns, IN)


@pytest.mark.parametrize("app", sorted(datagrams()))
def test_datagrams_pass_and_random_ones_do_not(app: str) -> None:
    port = 53 if app == "dns" else 443
    for turns in datagrams()[App(app)]:
        steps = [_datagram(direction, data, port) for direction, data in turns]
        assert set(play(held(allow(app), allow("", ports=((1, 1),))), DENIED, steps).actions) == {Action.ACCEPT}
    for number in range(20):
        data = random.Random(number).randbytes(1200)
        played = play(held(allow(app)), DENIED, [_datagram(OUT, data, port)])
        assert played.outcomes[0].verdict.action is Action.REJECT


def _datagram(direction: Direction, data: bytes, port: int) -> Step:
    ends = (AGENT4, SERVER4, 40000, port) if direction is OUT else (SERVER4, AGENT4, port, 40000)
    return Step(udp(*ends, data), direction, 0.001)


def test_a_server_that_answers_otherwise_is_refused() -> None:
    talk = talk_of([(OUT, HELLO), (IN, b"220 ready\r\n"), (OUT, RECORD)])
    played = talk.play(held(allow("tls")), DENIED)
    assert played.passed(talk.steps, IN) == b"" and played.passed(talk.steps) == HELLO
    assert last(played).reason is Reason.APPLICATION


def test_the_rule_that_fits_admits_when_an_earlier_one_does_not() -> None:
    judge = held(allow("tls"), allow("ssh"), allow("http"))
    for number, (data, rule) in enumerate(((IDENT, "for-ssh"), (GET, "for-http"), (HELLO, "for-tls"))):
        talk = talk_of([(OUT, data)], sport=41000 + number)
        played = talk.play(judge, DENIED)
        assert played.passed(talk.steps) == data
        assert last(played).rule_id == rule
    talk = talk_of([(OUT, b"\x00\x01\x02\x03")], sport=42000)
    assert talk.play(judge, DENIED).passed(talk.steps) == b""


def test_bytes_out_of_order_wait_and_retransmissions_pass() -> None:
    talk = Talk().open()
    talk.raw_client(100, HELLO[100:]).client(HELLO[:100]).raw_client(-100, HELLO[:100])
    assert set(talk.play(held(allow("tls")), DENIED).actions) == {Action.ACCEPT}


def test_http_covers_http2_in_the_clear_and_any_demands_nothing() -> None:
    ((turns,), raw) = conversations()[App.HTTP2], [(OUT, b"\x00raw")]
    talk = talk_of(turns)
    assert set(talk.play(held(allow("http")), DENIED).actions) == {Action.ACCEPT}
    assert set(talk_of(raw).play(held(allow("any")), DENIED).actions) == {Action.ACCEPT}


NAMED = allow("", id="named", destination="a.example", ports=((443, 443),))
DNS_RULE = allow("any", id="dns", ports=((53, 53),))


@pytest.mark.parametrize(
    "rule, port, data, passes",
    [
        (NAMED, 443, HELLO, True),
        (NAMED, 443, b"\x00raw bytes", False),
        (NAMED, 443, IDENT, False),
        (allow("any", destination="a.example", ports=((443, 443),)), 443, b"\x00raw bytes", True),
        (allow("ssh", destination="a.example", ports=((443, 443),)), 443, IDENT, True),
        (allow("", destination="a.example", ports=((400, 500),)), 443, b"\x00raw bytes", True),  # within a range only
        (allow("", destination="a.example"), 443, b"\x00raw bytes", True),
        (allow("", destination="a.example", ports=((80, 80), (443, 443))), 80, GET, True),
        (allow("", destination=SERVER4, ports=((443, 443),)), 443, b"\x00raw bytes", True),
    ],
)
def test_a_name_rule_on_443_demands_tls_or_quic_unless_it_says_otherwise(
    rule: Rule, port: int, data: bytes, *, passes: bool
) -> None:
    judge = held(rule, DNS_RULE)
    resolve(judge, DENIED, "a.example", ("a.example", SERVER4))
    talk = talk_of([(OUT, data)], dport=port)
    assert talk.play(judge, DENIED).passed(talk.steps) == (data if passes else b"")


def test_in_mid_stream_a_tls_client_must_begin_a_record() -> None:
    judge = held(allow("tls"))
    ack = PSH | ACK
    for number, (data, action) in enumerate(((RECORD, Action.ACCEPT), (b"x" * 300, Action.REJECT))):
        raw = tcp(AGENT4, SERVER4, 43000 + number, 443, ack, 5000, 9000, data)
        assert play(judge, DENIED, [Step(raw, OUT, 0.001)]).actions == [action]


def test_a_picked_up_connection_that_kept_its_framing_goes_on_after_it_settles() -> None:
    judge = held(allow("tls"))
    talk = Talk(isn=5000)
    for _ in range(300):
        talk.client(RECORD)
    played = talk.play(judge, DENIED)
    assert set(played.actions) == {Action.ACCEPT} and played.outcomes[-1].verdict.settled
    (end,) = judge.shutdown(played.end)
    assert isinstance(end, FlowRecord) and end.app_proto == "tls"


def test_a_connection_that_the_kernel_knows_as_settled_is_not_held_again() -> None:
    judge = held(allow("ssh"))
    raw = tcp(AGENT4, SERVER4, 43000, 22, PSH | ACK, 5000, 9000, bytes(range(256)) * 5)
    assert judge.packet(raw, START, DENIED, OUT, settled=True).verdict.action is Action.ACCEPT
    fresh = tcp(AGENT4, SERVER4, 43001, 22, PSH | ACK, 5000, 9000, bytes(range(256)) * 5)
    assert judge.packet(fresh, START, DENIED, OUT).verdict.reason is Reason.APPLICATION


def test_a_rule_that_begins_to_demand_looks_at_the_bytes_so_far() -> None:
    for data, action in ((HELLO[:40], Action.ACCEPT), (b"raw", Action.REJECT)):
        judge = held(allow(""))
        talk = talk_of([(OUT, data)])
        assert set(talk.play(judge, DENIED).actions) == {Action.ACCEPT}
        judge.change_policy(PolicyChange(1, 2, ("for-all",), (allow("tls"),)), START + 1)
        more = Talk(sport=talk.sport, isn=talk.isn)
        more.seq, more.ack = talk.seq, talk.ack
        more.client(HELLO[40:])
        assert more.play(judge, DENIED, START + 2).actions == [action]


def test_a_monitored_agent_goes_on_and_the_refusal_is_on_record() -> None:
    who = agent(default=Action.REJECT, mode=Mode.MONITOR)
    talk = talk_of([(OUT, b"\x00raw")])
    played = talk.play(held(allow("tls")), who)
    assert set(played.actions) == {Action.ACCEPT} and last(played).reason is Reason.APPLICATION


def test_a_flow_without_a_demand_is_compared_with_nothing() -> None:
    judge = held(allow(""))
    talk = talk_of([(OUT, HELLO), (IN, SERVER_HELLO), (OUT, b"no record")])
    assert set(talk.play(judge, DENIED).actions) == {Action.ACCEPT}
