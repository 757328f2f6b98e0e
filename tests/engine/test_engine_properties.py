"""Properties that hold for every input: order and segmentation change nothing, nothing raises, memory stays bounded."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egress.engine.outcome import Outcome
from egress.limits import Limits
from egress.model import Action, Direction, Mode
from egress.records.shape import Record
from tests.examples import examples
from tests.traffic import AGENT4, AGENT6, SERVER4, SERVER6, START, Step, Talk, agent, echo, engine, play, tcp, udp

MESSAGES = [
    b'{"id": 1, "method": "mining.subscribe", "params": ["cgminer/4.11"]}\n',
    b'{"id":1,"jsonrpc":"2.0","method":"login","params":{"login":"4'
    + b"A" * 94
    + b'","pass":"x","agent":"XMRig/6.21"}}\n',
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"hello, there\r\nSSH-2.0-Go\r\n",
    b"GET / HTTP/1.1\r\nHost: www.example.org\r\n\r\n",
    b'{"jsonrpc":"2.0","id":1,"method":"eth_blockNumber","params":[]}\n',
    b"EHLO mail.example.org\r\n",
]


@pytest.mark.slow
@given(st.sampled_from(MESSAGES), st.integers(0, 10**6))
def test_segmentation_retransmission_and_order_never_change_the_findings(message: bytes, seed: int) -> None:
    plain = Talk().open().client(message).play(engine(), agent()).signatures
    rng = random.Random(seed)
    talk = Talk().open()
    cuts = sorted(rng.sample(range(1, len(message)), rng.randrange(0, 6)))
    parts = [(a, message[a:b]) for a, b in zip([0, *cuts], [*cuts, len(message)], strict=True)]
    parts += [rng.choice(parts) for _ in range(2)]
    rng.shuffle(parts)
    for offset, part in parts:
        talk.raw_client(offset, part)
    assert talk.play(engine(), agent()).signatures == plain


@pytest.mark.slow
@given(st.sampled_from(MESSAGES))
def test_extra_ticks_change_nothing(message: bytes) -> None:
    plain = Talk().open().client(message, segment=5).play(engine(), agent())
    judge, who, ts, outcomes = engine(), agent(), START, []
    for step in Talk().open().client(message, segment=5).steps:
        ts += step.gap
        for _ in range(3):
            assert judge.tick(ts) == ()
        outcomes.append(judge.packet(step.raw, ts, who, step.direction))
    assert outcomes == plain.outcomes


def garbage(rng: random.Random) -> bytes:
    """Return a packet that is valid, nearly valid or noise."""
    local, remote = rng.choice([(AGENT4, SERVER4), (AGENT6, SERVER6)])
    data = rng.choice([*MESSAGES, rng.randbytes(rng.randrange(0, 300)), b""])
    kind = rng.randrange(5)
    if kind == 0:
        raw = tcp(
            local, remote, rng.randrange(3), rng.choice([22, 80, 443]), rng.randrange(64), rng.randrange(5000), 0, data
        )
    elif kind == 1:
        raw = udp(local, remote, rng.randrange(3), rng.choice([53, 443, 9]), data)
    elif kind == 2:
        raw = echo(AGENT4, SERVER4, rng.randrange(3), data, rng.randrange(20))
    elif kind == 3:
        raw = struct.pack("!BBHHHBBH", 0x45, 0, 24, 0, 0, 9, rng.randrange(256), 0) + rng.randbytes(12)
    else:
        raw = rng.randbytes(rng.randrange(0, 120))
    changed = bytearray(raw)
    for _ in range(rng.choice([0, 0, 0, 1, 4])):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def run(seed: int, count: int, **limits: int) -> tuple[list[Outcome], list[Record], int]:
    rng = random.Random(seed)
    judge = engine(limits=Limits(**limits))
    who = [agent(), agent(name="b1", mode=Mode.MONITOR), agent(name="c1", default=Action.REJECT)]
    ts, most, outcomes = START, 0, []
    ticked: list[Record] = []
    for _ in range(count):
        ts += rng.choice([0.0, 0.001, 0.5, 30.0, -5.0])
        if judge.next_tick() <= ts:
            ticked += judge.tick(ts)
        raw = garbage(rng)
        cut = raw[: rng.randrange(20, 200)] if rng.random() < 0.1 else raw
        outcomes.append(judge.packet(cut, ts, rng.choice(who), Direction(rng.randrange(2)), len(raw)))
        most = max(most, judge.stats()["buffered_bytes"])
    ticked += judge.shutdown(ts)
    assert judge.stats()["live_flows"] == judge.stats()["buffered_bytes"] == 0
    return outcomes, ticked, most


@pytest.mark.slow
@settings(max_examples=examples(25), deadline=None)
@given(st.integers(0, 2**32))
def test_no_packet_raises_and_memory_is_bounded(seed: int) -> None:
    _, _, most = run(seed, 400, max_flows=30, max_flows_agent=12, max_buffered=50_000, settle_bytes=4000)
    assert most <= 3 * 50_000


@pytest.mark.slow
@settings(max_examples=examples(5), deadline=None)
@given(st.integers(0, 2**32))
def test_equal_input_gives_equal_records(seed: int) -> None:
    assert run(seed, 200) == run(seed, 200)


@pytest.mark.slow
@given(st.lists(st.sampled_from(MESSAGES), min_size=1, max_size=4), st.integers(1, 50))
def test_an_enforced_refusal_is_final(messages: list[bytes], segment: int) -> None:
    talk = Talk().open()
    for message in messages:
        talk.client(message, segment=segment)
    actions = play(engine(), agent(), [Step(step.raw, step.direction, 0.001) for step in talk.steps]).actions
    if Action.REJECT in actions:
        assert set(actions[actions.index(Action.REJECT) :]) == {Action.REJECT}
