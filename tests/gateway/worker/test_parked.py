"""Parked packets stay in order, within bounds, and come out once."""

from __future__ import annotations

from typing import cast

from hypothesis import given
from hypothesis import strategies as st
from netfilterqueue import Packet as QueuedPacket

from egress.gateway.worker.parked import HOLDS, NEVER, SHARE, Bounds, Parked, ParkedPacket, for_holds
from egress.gateway.worker.queue import PacketQueue

QUEUE = cast(PacketQueue, object())


def packet(number: int, agent: str = "a", until: float = NEVER) -> ParkedPacket:
    return ParkedPacket(cast(QueuedPacket, object()), agent, QUEUE, raw=number.to_bytes(4), until=until)


steps = st.lists(st.tuples(st.sampled_from(["park", "park", "park", "release"]), st.sampled_from("abcdefgh")))


@given(steps, st.integers(1, 60))
def test_packets_are_parked_within_bounds_and_released_once(taken: list[tuple[str, str]], length: int) -> None:
    parked, there, refused = for_holds(length), dict[str, list[ParkedPacket]](), 0
    for number, (step, hold) in enumerate(taken):
        if step == "release":
            assert parked.release(hold) == there.pop(hold, [])
            continue
        one, total = packet(number), sum(map(len, there.values()))
        room = total < length // SHARE and len(there.get(hold, [])) < HOLDS.key
        assert parked.park(hold, one) is room
        refused += not room
        if room:
            there.setdefault(hold, []).append(one)
    assert parked.packets == sum(map(len, there.values()))
    assert parked.overflowed == refused
    assert [parked.release(hold) for hold in "abcdefgh"] == [there.get(hold, []) for hold in "abcdefgh"]
    assert parked.packets == 0


def test_a_long_queue_is_not_filled_with_parked_packets() -> None:
    parked = for_holds(1 << 20)
    found = [parked.park(str(number // 8), packet(number, str(number // 100))) for number in range(HOLDS.total + 10)]
    assert found == [True] * HOLDS.total + [False] * 10


def test_one_agent_leaves_room_for_others() -> None:
    parked = for_holds(1 << 20)
    found = [parked.park(str(number), packet(number)) for number in range(HOLDS.agent + 10)]
    assert found == [True] * HOLDS.agent + [False] * 10
    assert parked.park("other", packet(0, "b"))
    parked.release("0")
    assert parked.park("again", packet(1))
    assert not parked.park("more", packet(2))


def test_the_oldest_key_is_due_first() -> None:
    parked = Parked(Bounds(total=8, agent=8, key=2))
    assert parked.due == NEVER
    assert all(parked.park(key, packet(0, until=until)) for key, until in (("a", 3.0), ("b", 4.0), ("a", 5.0)))
    assert (parked.oldest(), parked.due) == ("a", 3.0)
    assert not parked.park("a", packet(1))
    assert len(parked.release("a")) == 2
    assert (parked.oldest(), parked.due, parked.packets) == ("b", 4.0, 1)
