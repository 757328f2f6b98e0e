"""Names through the engine, packet by packet: bindings from answers, names in the bytes, gated queries."""

from __future__ import annotations

import pytest
from hpack import Encoder

from egress.engine.engine import Engine
from egress.limits import Limits
from egress.model import Action, Direction, Mode, Policy, Reason, Rule
from egress.policy.bindings import FLOOR, GRACE
from tests.engine.resolver import (
    AAAA,
    RESOLVER4,
    RESOLVER6,
    A,
    Answer,
    answered,
    ask,
    framed,
    question,
    reply,
    resolve,
)
from tests.traffic import AGENT4, AGENT6, SERVER4, SERVER6, START, Talk, agent, client_hello

GOOD, EVIL = "good.example.test", "evil.example.test"
FAMILIES = pytest.mark.parametrize("v6", [False, True], ids=["IPv4", "IPv6"])
OUT, IN = Direction.OUT, Direction.IN
DENIED = agent(default=Action.REJECT)
ACCEPTED = (Action.ACCEPT, Reason.RULE)
BY_NAME, BY_QUERY, BY_DEFAULT = ((Action.REJECT, reason) for reason in (Reason.NAME, Reason.QUERY, Reason.DEFAULT))


def allow(name: str, destination: str, **more: object) -> Rule:
    return Rule(**({"id": name, "action": Action.ACCEPT, "destination": destination} | more))  # type: ignore[arg-type]


DNS = tuple(allow(f"dns{where}", where, ports=((53, 53),)) for where in (RESOLVER4, RESOLVER6))


def guarded(*rules: Rule, gate_queries: bool = True, refuse_ech: bool = False, limits: Limits | None = None) -> Engine:
    chosen = rules or (allow("good", GOOD),)
    policy = Policy(1, (*DNS, *chosen))
    return Engine(limits or Limits(), policy, [], gate_queries=gate_queries, refuse_ech=refuse_ech)


def server(v6: bool) -> str:
    return SERVER6 if v6 else SERVER4


def talk(v6: bool = False, sport: int = 40000, dport: int = 443) -> Talk:
    return Talk(sport=sport, dport=dport, local=AGENT6 if v6 else AGENT4, remote=server(v6))


Short = tuple[Action, Reason]


def outcome(engine: Engine, made: Talk, ts: float = START) -> Short:
    """Play a conversation of an agent that is denied by default; returns its end."""
    verdict = made.play(engine, DENIED, ts).outcomes[-1].verdict
    return verdict.action, verdict.reason


def bound(*rules: Rule, name: str = GOOD, v6: bool = False, limits: Limits | None = None) -> Engine:
    """An engine whose agent has resolved a name to the server's address."""
    engine = guarded(*rules, limits=limits)
    assert resolve(engine, DENIED, name, (name, server(v6)), v6=v6).action is Action.ACCEPT
    return engine


# --- bindings ------------------------------------------------------------------------------------------------


@FAMILIES
def test_a_name_rule_admits_the_address_once_the_agent_has_resolved_it(v6: bool) -> None:
    engine = guarded()
    assert outcome(engine, talk(v6, 1).open()) == BY_DEFAULT
    resolve(engine, DENIED, GOOD, (GOOD, server(v6)), v6=v6)
    assert outcome(engine, talk(v6, 2).open().client(client_hello(GOOD))) == ACCEPTED


@FAMILIES
def test_a_wildcard_takes_one_label_and_another_name_takes_nothing(v6: bool) -> None:
    wild = allow("cdn", "*.cdn.example.test")
    assert outcome(bound(wild, name="a.cdn.example.test", v6=v6), talk(v6).open()) == ACCEPTED
    for name in ("cdn.example.test", "a.b.cdn.example.test", "acdn.example.test"):
        engine = guarded(wild)
        verdict = resolve(engine, DENIED, name, (name, server(v6)), v6=v6)
        assert (verdict.action, verdict.reason) == BY_QUERY
        assert outcome(engine, talk(v6).open()) == BY_DEFAULT


CHAIN: list[Answer] = [(GOOD, "edge.cdn.test"), ("edge.cdn.test", "n7.cdn.test")]


@FAMILIES
@pytest.mark.parametrize("rule", [GOOD, "edge.cdn.test", "*.cdn.test"])
def test_each_name_of_a_chain_is_bound(v6: bool, rule: str) -> None:
    engine = guarded(allow("by-name", rule), allow("ask", GOOD, ports=((9, 9),)))
    resolve(engine, DENIED, GOOD, *CHAIN, ("n7.cdn.test", server(v6)), v6=v6)
    assert outcome(engine, talk(v6).open()) == ACCEPTED


