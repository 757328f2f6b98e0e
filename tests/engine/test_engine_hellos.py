"""TLS and QUIC hellos under name rules: ECH beside or in place of the name, and connections that begin anew."""

from __future__ import annotations

import pytest

from egress.engine.engine import Engine
from egress.model import UDP, Action, Direction, Reason, Rule
from egress.wire.quickeys import V1, V2
from tests.engine.resolver import resolve
from tests.engine.test_engine_names import (
    ACCEPTED,
    BY_NAME,
    DENIED,
    EVIL,
    FAMILIES,
    GOOD,
    NAMELESS,
    Short,
    allow,
    asked,
    bound,
    ech_hello,
    guarded,
    outcome,
    server,
    talk,
)
from tests.traffic import AGENT4, AGENT6, SERVER4, START, client_hello, udp
from tests.wire.test_quic import Client, crypto, hello
from tests.wire.test_quic_versions import negotiation

OUT, IN = Direction.OUT, Direction.IN
COVERED = ech_hello("Cloudflare-ECH.com")  # an encrypted hello to any site of that operator


@pytest.mark.parametrize("data", [NAMELESS, ech_hello(GOOD), COVERED, b"GET / HTTP/1.0\r\n\r\n"])
def test_an_unnamed_rule_passes_what_hides_its_name(data: bytes) -> None:
    assert outcome(bound(allow("good", GOOD, unnamed=True)), talk().open().client(data)) == ACCEPTED


@pytest.mark.parametrize("data", [client_hello(EVIL), ech_hello(EVIL), client_hello("cloudflare-ech.com"), asked(EVIL)])
def test_an_unnamed_rule_does_not_pass_another_name(data: bytes) -> None:
    assert outcome(bound(allow("good", GOOD, unnamed=True)), talk().open().client(data)) == BY_NAME


def test_a_rule_for_the_name_of_an_ech_operator_admits_its_encrypted_hellos_only_if_unnamed() -> None:
    front, hello = "cloudflare-ech.com", COVERED
    for unnamed, end in ((False, BY_NAME), (True, ACCEPTED)):
        engine = guarded(allow("front", front, unnamed=unnamed))
        resolve(engine, DENIED, front, (front, SERVER4))
        assert outcome(engine, talk().open().client(hello)) == end
        if not unnamed:
            assert outcome(engine, talk(sport=2).open().client(client_hello(front))) == ACCEPTED
    deny = Rule("deny", Action.REJECT, destination=front)
    assert outcome(bound(allow("good", GOOD, unnamed=True), deny), talk().open().client(hello))[0] is Action.REJECT


def test_ech_may_be_refused_altogether() -> None:
    for unnamed, end in ((False, BY_NAME), (True, ACCEPTED)):
        engine = guarded(allow("good", GOOD, unnamed=unnamed), refuse_ech=True)
        resolve(engine, DENIED, GOOD, (GOOD, SERVER4))
        assert outcome(engine, talk().open().client(ech_hello(GOOD))) == end
        assert outcome(engine, talk(sport=2).open().client(client_hello(GOOD))) == ACCEPTED


# --- QUIC ----------------------------------------------------------------------------------------------------


def initial(name: str, keys_of: bytes = bytes(range(8))) -> bytes:
    return Client(keys_of).seal(crypto(0, hello(name.encode())).ljust(1162, b"\0"))


def quic(engine: Engine, v6: bool, *datagrams: bytes, sport: int = 50000) -> list[Short]:
    local, found = (AGENT6 if v6 else AGENT4), []
    for number, data in enumerate(datagrams):
        raw = udp(local, server(v6), sport, 443, data)
        verdict = engine.packet(raw, START + number / 100, DENIED, OUT).verdict
        found.append((verdict.action, verdict.reason))
    return found


SHORT = b"\x40" + bytes(60)  # a packet of a QUIC connection at work


@FAMILIES
def test_quic_is_refused_at_the_initial_with_another_name(v6: bool) -> None:
    assert quic(bound(v6=v6), v6, initial(GOOD), *[SHORT] * 30) == [ACCEPTED] * 31
    assert quic(bound(v6=v6), v6, initial(EVIL), SHORT) == [BY_NAME] * 2
    assert quic(bound(v6=v6), v6, initial("")) == [BY_NAME]
    assert quic(bound(v6=v6), v6, initial(GOOD)[:-1] + b"x") == [BY_NAME]  # no key opens it


@FAMILIES
def test_quic_that_begins_again_after_version_negotiation(v6: bool) -> None:
    for name, end in ((GOOD, ACCEPTED), (EVIL, BY_NAME)):
        engine, local = bound(v6=v6), AGENT6 if v6 else AGENT4
        steps = [
            (OUT, Client(version=V2).seal(crypto(0, hello(GOOD.encode())).ljust(1162, b"\0"))),
            (IN, negotiation(V1)),
            (OUT, initial(name)),
        ]
        for number, (direction, data) in enumerate(steps):
            ends = (local, server(v6), 50000, 443) if direction is OUT else (server(v6), local, 443, 50000)
            verdict = engine.packet(udp(*ends, data), START + number, DENIED, direction).verdict
        assert (verdict.action, verdict.reason) == end


@FAMILIES
@pytest.mark.parametrize("first", [initial(GOOD), b"\x17hello", b"\0"], ids=["QUIC", "junk", "a byte"])
def test_quic_that_begins_on_a_settled_flow_is_still_read(v6: bool, first: bytes) -> None:
    """Datagrams that a QUIC server discards must not end the inspection."""
    engine = bound(v6=v6)
    verdicts = quic(engine, v6, first, *[SHORT] * 20, initial(EVIL, bytes(8)), SHORT, initial(GOOD))
    assert verdicts == [ACCEPTED] * 21 + [BY_NAME] * 3
    (flow,) = [flow for flow in engine._tracker.flows() if flow.proto == UDP and flow.rport == 443]
    assert flow.verdict.reason is Reason.NAME
