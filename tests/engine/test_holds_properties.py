"""Mode ask under random packets, answers, edits and ticks, in any order."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egress.engine.engine import Engine
from egress.engine.outcome import Outcome
from egress.errors import MalformedError
from egress.limits import Limits
from egress.model import Action, Direction, Mode, Policy, Rule
from egress.wire.packet import decode
from tests.engine.keeper import Keeper
from tests.engine.resolver import AAAA, RESOLVER4, A, framed, question
from tests.engine.test_engine_properties import garbage
from tests.engine.test_holds import ASKER, DNS, NAME, OTHER, OUT, allow, query, syn
from tests.examples import examples
from tests.traffic import SERVER4, SERVER6, START, Talk

RULES = [DNS, allow("net", "203.0.113.0/24"), allow("v6", SERVER6, once=True), allow("x", "*.test")]
RULES += [allow("udp", protocol="udp"), Rule("no", Action.REJECT, destination=SERVER4, ports=((1, 100),))]
RULES += [allow("one", SERVER4, once=True)]


def sent(rng: random.Random) -> bytes:
    kind = rng.randrange(4)
    if kind == 0:
        return query(rng.choice([NAME, OTHER, "a b", "x"]), rng.choice([A, AAAA]), rng.randrange(3))
    if kind == 1:
        talk = Talk(rng.randrange(2), 53, remote=RESOLVER4).open().client(framed(question(NAME)), segment=20)
        return rng.choice([step.raw for step in talk.steps if step.direction is OUT])
    return syn(rng.randrange(3), rng.choice([22, 443, 444, 445])) if kind == 2 else garbage(rng)


def storm(seed: int, steps: int = 150) -> tuple[Keeper, list[Outcome]]:
    rng = random.Random(seed)
    gate = Keeper(Engine(Limits(ask_holds=4, max_flows_agent=12), Policy(1, (DNS,)), []))
    live: dict[str, Rule] = {DNS.id: DNS}
    who, ts = ASKER, START
    seen: list[Outcome] = []
    for _ in range(steps):
        ts += rng.choice([0.0, 0.01, 1.0, 40.0])
        raw, direction = sent(rng), Direction(rng.randrange(8) == 0)
        waits = gate.engine.hold_of(raw, who, direction) if direction is OUT and _decodes(raw) else ""
        outcome = gate.packet(raw, ts, who, direction)
        seen.append(outcome)
        if waits in gate.engine.holds:
            assert outcome.verdict.action is not Action.ACCEPT
        assert len(gate.engine.holds) <= 4 and gate.engine.next_tick() <= min(
            (hold.until for hold in gate.engine.holds.values()), default=float("inf")
        )
        act = rng.randrange(12)
        if act == 0 and gate.engine.holds:
            seen += gate.refuse(ts, rng.choice(list(gate.engine.holds)))
        elif act == 1:
            rule = rng.choice(RULES)
            known = rule.id in live
            seen += gate.change(ts, *([] if known else [rule]), removed=(rule.id,) if known else ())
            live = {key: each for key, each in live.items() if key != rule.id} | ({} if known else {rule.id: rule})
        elif act == 2:
            gate.version += 1
            gate.records += gate.engine.set_policy(Policy(gate.version, tuple(live.values())), ts)
        elif act == 3:
            who = replace(ASKER, mode=rng.choice(list(Mode)), quarantined=rng.random() < 0.3)
            gate.engine.change_agent(who, ts)
        elif act == 4 and rng.random() < 0.2:
            gate.records += gate.engine.release("a1", ts)
        if gate.engine.next_tick() <= ts:
            gate.records += gate.engine.tick(ts)
        seen += gate.settle(ts, who)
    gate.records += gate.engine.shutdown(ts)
    stats = gate.engine.stats()
    assert (stats["waiting"], stats["live_flows"], stats["buffered_bytes"]) == (0, 0, 0)
    return gate, seen


def _decodes(raw: bytes) -> bool:
    try:
        decode(raw, max(len(raw), 0xFFFF))
    except MalformedError:
        return False
    return True


@pytest.mark.slow
@settings(max_examples=examples(40), deadline=None)
@given(st.integers(0, 2**32))
def test_nothing_raises_holds_stay_few_and_no_packet_passes_while_its_flow_waits(seed: int) -> None:
    storm(seed)


@pytest.mark.slow
@settings(max_examples=examples(5), deadline=None)
@given(st.integers(0, 2**32))
def test_equal_input_gives_equal_records(seed: int) -> None:
    (one, seen), (two, again) = storm(seed), storm(seed)
    assert (one.records, one.states, seen) == (two.records, two.states, again)


def test_the_storm_ends_holds_in_every_way() -> None:
    """Check that the scenarios of the two tests above are reached."""
    states = {state for seed in range(12) for state in storm(seed)[0].states}
    assert states == {"approved", "denied", "expired", "withdrawn"}
