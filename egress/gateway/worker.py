"""One queue worker: `python -m egress.gateway.worker`, started by the supervisor with its setup as one line on stdin.

It binds two queues, becomes an unprivileged user and does one thing: packet -> agent -> engine -> journal -> kernel.
Nothing of a packet is answered before what was decided about it is on file.
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import signatures
from egress.engine.engine import Engine
from egress.errors import EgressError
from egress.gateway import nfnetlink, privileges
from egress.gateway.anomalies import Anomalies
from egress.gateway.capture import Capture, seconds
from egress.gateway.identity import Identity
from egress.gateway.journal import Journal
from egress.gateway.lines import LineReader, LineWriter
from egress.gateway.marks import Marks
from egress.gateway.messages import Setup, Watched, encode, policy_from, setup_from, watched_from
from egress.gateway.queue import DISCARD, PacketQueue
from egress.gateway.tally import Tally
from egress.model import Action, Reason, Record, RuleChange, Verdict

BEAT_SECONDS = 1.0
_IN, _OUT = 0, 1  # stdin, stdout


def now() -> float:
    """Seconds since the epoch, exact to the microsecond: what a capture and the journal can hold."""
    return seconds(time.time_ns() // 1000)


class Worker:
    """Binds queues, engine and journal together. `judge` is the packet path."""

    def __init__(self, setup: Setup) -> None:
        config = setup.config
        self.index = setup.index
        self.config = config
        known = signatures.load(config)
        self.engine = Engine(config.limits, setup.policy, known, gate_queries=config.gate_queries)
        self.watched = setup.agents
        self.identity = Identity(setup.agents)
        self.journal = Journal(config.journal_dir, setup.index)
        self.capture = Capture(Path(setup.capture), setup.index, now()) if setup.capture else None
        marks = Marks(config.mark_mask)
        self._settled, self._undecided = marks.value("settled"), marks.value("undecided")
        self._recheck, self._refused, self._dropped = (
            marks.value("recheck"),
            marks.value("refused"),
            marks.value("dropped"),
        )
        self.anomalies = Anomalies()
        self.tallies: dict[str, Tally] = {}
        self.unmatched = self.unrecorded = 0
        self.stopping = False
        self._agent = ""
        self._cut = config.queue.settled_copy
        base = config.queue.base + 2 * setup.index
        self.full = PacketQueue(base, self.judge, self.failed, mark_mask=config.mark_mask)
        self.settled = PacketQueue(base + 1, self.judge, self.failed, mark_mask=config.mark_mask)

    def bind(self) -> None:
        """Own both queues. Raises EgressError when one cannot be had."""
        length, fail_open = self.config.queue.length, self.config.fail_open
        self.full.bind(length=length, copy_range=nfnetlink.MAX_COPY, settled=False, fail_open=fail_open)
        self.settled.bind(length=length, copy_range=self._cut, settled=True, fail_open=fail_open)

    def judge(self, raw: bytes, indev: int, outdev: int, settled: bool) -> int:
        """The way of a packet: whose it is, what the engine says, on file, then the mark that tells the kernel."""
        ts = now()
        self._agent = ""
        found = self.identity.find(raw, indev, outdev)
        if found is None:
            self.unmatched += 1
            self.anomalies.add("", Reason.SPOOFED, f"interface {indev}: no agent has this source", ts)
            return DISCARD
        agent, direction = found
        self._agent = agent.name
        length = ip_length(raw) if len(raw) >= (self._cut if settled else nfnetlink.MAX_COPY) else None
        if self.capture is not None:
            self.capture.packet(raw, length or len(raw), ts, agent.name, direction, settled)
        verdict, records = self.engine.packet(raw, ts, agent, direction, length, settled=settled)
        if records and not self.record(records, ts) and verdict.action is Action.ACCEPT:
            self.unrecorded += 1
            self.record(self.engine.withdraw(raw, ts, agent, direction), ts)
            return DISCARD
        return self._mark(verdict, settled)

    def failed(self, error: Exception) -> int:
        """A fault of ours: written down, and the packet's connection is dropped."""
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        place = f"{Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}" if frame else "?"
        self.anomalies.add(self._agent, Reason.ERROR, f"{type(error).__name__} at {place}: {error}"[:200], now())
        return self._dropped

    def record(self, records: Sequence[Record], ts: float) -> bool:
        """Count and journal; while the journal fails the engine lets nothing new pass."""
        for record in records:
            if not isinstance(record, RuleChange):
                self.tallies.setdefault(record.agent, Tally()).add(record)
        done = self.journal.append(records, ts)
        self.engine.refuse_new = not self.journal.healthy
        return done

    def tick(self) -> None:
        """Timers of the engine that are due."""
        ts = now()
        if ts >= self.engine.next_tick():
            self.record(self.engine.tick(ts), ts)

    def drain(self) -> None:
        """Judge what waits in the queues now, so that what follows counts it."""
        for queue in (self.full, self.settled):
            left = self.config.queue.length
            while left > 0 and (done := queue.run()):
                left -= done

    def stop(self) -> None:
        """End every flow's record and give the queues back."""
        self.drain()
        ts = now()
        self.record(self.anomalies.flush(), ts)
        self.record(self.engine.shutdown(ts), ts)
        self.full.close()
        self.settled.close()
        self.journal.poll(ts)
        self.journal.close()
        if self.capture is not None:
            self.capture.close()

    def second(self) -> None:
        """What is done once a second."""
        ts = now()
        self.record(self.anomalies.flush(), ts)
        self.journal.poll(ts)
        self.engine.refuse_new = not self.journal.healthy

    def order(self, message: dict[str, Any]) -> dict[str, object]:
        """Carry out one order of the supervisor; returns what its answer says beyond `done`."""
        operation = message["op"]
        if operation == "agents":
            self._watch(watched_from(message["agents"]))
        elif operation == "policy":
            ts = now()
            self.record(self.engine.set_policy(policy_from(message["policy"]), ts), ts)
        elif operation == "tally":
            self.drain()
            self.record(self.anomalies.flush(), now())
            return {"tally": self.tallies.get(message["agent"], Tally()).as_json()}
        elif operation == "stop":
            self.stopping = True
        return {}

    def _watch(self, watched: tuple[Watched, ...]) -> None:
        # An unchanged agent stays the same object: the engine judges flows anew when theirs is another.
        before = self.watched
        known = {entry.agent: entry.agent for entry in before}
        self.watched = tuple(Watched(known.get(entry.agent, entry.agent), entry.interface) for entry in watched)
        self.identity = Identity(self.watched)
        names = {entry.agent.name for entry in watched}
        ts = now()
        for gone in {entry.agent.name for entry in before} - names:
            self.record(self.engine.release(gone, ts), ts)
        self.tallies = {name: tally for name, tally in self.tallies.items() if name in names}

    def counters(self) -> dict[str, object]:
        """The heartbeat's content."""
        journal = self.journal
        return {
            "packets": self.full.packets,
            "settled_packets": self.settled.packets,
            "engine_errors": self.full.errors + self.settled.errors,
            "unmatched": self.unmatched,
            "unrecorded": self.unrecorded,
            "journal": {
                "healthy": journal.healthy,
                "error": journal.error,
                "written": journal.written,
                "failures": journal.failures,
                "lost": journal.lost,
            },
            "capture_skipped": 0 if self.capture is None else self.capture.skipped,
            "engine": self.engine.stats(),
        }

    def _mark(self, verdict: Verdict, settled: bool) -> int:
        if verdict.packet_only and verdict.action is not Action.ACCEPT:
            return DISCARD  # says nothing about its connection: leave no mark on it
        if verdict.action is Action.ACCEPT:
            if verdict.settled:
                return self._settled
            return self._recheck if settled else self._undecided  # the connection's settled mark has to be replaced
        return self._refused if verdict.action is Action.REJECT else self._dropped


