"""The queue worker: it judges packets, carries out the supervisor's orders, and does the work of each second.

On the order to begin it binds the queues of its agents and drops privileges. Then each packet goes from its agent to
the engine, the journal and back to the kernel: it is answered only when the decision about it is on file. A packet on
hold, which waits for an operator's decision, stays unanswered (`egress.gateway.worker.parked`), and the engine judges
it again once its hold has ended.
"""

from __future__ import annotations

import contextlib
import gc
import os
import selectors
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from netfilterqueue import Packet as QueuedPacket

import signatures
from egress import seccomp
from egress.engine.anomalies import Anomalies
from egress.engine.engine import Engine
from egress.engine.holds import PENDING
from egress.errors import EgressError
from egress.gateway.journal.journal import JournalWriter
from egress.gateway.kernel import nfnetlink, privileges
from egress.gateway.kernel.link import HARDWARE, Neighbour
from egress.gateway.kernel.marks import Marks
from egress.gateway.pipe.messages import Draft, Setup, Watched, watched_from
from egress.gateway.worker import preload
from egress.gateway.worker.capture import CaptureWriter, seconds
from egress.gateway.worker.identity import Identity
from egress.gateway.worker.notifier import Notifier
from egress.gateway.worker.parked import ParkedPacket, for_holds
from egress.gateway.worker.queue import DISCARD, PARKED, PacketQueue
from egress.gateway.worker.queues import Queues, allow_descriptors
from egress.gateway.worker.refusal_counts import RefusalCounts
from egress.gateway.worker.replies import Replies
from egress.model import Action, Agent, Direction, Policy, Reason, Verdict
from egress.records.shape import AnomalyRecord, Record
from egress.wire.ip import total_length
from egress.wire.mptcp import without_mptcp

OVERRUN_SECONDS = 600.0
PRIORITY = -10  # nice: every packet of every agent waits for this process
MAX_ANOMALIES = 256  # different ones a second; the rest are one record for each reason