@FAMILIES
def test_another_agents_answer_binds_nothing(v6: bool) -> None:
    engine = guarded()
    other = agent(name="a2", default=Action.REJECT)
    resolve(engine, other, GOOD, (GOOD, server(v6)), v6=v6)
    assert outcome(engine, talk(v6).open()) == BY_DEFAULT


@FAMILIES
@pytest.mark.parametrize("wrong", ["id", "name", "type", "port", "unasked", "late record"])
def test_an_answer_to_no_question_binds_nothing(v6: bool, wrong: str) -> None:
    engine, rtype = guarded(), AAAA if v6 else A
    where: Answer = (GOOD, server(v6))
    if wrong != "unasked":
        ask(engine, DENIED, question(GOOD, rtype), v6=v6)
    spoofed = {
        "id": reply(GOOD, where, rtype=rtype, ident=8),
        "name": reply(EVIL, where, rtype=rtype),
        "type": reply(GOOD, where, rtype=rtype ^ A ^ AAAA),
        "late record": reply(GOOD, ("elsewhere.test", server(v6)), rtype=rtype),
    }.get(wrong, reply(GOOD, where, rtype=rtype))
    answered(engine, DENIED, spoofed, sport=5354 if wrong == "port" else 5353, v6=v6)
    assert outcome(engine, talk(v6).open()) == BY_DEFAULT


@FAMILIES
@pytest.mark.parametrize("segment", [1400, 1])
def test_answers_over_tcp_bind(v6: bool, segment: int) -> None:
    engine, rtype = guarded(), AAAA if v6 else A
    made = Talk(local=AGENT6 if v6 else AGENT4, remote=RESOLVER6 if v6 else RESOLVER4, dport=53).open()
    made.client(framed(question(GOOD, rtype)), segment=segment)
    made.server(framed(reply(GOOD, (GOOD, server(v6)), rtype=rtype)), segment=segment)
    assert outcome(engine, made) == ACCEPTED
    assert outcome(engine, talk(v6).open()) == ACCEPTED


@FAMILIES
def test_a_lapsed_binding_takes_nothing_from_the_flow_it_admitted(v6: bool) -> None:
    """Tested here because the lab cannot wait 90 s; the constants are the engine's own."""
    engine, lapse = bound(v6=v6), START + FLOOR + GRACE
    made = talk(v6, 1).open().client(client_hello(GOOD))
    assert outcome(engine, made) == ACCEPTED
    assert outcome(engine, talk(v6, 2).open(), lapse - 1) == ACCEPTED
    assert outcome(engine, talk(v6, 3).open(), lapse) == BY_DEFAULT
    made.steps.clear()
    assert outcome(engine, made.client(b"\x17\x03\x03\x00\x04data"), lapse + 60) == ACCEPTED


def test_and_a_change_of_policy_judges_that_flow_by_the_names_it_came_with() -> None:
    engine, late = bound(), START + 500
    made = talk().open().client(client_hello(GOOD))
    outcome(engine, made)
    made.steps.clear()
    engine.set_policy(Policy(2, (allow("again", "*.example.test"),)), late)
    assert outcome(engine, made.client(b"x"), late) == ACCEPTED
    made.steps.clear()
    engine.set_policy(Policy(3, (allow("else", EVIL),)), late)
    assert outcome(engine, made.client(b"x"), late + 1) == BY_DEFAULT


# --- the name in the bytes -----------------------------------------------------------------------------------


def asked(host: str, start: str = "GET / HTTP/1.1") -> bytes:
    return f"{start}\r\nHost: {host}\r\n\r\n".encode()


