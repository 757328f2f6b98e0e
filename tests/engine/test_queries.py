"""Refused DNS queries are answered by DNS: over UDP each for itself, over TCP at the end of the connection."""

from __future__ import annotations

from dataclasses import replace

import pytest

from egress.engine.engine import Engine
from egress.engine.outcome import Outcome, Reply
from egress.limits import Limits
from egress.model import ACK, FIN, PSH, SYN, Action, Agent, Direction, Mode, Policy, PolicyChange, Reason, Rule
from egress.records.shape import FlowRecord, Record
from egress.wire.dnsrefusal import NXDOMAIN, REFUSED, SERVFAIL
from tests.engine.resolver import RESOLVER4, RESOLVER6, A, framed, question, reply
from tests.traffic import AGENT4, AGENT6, SERVER4, START, Talk, agent, ip_packet, tcp, udp

GOOD, EVIL = "good.example.test", "Evil.Example.test"
OUT, IN = Direction.OUT, Direction.IN
DENIED = agent(default=Action.REJECT)
RULES = (
    Rule("dns4", Action.ACCEPT, destination=RESOLVER4, ports=((53, 53),), app="dns"),
    Rule("dns6", Action.ACCEPT, destination=RESOLVER6, ports=((53, 53),), app="dns"),
    Rule("good", Action.ACCEPT, destination=GOOD),
    Rule("never", Action.REJECT, destination="never.test"),
)
FAMILIES = pytest.mark.parametrize("v6", [False, True], ids=["IPv4", "IPv6"])


def engine(limits: Limits | None = None) -> Engine:
    return Engine(limits or Limits(), Policy(1, RULES), [])


class Asker:
    """An agent's socket, and what the gateway made of its packets."""

    def __init__(self, made: Engine, who: Agent = DENIED, v6: bool = False, resolver: str = "") -> None:
        self.engine, self.who = made, who
        self.local = AGENT6 if v6 else AGENT4
        self.resolver = resolver or (RESOLVER6 if v6 else RESOLVER4)
        self.records: list[Record] = []
        self.ts = START

    def ask(self, message: bytes) -> Outcome:
        return self._take(udp(self.local, self.resolver, 5353, 53, message), OUT)

    def hear(self, message: bytes) -> Outcome:
        return self._take(udp(self.resolver, self.local, 53, 5353, message), IN)

    def _take(self, raw: bytes, direction: Direction) -> Outcome:
        self.ts += 0.01
        outcome = self.engine.packet(raw, self.ts, self.who, direction)
        self.records += outcome.records
        return outcome

    def flows(self) -> list[tuple[str, Action, Reason, int]]:
        """The name, verdict and packets of each flow as last recorded, in the order in which the flows began."""
        records = [*self.records, *self.engine.shutdown(self.ts + 1)]
        last = {record.flow_id: record for record in records if isinstance(record, FlowRecord)}
        return [(each.server_name, each.action, each.reason, each.packets_out) for each in last.values()]


def rcode(found: Reply | None) -> int:
    assert found is not None
    return found.data[3] & 15


@FAMILIES
def test_a_refused_query_is_answered_and_its_flow_is_over(v6: bool) -> None:
    asker = Asker(engine(), v6=v6)
    asked = question(EVIL, A, 0x1234)
    first = asker.ask(asked)
    assert (first.verdict.action, first.verdict.reason) == (Action.REJECT, Reason.QUERY)
    assert rcode(first.reply) == NXDOMAIN
    assert first.reply is not None and first.reply.data[:2] == b"\x12\x34" and first.reply.data[12:] == asked[12:]
    assert asker.ask(question(GOOD)).verdict.action is Action.ACCEPT  # the same socket asks on
    assert rcode(asker.ask(question("never.test")).reply) == NXDOMAIN
    assert asker.flows() == [
        (EVIL.lower(), Action.REJECT, Reason.QUERY, 1),
        (GOOD, Action.ACCEPT, Reason.RULE, 1),
        ("never.test", Action.REJECT, Reason.QUERY, 1),
    ]