def ip_length(raw: bytes) -> int:
    """A cut packet's length as its header has it (0: a super-packet past 64 KiB); without a header what we hold."""
    if len(raw) >= 40 and raw[0] >> 4 == 6:
        return 40 + int.from_bytes(raw[4:6], "big")
    if len(raw) >= 20 and raw[0] >> 4 == 4:
        return int.from_bytes(raw[2:4], "big")
    return len(raw)


def serve(worker: Worker, reader: LineReader, writer: LineWriter) -> None:
    """The loop: packets in batches, orders, timers. Ends on the order to stop, or when the supervisor is gone."""
    with selectors.DefaultSelector() as selector:
        selector.register(worker.full, selectors.EVENT_READ, worker.full.run)
        selector.register(worker.settled, selectors.EVENT_READ, worker.settled.run)
        selector.register(_IN, selectors.EVENT_READ, lambda: _orders(worker, reader, writer))
        beat = 0.0
        while not (worker.stopping or reader.ended):
            due = min(worker.engine.next_tick() - now(), beat - time.monotonic(), BEAT_SECONDS)
            for key, _ in selector.select(max(due, 0.0)):
                key.data()
            worker.tick()
            if time.monotonic() >= beat:
                beat = time.monotonic() + BEAT_SECONDS
                worker.second()
                if writer.idle:
                    writer.write(encode({"type": "beat", **worker.counters()}))
            writer.flush()
    worker.stop()
    writer.write(encode({"type": "beat", **worker.counters()}))


def _orders(worker: Worker, reader: LineReader, writer: LineWriter) -> None:
    for line in reader.read():
        message = json.loads(line)
        answer = worker.order(message)
        writer.write(encode({"type": "done", "seq": message["seq"], **answer}))


def main() -> int:
    """Returns the exit status: 0 stopped when told to, 1 could not start (said on stdout)."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C goes to the whole process group; the supervisor stops us in order
    reader, writer = LineReader(_IN), LineWriter(_OUT)
    lines: list[bytes] = []
    while not lines and not reader.ended:
        lines = reader.read()
    if not lines:
        return 1
    try:
        setup = setup_from(lines[0])
        worker = Worker(setup)
        worker.bind()
        privileges.drop(setup.config.user, setup.parent)
    except EgressError as error:
        writer.write(encode({"type": "error", "text": str(error)}))
        return 1
    os.set_blocking(_IN, False)
    gc.freeze()
    writer.write(encode({"type": "ready", "pid": os.getpid(), "host": socket.gethostname()}))
    try:
        serve(worker, reader, writer)
    except BrokenPipeError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