def h2(*authorities: str) -> bytes:
    """HTTP/2 with prior knowledge: preface, SETTINGS, a request each."""
    encoder, data = Encoder(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\4\0" + bytes(4)
    for number, authority in enumerate(authorities):
        fields = [(":method", "GET"), (":scheme", "http"), (":authority", authority), (":path", "/")]
        block = encoder.encode(fields)
        data += len(block).to_bytes(3) + b"\1\5" + (2 * number + 1).to_bytes(4) + block
    return data


ECH = b"\xfe\x0d\x00\x08" + bytes(8)  # encrypted_client_hello (RFC 9849), besides the outer name


def ech_hello(outer: str) -> bytes:
    return client_hello(outer, ECH)


NAMELESS = client_hello("")
REFUSED = {
    "other SNI": client_hello(EVIL),
    "no SNI": NAMELESS,
    "an address as SNI": client_hello(SERVER4),
    "ECH beside another name": ech_hello(EVIL),
    "ECH under its operator's name": ech_hello("cloudflare-ech.com"),
    "other Host": asked(EVIL),
    "absolute form": asked(GOOD, f"GET http://{EVIL}/ HTTP/1.1"),
    "no Host": b"GET / HTTP/1.0\r\n\r\n",
    "an address as Host": asked(SERVER4),
    "two Hosts": asked(GOOD)[:-2] + f"Host: {EVIL}\r\n\r\n".encode(),
    "CONNECT": asked(GOOD, f"CONNECT {EVIL}:443 HTTP/1.1"),
    "second request": asked(GOOD) + asked(EVIL),
    "first of two requests": asked(EVIL) + asked(GOOD),
    "an invalid request, and a good one": b"GET / HTTP/1.1\r\nHost : x\r\n\r\n" + asked(GOOD),
    "other authority": h2(EVIL),
    "second authority": h2(GOOD, EVIL),
    "first of two authorities": h2(EVIL, GOOD),
}


@FAMILIES
@pytest.mark.parametrize("segment", [1400, 7, 1])
@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_another_name_at_the_same_address_is_refused(data: bytes, segment: int, v6: bool) -> None:
    engine, made = bound(v6=v6), talk(v6).open().client(data, segment=segment)
    played = made.play(engine, DENIED)
    assert (played.outcomes[-1].verdict.action, played.outcomes[-1].verdict.reason) == BY_NAME
    assert played.outcomes[-1].verdict.rule_id == "good"
    if segment == 1400:
        assert played.passed(made.steps) == b""
    made.steps.clear()
    assert outcome(engine, made.client(asked(GOOD)), START + 1) == BY_NAME  # no later name lifts the refusal


PASSES = {
    "SNI": client_hello("Good.Example.TEST"),
    "SNI, beside it ECH that means nothing": ech_hello(GOOD),
    "Host": asked("GOOD.example.test:8080"),
    "Host with the root's dot": asked(f"{GOOD}."),
    "requests": asked(GOOD) * 3,
    "authority": h2(GOOD, f"{GOOD}:443"),
    "no protocol with names": b"SSH-2.0-OpenSSH_9.2\r\n",
}


@FAMILIES
@pytest.mark.parametrize("segment", [1400, 1])
@pytest.mark.parametrize("data", PASSES.values(), ids=PASSES)
def test_the_name_that_was_resolved_passes(data: bytes, segment: int, v6: bool) -> None:
    assert outcome(bound(v6=v6), talk(v6).open().client(data, segment=segment)) == ACCEPTED


def test_two_rules_of_one_address_each_with_its_name() -> None:
    rules = allow("good", GOOD), allow("other", "*.example.org")
    engine = bound(*rules)
    resolve(engine, DENIED, "www.example.org", ("www.example.org", SERVER4), sport=6000)
    hellos = {"good": GOOD, "other": "www.example.org"}
    for number, (rule_id, name) in enumerate(hellos.items()):
        played = talk(sport=number + 1).open().client(client_hello(name)).play(engine, DENIED)
        assert played.outcomes[-1].verdict.rule_id == rule_id
    assert outcome(engine, talk(sport=9).open().client(client_hello(EVIL))) == BY_NAME


def test_a_deny_by_name_speaks_at_the_answer_and_at_the_hello() -> None:
    deny = Rule("deny", Action.REJECT, destination="**.example.test")
    engine, free = Engine(Limits(), Policy(1, (deny,)), []), agent()
    played = talk(sport=1).open().client(client_hello(EVIL)).play(engine, free)
    assert [action is Action.ACCEPT for action in played.actions] == [True, True, True, False]
    verdict = resolve(engine, free, EVIL, (EVIL, SERVER4))
    assert (verdict.action, verdict.reason, verdict.rule_id) == (*BY_QUERY, "deny")
    resolve(engine, free, "x.org", ("x.org", EVIL), (EVIL, SERVER4), sport=6000)
    assert talk(sport=2).open().play(engine, free).actions == [Action.REJECT] * 3


def test_in_monitor_mode_a_wrong_name_is_written_down_and_passes() -> None:
    engine, watched = guarded(), agent(default=Action.REJECT, mode=Mode.MONITOR)
    resolve(engine, watched, GOOD, (GOOD, SERVER4))
    played = talk().open().client(asked(EVIL) + asked(GOOD)).play(engine, watched)
    assert set(played.actions) == {Action.ACCEPT}
    assert [record.reason for record in engine.shutdown(START + 9) if record.dst == SERVER4] == [Reason.NAME]  # type: ignore[union-attr]


def test_http_in_the_clear_never_settles_under_a_name_rule() -> None:
    engine = bound(limits=Limits(settle_bytes=4096))
    head = asked(GOOD, "POST / HTTP/1.1")[:-2] + b"Content-Length: 20000\r\n\r\n"
    made = talk(dport=80).open().client(head + bytes(20000))
    assert outcome(engine, made.client(asked(GOOD))) == ACCEPTED
    made.steps.clear()
    assert outcome(engine, made.client(asked(EVIL)), START + 1) == BY_NAME


# --- queries -------------------------------------------------------------------------------------------------


SPELLINGS = [GOOD, "gOOd.eXample.TEST", "www.cdn.example.test"]


@FAMILIES
@pytest.mark.parametrize("rtype", [A, AAAA, 65])
@pytest.mark.parametrize("name", SPELLINGS)
def test_queries_for_names_of_a_rule_pass_in_any_spelling(name: str, rtype: int, v6: bool) -> None:
    engine = guarded(allow("good", GOOD), allow("cdn", "*.cdn.example.test"))
    assert ask(engine, DENIED, question(name, rtype), v6=v6).action is Action.ACCEPT


@FAMILIES
@pytest.mark.parametrize("rtype", [A, AAAA, 16])
@pytest.mark.parametrize("name", [EVIL, f"secret.{GOOD}", "example.test", "", "good\0.example.test"])
def test_other_queries_are_refused(name: str, rtype: int, v6: bool) -> None:
    verdict = ask(guarded(), DENIED, question(name, rtype), v6=v6)
    assert (verdict.action, verdict.reason) == BY_QUERY
    assert ask(guarded(gate_queries=False), DENIED, question(name, rtype), v6=v6).action is Action.ACCEPT


UNREADABLE = {
    "bytes behind it": question(EVIL) + b"x",
    "an update": question(EVIL)[:2] + b"\x28" + question(EVIL)[3:],
    "two questions": question(EVIL)[:4] + b"\0\2" + question(EVIL)[6:] + question(EVIL)[12:],
    "no message": b"evil",
}


@pytest.mark.parametrize("message", UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_message_is_refused_like_a_query_for_any_name(message: bytes) -> None:
    """A resolver may still be able to read the message."""
    verdict = ask(guarded(), DENIED, message)
    assert (verdict.action, verdict.reason) == BY_QUERY
    made = Talk(remote=RESOLVER4, dport=53).open().client(framed(question(GOOD), message))
    assert outcome(guarded(), made) == BY_QUERY
    everything = allow("all", "any")
    assert ask(guarded(everything), DENIED, message).action is Action.ACCEPT
    assert ask(guarded(gate_queries=False), DENIED, message).action is Action.ACCEPT


def test_another_protocol_on_the_dns_port_is_no_query() -> None:
    engine = guarded(allow("ssh", SERVER4, ports=((53, 53),), app="ssh"))
    assert outcome(engine, talk(dport=53).open().client(b"SSH-2.0-OpenSSH_9.2\r\n")) == ACCEPTED


@pytest.mark.parametrize("segment", [1400, 1])
def test_a_refused_query_over_tcp_never_leaves_whole(segment: int) -> None:
    engine = guarded()
    made = Talk(remote=RESOLVER4, dport=53).open().client(framed(question(GOOD), question(EVIL)), segment=segment)
    played = made.play(engine, DENIED)
    assert played.outcomes[-1].verdict.reason is Reason.QUERY
    assert question(EVIL) not in played.passed(made.steps)


@pytest.mark.parametrize("acknowledged", [True, False])
def test_a_connection_to_the_resolver_never_settles(acknowledged: bool) -> None:
    engine = guarded(limits=Limits(settle_bytes=4096))
    made = Talk(remote=RESOLVER4, dport=53).open()
    for _ in range(40):
        made.client(framed(question(GOOD)) * 10)
        if acknowledged:
            made.server(framed(reply(GOOD, (GOOD, SERVER4))))
    assert outcome(engine, made) == ACCEPTED
    (flow,) = engine._tracker.flows()
    assert flow.streams is not None and (len(flow.streams[OUT].history) < 1400) is acknowledged
    made.steps.clear()
    assert outcome(engine, made.client(framed(question(EVIL))), START + 1) == BY_QUERY