def test_answers_that_are_on_their_way_still_count() -> None:
    """c-ares asks for many names from one socket at once."""
    asker = Asker(engine())
    assert asker.ask(question(GOOD, A, 1)).verdict.action is Action.ACCEPT
    assert rcode(asker.ask(question(EVIL, A, 2)).reply) == NXDOMAIN
    assert asker.hear(reply(GOOD, (GOOD, SERVER4), ident=1)).verdict.action is Action.ACCEPT
    assert Talk().open().play(asker.engine, DENIED, START + 1).actions == [Action.ACCEPT] * 3  # bound to its name
    names = [flow for flow in asker.flows() if flow[0]]
    assert names == [(GOOD, Action.ACCEPT, Reason.RULE, 1), (EVIL.lower(), Action.REJECT, Reason.QUERY, 1)]


def test_a_flood_of_refused_queries_leaves_no_flows_behind() -> None:
    asker = Asker(engine())
    asker.ask(question(GOOD))
    for number in range(500):
        assert asker.ask(question(f"n{number}.evil.test")).reply is not None
    assert asker.engine.stats()["live_flows"] == 1


@FAMILIES
def test_a_resolver_that_is_not_allowed_refuses(v6: bool) -> None:
    """Its client asks the next resolver then; NXDOMAIN would end the search."""
    asker = Asker(engine(), v6=v6, resolver="2001:db8::99" if v6 else "192.0.2.99")
    for _ in range(2):
        outcome = asker.ask(question(GOOD))
        assert (outcome.verdict.action, outcome.verdict.reason) == (Action.REJECT, Reason.DEFAULT)
        assert rcode(outcome.reply) == REFUSED
    assert asker.ask(b"no query").reply is None
    assert [flow[1:] for flow in asker.flows()] == [(Action.REJECT, Reason.DEFAULT, 3)]
    quarantined = Asker(engine(), agent(quarantined=True))
    assert rcode(quarantined.ask(question(GOOD)).reply) == REFUSED


def test_where_no_answer_is_wanted_none_is_made() -> None:
    silent = Asker(engine(), agent(default=Action.DROP), resolver="192.0.2.99")
    assert silent.ask(question(GOOD)).reply is None
    watched = Asker(engine(), agent(default=Action.REJECT, mode=Mode.MONITOR))
    assert watched.ask(question(EVIL)).verdict.action is Action.ACCEPT
    assert watched.ask(question(EVIL)).reply is None
    unreadable = Asker(engine()).ask(question(EVIL) + b"x")
    assert (unreadable.verdict.reason, unreadable.reply) == (Reason.QUERY, None)


def connection(v6: bool = False) -> Talk:
    return Talk(local=AGENT6 if v6 else AGENT4, remote=RESOLVER6 if v6 else RESOLVER4, dport=53).open()


@FAMILIES
@pytest.mark.parametrize("segment", [1400, 1])
def test_a_refused_query_over_tcp_is_answered_within_the_stream(segment: int, v6: bool) -> None:
    made, talk = engine(), connection(v6).client(framed(question(GOOD, A, 1)))
    talk.server(framed(reply(GOOD, (GOOD, SERVER4), ident=1)))
    heard = talk.ack
    talk.client(framed(question(EVIL, A, 2)), segment=segment)
    played = talk.play(made, DENIED)
    (answered,) = [outcome for outcome in played.outcomes if outcome.reply is not None]
    assert answered is played.outcomes[-1]
    found = answered.reply
    assert found is not None and (found.seq, found.ack) == (heard, talk.seq)
    assert int.from_bytes(found.data[:2]) == len(found.data) - 2
    assert found.data[2:4] == b"\0\2" and found.data[5] & 15 == NXDOMAIN


def test_all_queries_of_a_segment_get_their_answers() -> None:
    talk = connection().client(framed(question(EVIL, A, 1), question(GOOD, A, 2), question(EVIL, 28, 3)))
    found = talk.play(engine(), DENIED).outcomes[-1].reply
    assert found is not None
    size = int.from_bytes(found.data[:2])
    assert found.data[2:4] == b"\0\1" and found.data[4 + size : 6 + size] == b"\0\3"


def test_no_reset_overtakes_an_answer_over_tcp() -> None:
    made, talk = engine(), connection().client(framed(question(EVIL)))
    talk.play(made, DENIED)
    end = talk.ack + 100

    def send(flags: int, data: bytes = b"") -> Outcome:
        return made.packet(tcp(AGENT4, RESOLVER4, talk.sport, 53, flags, talk.seq, end, data), START + 1, DENIED, OUT)

    assert send(ACK).verdict.packet_only and send(ACK).reply is None
    for outcome in (send(PSH | ACK, framed(question(GOOD))), send(FIN | ACK)):
        assert (outcome.verdict.action, outcome.verdict.packet_only) == (Action.REJECT, False)


