"""Refused DNS queries are answered by DNS: over UDP each for itself, over TCP at the end of the connection."""

from __future__ import annotations

import pytest

from egress.engine.engine import Engine
from egress.engine.outcome import Outcome, Reply
from egress.limits import Limits
from egress.model import ACK, FIN, PSH, Action, Agent, Direction, Mode, Policy, Reason, Rule
from egress.records.shape import FlowRecord, Record
from egress.wire.dnsrefusal import NXDOMAIN, REFUSED
from tests.engine.resolver import RESOLVER4, RESOLVER6, A, framed, question, reply
from tests.traffic import AGENT4, AGENT6, SERVER4, START, Talk, agent, tcp, udp

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
    asker = Asker(engine(), agent(default=Action.REJECT, mode=mode))
    verdict = asker.ask(b"unreadable" if name is None else question(name)).verdict
    assert (verdict.action is Action.HOLD) is waits
    holds = list(asker.engine.holds.values())
    assert [hold.names for hold in holds] == ([("evil.test",)] if waits else [])
