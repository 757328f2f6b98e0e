"""Refusals wait briefly for the look-up, and each is answered exactly once."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import pytest
from netfilterqueue import Packet as QueuedPacket

from egress.gateway.pipe.note import MAX_NOTE, parse
from egress.gateway.worker.notifier import PATIENCE, Notifier
from egress.gateway.worker.parked import REFUSALS, ParkedPacket
from egress.gateway.worker.queue import PacketQueue
from egress.model import Action
from tests.store import samples

QUEUE = cast(PacketQueue, object())
FIRST = replace(samples.FLOW, updated=samples.START, packets_out=0, packets_in=0)


class Bench:
    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.answered: list[tuple[object, int, object]] = []
        self.notifier = Notifier([ours.detach()], self._answer)

    def _answer(self, refusal: ParkedPacket) -> None:
        self.answered.append((refusal.packet, refusal.mark, refusal.queue))

    def park(self, flow_id: str, agent: str = "a") -> bool:
        return self.notifier.park(flow_id, ParkedPacket(cast(QueuedPacket, flow_id), agent, QUEUE, mark=5))

    def close(self) -> None:
        self.theirs.close()
        assert self.notifier.socket is not None
        self.notifier.socket.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def test_only_a_refusal_of_a_new_flow_may_wait(bench: Bench) -> None:
    assert bench.notifier.send([FIRST], 7) == FIRST.flow_id
    note = parse(bench.theirs.recv(MAX_NOTE))
    assert note is not None and note.flow_id == FIRST.flow_id and note.waits
    assert bench.notifier.send([replace(FIRST, action=Action.ACCEPT)], 7) == ""
    assert bench.notifier.send([samples.FLOW, samples.FINDING], 7) == ""
    assert bench.notifier.counters() == {"told": 2, "dropped": 0, "vain": 0}


def test_it_is_answered_once_its_flow_was_looked_up(bench: Bench) -> None:
    assert bench.park("one") and bench.park("two")
    for word in ("two", "two", "nobody's", "\xff"):
        bench.theirs.send(word.encode("latin-1"))
    bench.notifier.read()
    assert bench.answered == [("two", 5, QUEUE)]
    bench.notifier.flush()
    assert [packet for packet, *_ in bench.answered] == ["two", "one"]
    assert bench.notifier.due == float("inf")


def test_what_waits_in_vain_is_answered_and_the_next_ones_do_not_wait(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    assert bench.park("one")
    bench.notifier.expire()
    assert bench.answered == []
    clock = bench.notifier.due
    bench.notifier.expire()
    assert len(bench.answered) == 1 and bench.notifier.counters()["vain"] == 1
    assert not bench.park("two") and bench.park("three", "another agent")
    clock += 1.0 + PATIENCE
    bench.notifier.expire()
    assert bench.park("four")


def test_what_waits_is_bounded(bench: Bench) -> None:
    parked = [bench.park(f"{agent}-{number}", str(agent)) for agent in range(8) for number in range(REFUSALS.agent + 1)]
    assert parked.count(True) == REFUSALS.total == 4 * REFUSALS.agent
    assert not bench.park("0-0", "0")
    bench.notifier.flush()
    assert len(bench.answered) == REFUSALS.total and bench.park("again")


def test_a_closed_or_absent_socket_keeps_nothing_from_going_on(bench: Bench) -> None:
    bench.theirs.close()
    bench.notifier.read()
    silent = Notifier((), bench.answered.append)  # type: ignore[arg-type]
    assert silent.send([FIRST], 7) == "" and silent.socket is None