@pytest.mark.parametrize(
    ("name", "mode", "waits"),
    [
        ("evil.test", Mode.ASK, True),
        ("EVIL.test.", Mode.ASK, True),
        ("evil.test", Mode.ENFORCE, False),
        ("never.test", Mode.ASK, False),
        ("no host.test", Mode.ASK, False),
        (None, Mode.ASK, False),
    ],
)
def test_which_queries_wait(name: str | None, mode: Mode, waits: bool) -> None:
    """A query waits unless a deny rule matches its name or no rule could allow it."""
    asker = Asker(engine(Limits(ask_names=0)), agent(default=Action.REJECT, mode=mode))
    verdict = asker.ask(b"unreadable" if name is None else question(name)).verdict
    assert (verdict.action is Action.HOLD) is waits
    holds = list(asker.engine.holds.values())
    assert [hold.names for hold in holds] == ([("evil.test",)] if waits else [])


ASKING = agent(default=Action.REJECT, mode=Mode.ASK)


def test_in_mode_ask_a_name_is_resolved_and_its_connection_waits() -> None:
    asker = Asker(engine(), ASKING)
    assert asker.ask(question("new.test")).verdict.action is Action.ACCEPT
    asker.hear(reply("new.test", ("new.test", SERVER4)))
    assert not asker.engine.holds
    opened = Talk().open().steps[0].raw
    assert asker.engine.packet(opened, START + 1, ASKING, OUT).verdict.action is Action.HOLD
    (hold,) = asker.engine.holds.values()
    assert (hold.destination, hold.proto, hold.dport, hold.query) == ("new.test", "tcp", 443, False)
    rule = Rule("yes", Action.ACCEPT, destination="new.test", protocol="tcp", ports=((443, 443),))
    asker.engine.change_policy(PolicyChange(1, 2, (), (rule,)), START + 60)
    assert asker.engine.ended_holds() == ((hold.id, "approved"),)
    assert asker.engine.packet(opened, START + 60, ASKING, OUT).verdict.rule_id == "yes"


def test_names_without_a_rule_are_few_short_and_asked_for_their_address() -> None:
    asker = Asker(engine(Limits(ask_names=2)), ASKING)
    names = ["a.test", "b.test", "A.test", "c.test", "b.test"]
    expected = [Action.ACCEPT, Action.ACCEPT, Action.ACCEPT, Action.HOLD, Action.ACCEPT]
    for number, (name, action) in enumerate(zip(names, expected, strict=True)):
        fresh = udp(AGENT4, RESOLVER4, 6000 + number, 53, question(name))
        assert asker.engine.packet(fresh, START + number, ASKING, OUT).verdict.action is action, name
    other = replace(ASKING, name="b1")
    theirs = udp(AGENT4, RESOLVER4, 1, 53, question("c.test"))
    assert asker.engine.packet(theirs, START + 9, other, OUT).verdict.action is Action.ACCEPT
    later = udp(AGENT4, RESOLVER4, 7000, 53, question("d.test"))
    assert asker.engine.packet(later, START + 3601, ASKING, OUT).verdict.action is Action.ACCEPT
    strict = Asker(engine(), ASKING)
    assert strict.ask(question("secret." + "x" * 60 + "." + "y" * 60 + ".test")).verdict.action is Action.HOLD
    assert Asker(engine(), ASKING).ask(question("a.test", 16)).verdict.action is Action.HOLD  # TXT


@pytest.mark.parametrize("sport", [5353, 5354])
def test_a_query_on_hold_is_answered_before_resolvers_give_up_and_its_hold_goes_on(sport: int) -> None:
    made = engine(Limits(ask_names=0))
    asked = udp(AGENT4, RESOLVER4, 5353, 53, question("new.test"))
    assert made.packet(asked, START, ASKING, OUT).verdict.action is Action.HOLD
    (hold,) = made.holds
    made.tick(START + 1.9)
    assert made.ended_holds() == ()
    assert made.next_tick() <= START + 2
    made.tick(START + 2)
    assert made.ended_holds() == ((hold, "pending"),) and hold in made.holds
    answered = made.packet(asked, START + 2, ASKING, OUT)
    assert answered.verdict.action is Action.REJECT and rcode(answered.reply) == SERVFAIL
    again = udp(AGENT4, RESOLVER4, sport, 53, question("new.test"))
    assert made.packet(again, START + 2.1, ASKING, OUT).verdict.action is Action.HOLD  # the client's next try
    assert list(made.holds) == [hold]
    allowed = Rule("yes", Action.ACCEPT, destination="new.test")
    made.change_policy(PolicyChange(1, 2, (), (allowed,)), START + 3)
    assert made.ended_holds() == ((hold, "approved"),)
    assert made.packet(again, START + 3, ASKING, OUT).verdict.action is Action.ACCEPT