def now() -> float:
    """Return seconds since the epoch, exact to the microsecond, as captures and journals store them."""
    return seconds(time.time_ns() // 1000)


class Worker:
    """Connects queues, engine and journal. `send` sends a message to the supervisor; False: a hold cannot be sent."""

    def __init__(self, setup: Setup, send: Callable[[dict[str, object]], bool]) -> None:
        config = setup.config
        self.setup = setup
        self.index = setup.index
        self.config = config
        known = signatures.load(config)
        self.engine = Engine(
            config.limits, Policy(), known, gate_queries=config.gate_queries, refuse_ech=config.refuse_ech
        )
        self.engine.set_nearby(setup.nearby)
        self.watched = setup.agents
        self.identity = Identity(setup.agents)
        self.journal = JournalWriter(config.journal_dir, setup.index, config.journal, host=config.host)
        self.journal.grant(setup.journal.limit, full=setup.journal.full)
        self._refuses = config.journal.on_full == "refuse"
        self.capture = CaptureWriter(Path(setup.capture), setup.index, now()) if setup.capture else None
        marks = Marks(config.mark_mask)
        self._settled, self._undecided = marks.value("settled"), marks.value("undecided")
        self._recheck = marks.value("recheck")
        self._refused, self._dropped = marks.value("refused"), marks.value("dropped")
        self.anomalies = Anomalies(MAX_ANOMALIES)
        self.notifier = Notifier(setup.attribution, self._refuse)
        self.replies = Replies()
        self.refusal_counts: dict[str, RefusalCounts] = {}
        self.unmatched = self.unrecorded = self.multipath = 0
        self.begun = self.stopping = self.confined = False
        self.parked = for_holds(config.queue.length)
        self._over: deque[ParkedPacket] = deque()  # packets of ended holds, to be judged again
        self._resumed: ParkedPacket | None = None  # the packet under judgement, if it was parked
        self._reported: set[str] = set()  # holds that were reported to the supervisor
        self._overruns: Counter[str] = Counter()  # packets that the kernel dropped of each agent, not reported yet
        self._quiet: dict[str, float] = {}  # agent → monotonic time until which nothing more is reported
        self._send = send
        self._draft = Draft()
        self._agent = ""
        self._cut = config.queue.settled_copy
        self.selector = selectors.DefaultSelector()
        self.queues = Queues(config, self.selector, self.judge, self.failed)

    def begin(self) -> None:
        """Bind the queues of all agents, drop privileges, and report `ready`. Raises EgressError if a step fails."""
        allow_descriptors()
        self.queues.keep(entry.queue for entry in self.watched)
        for problem in self.queues.failures.values():
            raise EgressError(problem)
        self.replies.open()
        preload.load()
        with contextlib.suppress(PermissionError):  # without CAP_SYS_NICE it waits like any other process
            os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
        privileges.drop(self.config.user, self.setup.parent)
        self.confined = seccomp.confine()
        gc.freeze()  # policy and code stay: the collector need not scan them
        gc.enable()
        self.begun = True
        self._send({"type": "ready", "pid": os.getpid(), "host": socket.gethostname()})

    def judge(self, raw: bytes, indev: int, outdev: int, queue: PacketQueue, packet: QueuedPacket) -> int:
        """Judge a packet: find its agent, ask the engine, journal the records.

        `raw`: the packet from its IP header, perhaps cut off; `indev`, `outdev`: interface indices. Returns the mark to
        accept the packet with, DISCARD to drop it, or PARKED if it is to be answered later.
        """
        ts = now()
        self._agent = ""
        found = self.identity.find(raw, indev, outdev)
        if found is None:
            self.unmatched += 1
            self._note("", Reason.SPOOFED, f"interface {indev}: no agent has this source", ts)
            return DISCARD
        agent, direction = found
        self._agent, settled = agent.name, queue.settled
        length = total_length(raw) if len(raw) >= (self._cut if settled else nfnetlink.MAX_COPY) else None
        if self.capture is not None:
            self.capture.packet(raw, length or len(raw), ts, agent.name, direction, settled)
        verdict, records, reply = self.engine.packet(raw, ts, agent, direction, length, settled=settled)
        outbound = direction is Direction.OUT
        refused = self.notifier.send(records, indev if outbound else outdev) if records else ""
        if records and not self.record(records, ts) and verdict.action is Action.ACCEPT:
            self.unrecorded += 1
            if self._refuses:
                self.record(self.engine.withdraw(raw, ts, agent, direction), ts)
                return DISCARD
        if verdict.action is Action.HOLD:
            waits = ParkedPacket(packet, agent.name, queue, raw, sender=self._sender(packet, indev))
            return self._wait(waits, agent, direction, ts)
        mark = self._mark(verdict, settled)
        may_wait = refused and outbound and verdict.action is not Action.ACCEPT  # in monitor mode it passes
        if verdict.action is Action.ACCEPT and (records or not settled):  # a settled connection has begun
            self._one_path(raw, packet)
        if reply is None and not may_wait:
            return mark
        sender = self._sender(packet, indev) if reply is not None else None
        parked = ParkedPacket(packet, agent.name, queue, raw if sender else b"", mark, reply=reply, sender=sender)
        # Last, so that no error can follow: a packet is answered once.
        if may_wait and self.notifier.park(refused, parked):
            return PARKED
        return self._final(parked)

    def _sender(self, packet: QueuedPacket, interface: int) -> Neighbour:
        """Return the neighbour that sent the packet under judgement.

        A packet that was parked has lost its hardware address, so the address was kept with it.
        """
        if self._resumed is not None and self._resumed.sender is not None:
            return self._resumed.sender
        return Neighbour(interface, (packet.get_hw() or b"")[:HARDWARE])

    def _final(self, refusal: ParkedPacket) -> int:
        """Send the reply of a refused packet, if it has one. Returns DISCARD if that was done, else its mark."""
        reply, sender = refusal.reply, refusal.sender
        if reply is not None and sender is not None and self.replies.send(reply, refusal.raw, refusal.agent, sender):
            return DISCARD
        return refusal.mark

    def _one_path(self, raw: bytes, packet: QueuedPacket) -> None:
        """Remove the options of Multipath TCP from a whole packet that passes and opens a connection."""
        plain = without_mptcp(raw)
        if plain is not None:
            packet.set_payload(plain)
            self.multipath += 1

    def _refuse(self, refusal: ParkedPacket) -> None:
        """Answer a refused packet that was parked."""
        refusal.queue.answer(refusal.packet, self._final(refusal))

    def _wait(self, parked: ParkedPacket, agent: Agent, direction: Direction, ts: float) -> int:
        """Park a packet until its hold ends, and report a new hold to the supervisor.

        If a hold cannot be reported, it is refused at once, and `resume` then judges its packets. Returns PARKED, or
        DISCARD if the hold has ended or no more packets may be parked.
        """
        self._collect()
        hold = self.engine.hold_of(parked.raw, agent, direction)
        if hold not in self.engine.holds:
            return DISCARD
        if hold not in self._reported:
            if self._send({"type": "hold", "hold": self.engine.holds[hold]}):
                self._reported.add(hold)
            else:
                self.record(self.engine.answer(hold, Action.REJECT, ts), ts)
        return PARKED if self.parked.park(hold, parked) else DISCARD

    def _collect(self) -> None:
        """Report holds that have ended to the supervisor, and release their packets for `resume`."""
        for hold, state in self.engine.ended_holds():
            self._over += self.parked.release(hold)
            if state != PENDING and hold in self._reported:
                self._reported.discard(hold)
                self._send({"type": "hold.ended", "id": hold, "state": state})

    def resume(self) -> None:
        """Judge the packets of ended holds again, as if they came now. Discard them if their agent is gone."""
        self._collect()
        while self._over:
            parked = self._over.popleft()
            found = self.identity.find(parked.raw, parked.packet.indev, parked.packet.outdev)
            if found is not None and found[0].name == parked.agent:
                self._resumed = parked
                parked.queue.judge(parked.packet, parked.raw)
                self._resumed = None
            else:
                parked.queue.answer(parked.packet, DISCARD)
            self._collect()

    def failed(self, error: Exception) -> int:
        """Record an exception that `judge` raised (a bug). Returns the mark that drops the packet's connection."""
        frame = error.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        place = f"{Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}" if frame else "?"
        self._note(self._agent, Reason.ERROR, f"{type(error).__name__} at {place}: {error}"[:200], now())
        return self._dropped

    def _note(self, agent: str, reason: Reason, detail: str, ts: float) -> None:
        """Count an anomaly: a packet that the worker itself refused. `second` writes the record."""
        self.anomalies.note(AnomalyRecord(agent, ts, reason, detail, 1), detail)

    def record(self, records: Sequence[Record], ts: float) -> bool:
        """Count records for `egress run`'s summary and journal them. Returns False if they are not on file.

        While the journal fails or is full, the engine refuses new flows (unless `journal.on_full` is `continue`).
        """
        for record in records:
            self.refusal_counts.setdefault(record.agent, RefusalCounts()).add(record)
        done = self.journal.append(records, ts)
        self._heed_journal()
        return done

    def _heed_journal(self) -> None:
        """Have the engine refuse new flows while the journal fails or is full, unless that is configured otherwise."""
        self.engine.admission.refuse_new = self._refuses and not self.journal.open

    def tick(self) -> None:
        """Run the engine's timers that are due."""
        ts = now()
        if ts >= self.engine.next_tick():
            self.record(self.engine.tick(ts), ts)

    def stop(self) -> None:
        """Write the last record of every flow and close the queues. The kernel drops the packets on hold."""
        self.queues.drain()
        ts = now()
        self.record(self.engine.note(self.anomalies.take(), ts), ts)
        self.record(self.engine.shutdown(ts), ts)
        self._collect()
        self.notifier.flush()
        self.queues.close()
        self.journal.poll(ts)
        self.journal.close(ts)
        self.replies.close()
        if self.capture is not None:
            self.capture.close()

    def second(self) -> None:
        """Do the work of each second: journal the anomalies, let the journal recover and sync, bind failed queues."""
        ts = now()
        self.record(self.engine.note(self.anomalies.take(), ts), ts)
        self.journal.poll(ts)
        self._heed_journal()
        if self.queues.failures:
            self.queues.keep(entry.queue for entry in self.watched)

    def order(self, message: dict[str, Any]) -> dict[str, object]:
        """Carry out one order of the supervisor. Returns the fields of the answer.

        Raises EgressError for an order that cannot be carried out; then no part of it was.
        """
        operation, ts = message["op"], now()
        if operation == "policy.part":
            self._draft.add(message)
        elif operation == "policy.commit":
            self._commit(message, ts)
        elif operation == "begin":
            self.begin()
        elif operation == "agents":
            if "nearby" in message:
                self.engine.set_nearby(message["nearby"])
            self._watch(watched_from(message["agents"]), ts)
        elif operation == "journal":
            self.journal.grant(message["limit"], full=message["full"])
            self._heed_journal()
        elif operation == "overrun":
            self._overrun(message["agent"], message["dropped"], ts)
        elif operation == "answer":
            self.record(self.engine.answer(message["id"], Action(message["action"]), ts), ts)
        elif operation == "tally":
            self.queues.drain()
            self.record(self.engine.note(self.anomalies.take(), ts), ts)
            return {"tally": self.refusal_counts.get(message["agent"], RefusalCounts()).as_json()}
        elif operation == "stop":
            self.stopping = True
        return {}

    def _overrun(self, agent: str, dropped: int, ts: float) -> None:
        """Report the packets that the kernel dropped of an agent: at once, and then every OVERRUN_SECONDS."""
        self._overruns[agent] += dropped
        if time.monotonic() >= self._quiet.get(agent, 0.0):
            self.record(self.engine.overrun(agent, self._overruns.pop(agent), ts), ts)
            self._quiet[agent] = time.monotonic() + OVERRUN_SECONDS

    def _commit(self, message: dict[str, Any], ts: float) -> None:
        """Put the policy in force that arrived in parts. Raises EgressError, and then the old one stays."""
        self.notifier.flush()  # their marks must be on their connections before marks are removed
        change = self._draft.finish(message)
        try:
            if change.base < 0:
                records = self.engine.set_policy(Policy(change.version, change.added), ts)
            else:
                records = self.engine.change_policy(change, ts)
        except ValueError as error:
            raise EgressError(str(error)) from None
        self.record(records, ts)

    def _watch(self, watched: tuple[Watched, ...], ts: float) -> None:
        """Replace the agents and their queues: release those that are gone, and pass changed ones to the engine."""
        self.notifier.flush()  # as in `_commit`
        # An unchanged agent stays the same object: the engine re-judges flows when their agent is another object.
        before = {entry.agent: entry.agent for entry in self.watched}
        self.watched = tuple(replace(entry, agent=before.get(entry.agent, entry.agent)) for entry in watched)
        self.identity = Identity(self.watched)
        names = {entry.agent.name for entry in watched}
        for gone in {agent.name for agent in before} - names:
            self.record(self.engine.release(gone, ts), ts)
            self.replies.forget(gone)
        for entry in self.watched:
            if entry.agent not in before:
                self.engine.change_agent(entry.agent, ts)
        if self.begun:
            self.resume()  # what waits in a queue must be answered before the queue is closed
            self.queues.keep(entry.queue for entry in self.watched)
        self.refusal_counts = {name: tally for name, tally in self.refusal_counts.items() if name in names}
        self._quiet = {name: until for name, until in self._quiet.items() if name in names}

    def counters(self) -> dict[str, object]:
        """Collect the heartbeat's counters."""
        journal = self.journal
        full, settled, errors = self.queues.totals()
        return {
            "packets": full,
            "settled_packets": settled,
            "engine_errors": errors,
            "unbound": self.queues.failures,
            "unmatched": self.unmatched,
            "unrecorded": self.unrecorded,
            "multipath": self.multipath,
            "journal": {
                "healthy": journal.healthy,
                "full": journal.full,
                "error": journal.error,
                "written": journal.written,
                "bytes": journal.bytes,
                "failures": journal.failures,
                "waiting": journal.waiting,
                "lost": journal.lost,
                "seal": journal.sealing.number,
                "head": journal.sealing.head,
            },
            "holds": len(self.engine.holds),
            "waiting": self.parked.packets,
            "overflowed": self.parked.overflowed,
            "attribution": self.notifier.counters(),
            "replies": self.replies.counters(),
            "confined": self.confined,
            "capture_skipped": 0 if self.capture is None else self.capture.skipped,
            "folded": self.engine.folded(),
            "engine": self.engine.stats(),
        }

    def _mark(self, verdict: Verdict, settled: bool) -> int:
        """Return the packet mark for a verdict, or DISCARD. `settled`: the packet came from the settled queue."""
        if verdict.packet_only and verdict.action is not Action.ACCEPT:
            return DISCARD  # a verdict on this packet alone: leave no mark on its connection
        if verdict.action is Action.ACCEPT:
            if verdict.settled:
                return self._settled
            return self._recheck if settled else self._undecided  # the connection's settled mark has to be replaced
        return self._refused if verdict.action is Action.REJECT else self._dropped
