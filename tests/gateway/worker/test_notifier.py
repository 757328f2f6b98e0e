"""Refusals wait for the look-up, for a moment, and each is answered exactly once."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import pytest
from netfilterqueue import Packet as QueuedPacket

from egress.gateway.pipe.note import MAX_NOTE, parse
from egress.gateway.worker.notifier import MAX_KEPT, MAX_KEPT_AGENT, PATIENCE, Asking, Kept
from egress.model import Action
from tests.store import samples

FIRST = replace(samples.FLOW, updated=samples.START, packets_out=0, packets_in=0)


class Bench:
    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.answered: list[tuple[object, int, bool]] = []
        self.asking = Asking([ours.detach()], self._answer)

    def _answer(self, kept: Kept) -> None:
        self.answered.append((kept.packet, kept.mark, kept.settled))

    def keep(self, flow_id: str, agent: str = "a") -> bool:
        return self.asking.keep(flow_id, agent, cast(QueuedPacket, flow_id), 5, settled=False)

    def close(self) -> None:
        self.theirs.close()
        assert self.asking.socket is not None
        self.asking.socket.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def test_only_a_refusal_of_a_new_flow_may_wait(bench: Bench) -> None:
    assert bench.asking.tell([FIRST], 7) == FIRST.flow_id
    note = parse(bench.theirs.recv(MAX_NOTE))
    assert note is not None and note.flow_id == FIRST.flow_id and note.waits
    assert bench.asking.tell([replace(FIRST, action=Action.ACCEPT)], 7) == ""
    assert bench.asking.tell([samples.FLOW, samples.FINDING], 7) == ""
    assert bench.asking.counters() == {"told": 2, "dropped": 0, "vain": 0}


def test_it_is_answered_once_its_flow_was_looked_up(bench: Bench) -> None:
    assert bench.keep("one") and bench.keep("two")
    for word in ("two", "two", "nobody's", "\xff"):
        bench.theirs.send(word.encode("latin-1"))
    bench.asking.read()
    assert bench.answered == [("two", 5, False)]
    bench.asking.expire(all_of_them=True)
    assert [packet for packet, *_ in bench.answered] == ["two", "one"]
    assert bench.asking.due == float("inf")


def test_what_waits_in_vain_is_answered_and_the_next_ones_do_not_wait(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    assert bench.keep("one")
    bench.asking.expire()
    assert bench.answered == []
    clock = bench.asking.due
    bench.asking.expire()
    assert len(bench.answered) == 1 and bench.asking.counters()["vain"] == 1
    assert not bench.keep("two") and bench.keep("three", "another agent")
    clock += 1.0 + PATIENCE
    bench.asking.expire()
    assert bench.keep("four")


def test_what_waits_is_bounded(bench: Bench) -> None:
    kept = [bench.keep(f"{agent}-{number}", str(agent)) for agent in range(8) for number in range(MAX_KEPT_AGENT + 1)]
    assert kept.count(True) == MAX_KEPT == 4 * MAX_KEPT_AGENT
    assert not bench.keep("0-0", "0")
    bench.asking.expire(all_of_them=True)
    assert len(bench.answered) == MAX_KEPT and bench.keep("again")


def test_a_closed_or_absent_socket_keeps_nothing_from_going_on(bench: Bench) -> None:
    bench.theirs.close()
    bench.asking.read()
    silent = Asking((), bench.answered.append)  # type: ignore[arg-type]
    assert silent.tell([FIRST], 7) == "" and silent.socket is None