def test_a_denied_question_is_not_asked_again_at_once() -> None:
    made = engine(Limits(ask_names=0))

    def ask(ts: float, sport: int) -> Outcome:
        return made.packet(udp(AGENT4, RESOLVER4, sport, 53, question("new.test")), ts, ASKING, OUT)

    assert ask(START, 1).verdict.action is Action.HOLD
    (hold,) = made.holds
    made.answer(hold, Action.REJECT, START + 1)
    for ts in (START + 1, START + 29):
        assert rcode(ask(ts, int(ts - START) + 2).reply) == NXDOMAIN
    assert not made.holds
    assert ask(START + 31, 99).verdict.action is Action.HOLD
    opened = Talk().open().steps[0].raw
    assert made.packet(opened, START + 40, ASKING, OUT).verdict.action is Action.HOLD
    (flow,) = set(made.holds) - {hold}
    made.answer(flow, Action.REJECT, START + 41)
    other = Talk(sport=40001).open().steps[0].raw
    assert made.packet(other, START + 42, ASKING, OUT).verdict.action is Action.REJECT


def test_a_query_that_was_refused_without_an_answer_touches_no_other_flow() -> None:
    """A packet of the resolver comes when the hold is over, before the packet that waited is presented again."""
    made = Engine(Limits(ask_names=0), Policy(1, (*RULES, Rule("web", Action.ACCEPT, destination=SERVER4))), [])
    talk = connection().client(framed(question("new.test"), question("never.test")))
    assert talk.play(made, ASKING).outcomes[-1].verdict.action is Action.HOLD
    made.change_policy(PolicyChange(1, 2, (), (Rule("yes", Action.ACCEPT, destination="new.test"),)), START + 1)
    heard = tcp(RESOLVER4, AGENT4, 53, talk.sport, ACK, talk.ack, talk.seq)
    assert made.packet(heard, START + 1, ASKING, IN).verdict.action is Action.REJECT
    others = Talk(sport=41000).open().client(b"hello").play(made, replace(ASKING, name="b1"), START + 2)
    assert {(each.verdict.action, each.reply) for each in others.outcomes} == {(Action.ACCEPT, None)}


def test_a_query_in_a_tunnel_does_not_wait_and_gets_no_answer_outside_it() -> None:
    """After a wait the stream inside would show only the bytes that it had not shown before."""
    made = Engine(Limits(ask_names=0), Policy(1, (*RULES, Rule("vpn", Action.ACCEPT, destination=SERVER4))), [])

    def carry(flags: int, seq: int, data: bytes = b"") -> Outcome:
        inner = tcp("192.168.1.2", "192.168.1.1", 1234, 53, flags, seq, 1, data)
        frame = b"\x08\0\0\0\0\0\1\0" + bytes(12) + b"\x08\0" + inner
        return made.packet(udp(AGENT4, SERVER4, 5555, 4789, frame), START + seq / 1000, ASKING, OUT)

    assert carry(SYN, 999).verdict.action is Action.ACCEPT
    found = carry(PSH | ACK, 1000, framed(question("new.test"), question("never.test")))
    assert (found.verdict.action, found.verdict.reason, found.reply) == (Action.REJECT, Reason.QUERY, None)
    assert not made.holds


def test_an_error_of_the_agent_s_kernel_asks_nobody() -> None:
    """An answer that comes after its socket was closed makes the kernel send ICMP port unreachable."""
    made = engine()
    quoted = udp(RESOLVER4, AGENT4, 53, 5353, reply("new.test", ("new.test", SERVER4)))
    for kind, code in ((3, 3), (11, 0)):
        error = ip_packet(AGENT4, RESOLVER4, 1, bytes([kind, code]) + bytes(6) + quoted)
        assert made.packet(error, START, ASKING, OUT).verdict.action is Action.REJECT
    assert not made.holds
    ping = ip_packet(AGENT4, RESOLVER4, 1, b"\x08\0\0\0\0\1" + bytes(20))
    assert made.packet(ping, START, ASKING, OUT).verdict.action is Action.HOLD
