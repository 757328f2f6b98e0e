"""What waits for a person is kept in order, within bounds, and comes out once."""

from __future__ import annotations

from typing import cast

from hypothesis import given
from hypothesis import strategies as st
from netfilterqueue import Packet as QueuedPacket

from egress.gateway.worker.waiting import PACKETS, PACKETS_OF_AGENT, PACKETS_OF_HOLD, SHARE, Kept, Waiting


def kept(number: int, agent: str = "a") -> Kept:
    return Kept(cast(QueuedPacket, object()), number.to_bytes(4), agent, settled=False)


steps = st.lists(st.tuples(st.sampled_from(["keep", "keep", "keep", "release"]), st.sampled_from("abcdefgh")))


@given(steps, st.integers(1, 60))
def test_whatever_comes_it_keeps_within_its_bounds_and_gives_each_back_once(
    taken: list[tuple[str, str]], length: int
) -> None:
    waiting, there, refused = Waiting(length), dict[str, list[Kept]](), 0
    for number, (step, hold) in enumerate(taken):
        if step == "release":
            assert waiting.release(hold) == there.pop(hold, [])
            continue
        packet, total = kept(number), sum(map(len, there.values()))
        room = total < length // SHARE and len(there.get(hold, [])) < PACKETS_OF_HOLD
        assert waiting.keep(hold, packet) is room
        refused += not room
        if room:
            there.setdefault(hold, []).append(packet)
    assert waiting.packets == sum(map(len, there.values()))
    assert waiting.overflowed == refused
    assert [waiting.release(hold) for hold in "abcdefgh"] == [there.get(hold, []) for hold in "abcdefgh"]
    assert waiting.packets == 0


def test_a_long_queue_is_not_filled_with_what_waits() -> None:
    waiting = Waiting(1 << 20)
    found = [waiting.keep(str(number // 8), kept(number, str(number // 100))) for number in range(PACKETS + 10)]
    assert found == [True] * PACKETS + [False] * 10


def test_one_agent_leaves_room_for_others() -> None:
    waiting = Waiting(1 << 20)
    found = [waiting.keep(str(number), kept(number)) for number in range(PACKETS_OF_AGENT + 10)]
    assert found == [True] * PACKETS_OF_AGENT + [False] * 10
    assert waiting.keep("other", kept(0, "b"))
    waiting.release("0")
    assert waiting.keep("again", kept(1))
    assert not waiting.keep("more", kept(2))
