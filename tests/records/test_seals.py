"""Seals: they follow from the lines and from each other; hostile lines are followed without an exception."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from egress.records.eve import line
from egress.records.seals import LEAF_BYTES, MAX_LEAVES, START, SegmentFollower, digest, key, leaf, sealed
from egress.records.shape import SealRecord, SealState
from tests.store import samples

FLOW, ANOMALY = line(samples.FLOW)[:-1], line(samples.ANOMALY)[:-1]
OPENED = sealed(replace(samples.SEAL, number=1, state=SealState.OPENED, lines=0, start=samples.SEAL.time), b"")


def following(last: SealRecord, *lines: bytes, **fields: object) -> SealRecord:
    leaves = b"".join(map(leaf, lines))
    made = replace(last, number=last.number + 1, previous=last.digest, state=SealState.RUNNING, lines=len(lines))
    return sealed(replace(made, **fields), leaves)  # type: ignore[arg-type]


def raw(seal: SealRecord) -> bytes:
    return line(seal)[:-1]


def test_a_key_is_the_flow_or_the_kind_of_record() -> None:
    assert key(FLOW) == bytes.fromhex(samples.FLOW.flow_id)
    assert key(ANOMALY) == b"anomaly\0" and key(line(samples.FINDING)) == b"alert\0\0\0"
    assert key(line(samples.PROCESS)) == b"process\0"
    assert len(leaf(FLOW)) == LEAF_BYTES and leaf(FLOW)[:8] == key(FLOW)


def test_every_field_of_a_seal_is_part_of_its_digest() -> None:
    changed = {
        "chain": "00000000000000c2", "number": 8, "time": 1.0, "start": 1.0, "host": "x", "writer": "x", "segment": "x",
        "state": SealState.CLOSED, "lines": 2, "lost": 1, "gap": "x", "previous": "1" * 64,
    }  # fmt: skip
    assert set(changed) == set(SealRecord.__slots__) - {"digest"}
    found = {digest(replace(samples.SEAL, **{name: value}), b"x") for name, value in changed.items()}  # type: ignore[arg-type]
    assert len(found | {digest(samples.SEAL, b"x"), digest(samples.SEAL, b"y")}) == len(changed) + 2


def test_a_chain_is_followed_and_each_break_is_named() -> None:
    second = following(OPENED, FLOW, ANOMALY)
    third = following(second)
    follower = SegmentFollower()
    found = [follower.line(each) for each in (raw(OPENED), FLOW, ANOMALY, raw(second), raw(third))]
    assert [each and each.wrong for each in found] == ["", None, None, "", ""]
    broken = {
        "does not match the lines": (raw(OPENED), FLOW, raw(second)),
        "does not match": (raw(OPENED), ANOMALY, FLOW, raw(second)),
        "does not follow seal 1": (raw(OPENED), raw(third)),
        "does not open it": (raw(second),),
        "does not follow": (raw(OPENED), FLOW, ANOMALY, raw(replace(second, previous=START))),
    }
    for text, lines in broken.items():
        follower = SegmentFollower()
        *_, last = [follower.line(each) for each in lines]
        assert last is not None and text in last.wrong


def test_a_tail_follows_from_the_lines_alone() -> None:
    one, two = SegmentFollower(), SegmentFollower()
    for follower in (one, two):
        assert follower.tail() is None
        for each in (raw(OPENED), FLOW):
            follower.line(each)
    tail = one.tail()
    assert tail == two.tail() and tail is not None
    assert (tail.seal.number, tail.seal.lines, tail.seal.state, tail.seal.time) == (
        2,
        1,
        SealState.TAIL,
        samples.FLOW.updated,
    )
    assert tail.seal.digest == digest(tail.seal, tail.leaves)


def test_lines_that_are_never_sealed_take_bounded_memory() -> None:
    follower = SegmentFollower()
    follower.line(raw(OPENED))
    for _ in range(MAX_LEAVES + 10):
        follower.line(b"x")
    tail = follower.tail()
    assert tail is not None and tail.seal.lines == MAX_LEAVES
    found = follower.line(raw(following(OPENED, FLOW)))
    assert found is not None and found.wrong


_start = b'{"timestamp":"2026-11-23T15:06:02.123456Z","event_type":"'
_hostile = st.one_of(
    st.binary(max_size=120),
    st.sampled_from([b"seal", b"flow", b'flow","flow_id":"zz', b"anomaly"]).map(lambda kind: _start + kind + b'"}'),
    st.sampled_from([raw(OPENED), FLOW, ANOMALY, raw(following(OPENED, FLOW))]),
    st.tuples(st.integers(0, len(raw(OPENED)) - 1), st.binary(max_size=2)).map(
        lambda cut: raw(OPENED)[: cut[0]] + cut[1] + raw(OPENED)[cut[0] + 1 :]
    ),
)


@given(st.lists(_hostile, max_size=20))
def test_any_lines_are_followed(lines: list[bytes]) -> None:
    follower = SegmentFollower()
    for each in lines:
        follower.line(each.replace(b"\n", b""))
        follower.tail()
    assert follower.lines == len(lines)
