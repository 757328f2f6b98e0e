"""The worker without queues: orders, and packets on hold. The queues are real in test_queue and tests/lab."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from netfilterqueue import Packet as QueuedPacket

from egress.config import Config, Journal
from egress.errors import EgressError
from egress.gateway.pipe.lines import LineReader, LineWriter
from egress.gateway.pipe.messages import JournalGrant, Settings, Setup, Watched, encode
from egress.gateway.worker.__main__ import listen
from egress.gateway.worker.notifier import Notifier
from egress.gateway.worker.parked import HOLDS
from egress.gateway.worker.queue import PacketQueue
from egress.gateway.worker.worker import OVERRUN_SECONDS, Worker
from egress.limits import Limits
from egress.model import SYN, Action, Agent, Mode, Rule
from egress.records.read import parse_line
from egress.records.seals import is_seal
from egress.records.shape import FindingRecord
from egress.store.recording.seals import parse_record
from tests.engine.resolver import question
from tests.traffic import AGENT4, NETWORKS, SERVER4, agent, tcp, udp

ASKING = agent(mode=Mode.ASK, default=Action.REJECT)
INTERFACE = 5
RESOLVER = Rule("dns", Action.ACCEPT, destination="10.0.0.1", ports=((53, 53),), app="dns")
REFUSED, PASSED, WAITS = "refused", "passed", "waits"


class Queued:
    """A queued packet, and the answers to it."""

    def __init__(self, indev: int) -> None:
        self.indev, self.outdev, self.mark = indev, 9, 0x70000000
        self.answers: list[str] = []

    def set_mark(self, mark: int) -> None:
        assert mark & 0xF0FFFFFF == 0x70000000, "the bits of others stay"
        self.mark = mark

    def get_hw(self) -> bytes:
        return b"\2\0\0\0\0\1\0\0"

    def accept(self) -> None:
        self.answers.append(REFUSED if self.mark & 0x0E000000 == 0x02000000 else PASSED)

    def drop(self) -> None:
        self.answers.append("dropped")


class Bench:
    """A worker, the messages it sent, and packets for it."""

    def __init__(self, directory: Path, *agents: Agent, on_full: str = "refuse", **limits: float) -> None:
        directory.mkdir(exist_ok=True)
        bounds: dict[str, float] = {"ask_names": 0, "ask_cooldown": 0.0} | limits
        changed = dataclasses.replace(Limits(), **bounds)  # type: ignore[arg-type]
        config = Config(state_dir=directory, limits=changed, journal=Journal(on_full=on_full))
        config.journal_dir.mkdir(exist_ok=True)
        self.agents = agents or (ASKING,)
        watched = tuple(Watched(each, INTERFACE + place, 2 * place) for place, each in enumerate(self.agents))
        self.said: list[dict[str, Any]] = []
        self.reads = True
        self.worker = Worker(
            Setup(Settings.of(config, "nobody"), 0, os.getpid(), watched, JournalGrant(1 << 30)), self._say
        )
        self.queue = PacketQueue(0, self.worker.judge, self.worker.failed, mark_mask=config.mark_mask)

    def _say(self, message: dict[str, object]) -> bool:
        if self.reads:
            self.said.append(json.loads(encode(message)))
        return self.reads

    def order(self, op: str, **fields: object) -> None:
        self.worker.order(json.loads(encode({"op": op, **fields})))
        self.worker.resume()

    def change(self, *added: Rule, base: int, version: int, removed: tuple[str, ...] = ()) -> None:
        for rule in added:
            self.order("policy.part", removed=(), added=(rule,))
        self.order("policy.part", removed=removed, added=())
        self.order("policy.commit", base=base, version=version)

    def send(self, raw: bytes, interface: int = INTERFACE) -> Queued:
        queued = Queued(interface)
        self.queue.judge(cast(QueuedPacket, queued), raw)
        self.worker.resume()
        return queued

    def reports(self) -> list[tuple[str, str]]:
        """The reports about holds, in order: (id, outcome), "" for a hold that began."""
        return [(m["hold"]["id"], "") if m["type"] == "hold" else (m["id"], m["state"]) for m in self.said]


def syn(port: int = 443, sport: int = 4000, source: str = AGENT4) -> bytes:
    return tcp(source, SERVER4, sport, port, SYN, 1, 0)


def query(name: str, sport: int = 5000) -> bytes:
    return udp(AGENT4, "10.0.0.1", sport, 53, question(name, 1, 7))


def answers(*packets: Queued) -> list[str]:
    return [(each.answers or [WAITS])[-1] for each in packets if len(each.answers) <= 1]


WEB = Rule("web", Action.ACCEPT, destination=SERVER4, protocol="tcp", ports=((443, 443),))


def test_an_approval_lets_what_waits_pass_and_nothing_else(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    first, again, other = bench.send(syn()), bench.send(syn(sport=4001)), bench.send(syn(port=80))
    assert answers(first, again, other) == [WAITS] * 3
    hold = bench.said[0]["hold"]
    assert (hold["agent"], hold["dst"], hold["dport"], hold["proto"]) == ("a1", SERVER4, 443, "tcp")
    assert len(bench.said) == 2, "both clients wait for one answer"
    bench.change(WEB, base=0, version=1)
    assert answers(first, again, other) == [PASSED, PASSED, WAITS]
    assert bench.reports()[2:] == [(hold["id"], "approved")]
    counters = bench.worker.counters()
    assert (counters["holds"], counters["waiting"], counters["overflowed"]) == (1, 1, 0)


def test_a_refusal_is_for_all_that_wait_and_another_try_asks_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    waiting = [bench.send(syn()), bench.send(syn(sport=4001))]
    hold = bench.said[0]["hold"]["id"]
    bench.order("answer", id=hold, action=Action.REJECT)
    assert answers(*waiting) == [REFUSED] * 2
    assert answers(bench.send(syn(sport=4002))) == [WAITS]
    assert bench.reports() == [(hold, ""), (hold, "denied"), (hold, "")]


def test_a_query_waits_until_its_name_is_allowed(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.change(RESOLVER, base=-1, version=1)
    asked, other = bench.send(query("pypi.example")), bench.send(query("other.example", 5001))
    assert answers(asked, other) == [WAITS] * 2
    assert [m["hold"]["destination"] for m in bench.said] == ["pypi.example", "other.example"]
    bench.change(Rule("name", Action.ACCEPT, destination="pypi.example"), base=1, version=2)
    assert answers(asked, other) == [PASSED, WAITS]


def test_time_refuses(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ask_timeout=0.0)
    waiting = bench.send(syn())
    bench.worker.tick()
    bench.worker.resume()
    assert answers(waiting) == [REFUSED]
    assert [state for _, state in bench.reports()] == ["", "expired"]


@pytest.mark.parametrize(
    ("changes", "becomes"), [({"quarantined": True}, REFUSED), ({"mode": Mode.ENFORCE}, REFUSED), ({}, WAITS)]
)
def test_what_an_agent_becomes_is_so_at_once(tmp_path: Path, changes: dict[str, Any], becomes: str) -> None:
    bench = Bench(tmp_path)
    waiting = bench.send(syn())
    bench.order("agents", agents=[Watched(dataclasses.replace(ASKING, **changes), INTERFACE, 0)])
    assert answers(waiting) == [becomes]
    assert [state for _, state in bench.reports()][1:] == (["withdrawn"] if changes else [])


def test_what_an_agent_left_behind_is_nobody_elses(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    waiting = bench.send(syn())
    other = Agent("b1", NETWORKS, default=Action.ACCEPT)
    bench.order("agents", agents=[Watched(other, INTERFACE, 2)])
    assert waiting.answers == ["dropped"]
    assert [state for _, state in bench.reports()] == ["", "withdrawn"]


def test_one_rule_for_once_lets_one_pass_and_the_others_wait_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    waiting = [bench.send(syn(sport=4000 + number)) for number in range(3)]
    hold = bench.said[0]["hold"]["id"]
    bench.change(dataclasses.replace(WEB, once=True), base=0, version=1)
    assert answers(*waiting) == [PASSED, WAITS, WAITS]
    assert bench.reports() == [(hold, ""), (hold, "approved"), (hold, "")]


def test_what_is_over_the_bounds_is_dropped_and_counted(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    tries = [bench.send(syn()) for _ in range(HOLDS.key + 2)]
    assert [each.answers for each in tries] == [[]] * HOLDS.key + [["dropped"]] * 2
    assert bench.worker.counters()["overflowed"] == 2
    assert all(each.mark == 0x70000000 for each in tries), "the connection is not marked"


def test_where_nobody_listens_nobody_waits(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.reads = False
    assert answers(bench.send(syn())) == [REFUSED]
    assert not bench.worker.engine.holds


def test_what_waits_while_records_cannot_be_written_does_not_pass(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    waiting = bench.send(syn())
    bench.worker.journal.healthy = False
    bench.worker.journal._retry = float("inf")
    bench.change(WEB, base=0, version=1)
    assert answers(waiting) == [REFUSED]


def test_a_fault_while_a_packet_is_judged_again_answers_it_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    waiting = [bench.send(syn()), bench.send(syn(sport=4001))]
    real, calls = bench.worker.engine.packet, []

    def breaks(*words: Any, **named: Any) -> Any:
        calls.append(words)
        if len(calls) == 1:
            raise ZeroDivisionError
        return real(*words, **named)

    monkeypatch.setattr(bench.worker.engine, "packet", breaks)
    bench.change(WEB, base=0, version=1)
    assert answers(*waiting) == [REFUSED, PASSED]  # the first with the mark for silence
    assert bench.queue.errors == 1


# --- orders over a pipe -------------------------------------------------------------------------------------------


def test_a_change_that_does_not_fit_is_said_and_not_half_applied(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.change(WEB, base=-1, version=3)
    for base, removed, added in ((2, (), ()), (3, ("nobody",), ()), (3, (), (WEB,))):
        with pytest.raises(EgressError):
            bench.change(RESOLVER, *added, base=base, version=9, removed=removed)
    bench.change(RESOLVER, base=3, version=4)
    assert answers(bench.send(syn())) == [PASSED]
    bench.change(base=4, version=5, removed=("web",))
    assert answers(bench.send(syn(sport=4001))) == [WAITS]


def test_orders_are_answered_by_version_or_number_and_a_failed_one_with_its_reason(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    orders = os.pipe()
    replies = os.pipe()
    reader, writer = LineReader(orders[0]), LineWriter(replies[1])
    bench.worker.begun = True
    for message in (
        {"op": "policy.part", "removed": [], "added": [{"id": "broken"}]},
        {"op": "policy.commit", "base": 0, "version": 7},
        {"op": "policy.commit", "base": 0, "version": 8},
        {"op": "journal", "limit": 1 << 30, "full": False},
        {"op": "stop", "order": 9},
    ):
        os.write(orders[1], encode(message))
    listen(bench.worker, reader, writer)
    found = list(map(json.loads, os.read(replies[0], 65536).splitlines()))
    answered = [(message["type"], message.get("version"), message.get("order")) for message in found]
    assert answered == [("policy", 7, None), ("policy", 8, None), ("done", None, 9)]
    assert "a part of the policy cannot be read" in found[0]["error"]
    assert "error" not in found[1] and "error" not in found[2]
    assert bench.worker.stopping
    bench.worker.begun = False
    os.write(orders[1], encode({"op": "policy.commit", "base": 0, "version": 9}))
    with pytest.raises(EgressError):
        listen(bench.worker, reader, writer)
    for descriptor in (*orders, *replies):
        os.close(descriptor)


ALLOWED = agent(default=Action.ACCEPT)


def test_what_is_new_waits_for_room_and_what_is_known_goes_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ALLOWED)
    known = [bench.send(syn())]
    bench.order("journal", limit=1 << 20, full=True)
    known += [bench.send(syn())]  # sent again
    new = bench.send(syn(sport=4001))
    assert (answers(*known), answers(new)) == ([PASSED, PASSED], [REFUSED])
    bench.order("journal", limit=1 << 20, full=False)
    bench.worker.second()
    assert answers(bench.send(syn(sport=4002))) == [PASSED]


@pytest.mark.parametrize(("on_full", "outcome"), [("refuse", "dropped"), ("continue", PASSED)])
def test_without_room_for_its_record_a_flow_passes_only_where_that_was_asked_for(
    tmp_path: Path, on_full: str, outcome: str
) -> None:
    bench = Bench(tmp_path, ALLOWED, on_full=on_full)
    bench.order("journal", limit=100, full=on_full == "continue")
    assert answers(bench.send(syn())) == [outcome]
    counters = cast(dict[str, Any], bench.worker.counters())
    assert (counters["unrecorded"], counters["journal"]["healthy"]) == (1, False)
    assert "journal.max_bytes" in counters["journal"]["error"]
    assert counters["journal"]["waiting"] == (1 if on_full == "continue" else 2)  # and that it did not begin
    assert answers(bench.send(syn(sport=4001))) == [PASSED if on_full == "continue" else REFUSED]
    bench.order("journal", limit=1 << 20, full=False)
    bench.worker.journal.poll(time.time() + 2)
    bench.worker.second()
    assert answers(bench.send(syn(sport=4002))) == [PASSED]
    text = b"".join(path.read_bytes() for path in bench.worker.config.journal_dir.iterdir())
    assert [parse_record(raw).agent for raw in text.splitlines() if not is_seal(raw)], (
        "the records that waited in memory are on file"
    )
    assert cast(dict[str, Any], bench.worker.counters())["journal"]["waiting"] == 0


@contextmanager
def attributed(bench: Bench) -> Iterator[None]:
    """Give the worker a reader of notes that never answers."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    bench.worker.notifier = Notifier([ours.detach()], bench.worker._refuse)
    with theirs:
        yield
        assert bench.worker.notifier.counters()["told"], "a test without notes would prove nothing"
    assert bench.worker.notifier.socket is not None
    bench.worker.notifier.socket.close()


def test_only_what_is_refused_waits_to_be_attributed(tmp_path: Path) -> None:
    """Monitor mode records a refusal but passes the packet: at once, before the packets that follow."""
    for mode, first in ((Mode.ENFORCE, WAITS), (Mode.MONITOR, PASSED)):
        bench = Bench(tmp_path / mode, agent(mode=mode, default=Action.REJECT))
        with attributed(bench):
            assert answers(bench.send(syn())) == [first]


def test_a_refusal_that_waits_is_answered_before_marks_are_removed(tmp_path: Path) -> None:
    """A mark that came later would refuse in the kernel what an edit has just allowed."""
    bench = Bench(tmp_path, agent(default=Action.REJECT))
    with attributed(bench):
        first = bench.send(syn())
        bench.change(WEB, base=-1, version=1)
        assert first.answers == [REFUSED]
        assert answers(bench.send(syn())) == [PASSED]
        other = bench.send(syn(port=80))
        assert answers(other) == [WAITS]
        bench.order("agents", agents=())
        assert other.answers == [REFUSED]


# --- packets that the kernel dropped --------------------------------------------------------------------------------


def test_a_flood_is_reported_at_once_and_then_once_in_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, agent(default=Action.ACCEPT))
    bench.order("overrun", agent="a1", dropped=5)
    assert found(bench) == [], "an agent without a flow"
    clock = [time.monotonic() + OVERRUN_SECONDS]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    bench.send(syn())
    for dropped in (7, 11, 13):
        bench.order("overrun", agent="a1", dropped=dropped)
    assert found(bench) == ["7"]
    clock[0] += OVERRUN_SECONDS + 1
    bench.send(syn(sport=4001))
    bench.order("overrun", agent="a1", dropped=100)
    assert found(bench) == ["7", "124"]
    assert answers(bench.send(syn(sport=4002))) == [PASSED], "nothing is refused because of it"


def found(bench: Bench) -> list[str]:
    """The numbers of dropped packets in the journal's findings of dos.flood, in order."""
    bench.worker.journal.poll(time.time())
    lines = [
        line for file in sorted(bench.worker.config.journal_dir.iterdir()) for line in file.read_bytes().splitlines()
    ]
    records = [parse_line(line) for line in lines if b"dos.flood" in line]
    return [each.evidence.decode().split()[0] for each in records if isinstance(each, FindingRecord)]
