"""The attribution process: `python -m egress.gateway.attribution`. The supervisor starts it; its setup comes on stdin.

It reads the workers' notes (one for each new flow), looks up the processes behind the flows and writes them to a
journal of its own. When stdin ends, it handles the notes that were sent before, and exits.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import statistics
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable

from egress import seccomp
from egress.errors import EgressError
from egress.gateway.attribution.finder import Finder
from egress.gateway.journal.journal import JournalWriter
from egress.gateway.kernel import privileges
from egress.gateway.pipe.lines import LineReader, LineWriter
from egress.gateway.pipe.messages import Setup, encode, setup_from
from egress.gateway.pipe.note import MAX_NOTE, parse
from egress.records.shape import ProcessRecord

BEAT_SECONDS = 1.0
BATCH = 64  # notes read before their searches go on
TURN = 0.01  # seconds of searches before new notes are read
PRIORITY = -10  # a process may end within a millisecond; the work for one agent is bounded
MAX_WAITING = 4096
LAST_SECONDS = 1.0  # for notes that were sent before the end
CAPABILITIES = frozenset({privileges.CAP_DAC_READ_SEARCH, privileges.CAP_SYS_PTRACE, privileges.CAP_SYS_ADMIN})
_IN, _OUT = 0, 1  # stdin, stdout


class Attribution:
    """The work of the process: it reads notes and writes records."""

    def __init__(self, setup: Setup) -> None:
        self.workers = [socket.socket(fileno=end) for end in setup.attribution]
        self.counts: Counter[str] = Counter(found=0, gone=0, unknown=0, garbage=0, unwritten=0)
        self.journal = JournalWriter(
            setup.config.journal_dir, 0, setup.config.journal, writer="process", host=setup.config.host
        )
        self.journal.grant(setup.journal.limit, full=setup.journal.full)
        self._finder = Finder()
        self.confined = False
        self._waiting: dict[str, socket.socket] = {}  # flow ids that workers wait for
        self._spent: deque[float] = deque(maxlen=1000)  # ms from a flow's start to its record

    @property
    def busy(self) -> bool:
        """True while searches are under way: call `work`."""
        return self._finder.busy

    def read(self) -> bool:
        """Read at most BATCH waiting notes of each worker, and begin to look up their flows. False: there were none."""
        return sum([self._read(worker) for worker in self.workers]) > 0

    def _read(self, worker: socket.socket) -> int:
        records: list[ProcessRecord] = []
        count = 0
        while count < BATCH:
            try:
                message = worker.recv(MAX_NOTE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            count += 1
            note = parse(message)
            if note is None:
                self.counts["garbage"] += 1
                continue
            if note.waits and len(self._waiting) < MAX_WAITING:
                self._waiting[note.flow_id] = worker
            if (record := self._finder.take(note, time.time())) is not None:
                records.append(record)
        self._write(records)
        return count

    def work(self) -> None:
        """Go on with the searches, for TURN seconds."""
        self._write(self._finder.work(time.monotonic() + TURN))

    def beat(self) -> dict[str, object]:
        """Do the journal's regular work, and collect the report that the supervisor gets each second."""
        self.journal.poll(time.time())
        spent = sorted(self._spent)
        return {
            **self.counts,
            "confined": self.confined,
            "unread": self._finder.unread,
            "median": round(statistics.median(spent), 2) if spent else None,
            "worst": round(spent[-1], 2) if spent else None,
            "journal": {
                "healthy": self.journal.healthy,
                "error": self.journal.error,
                "bytes": self.journal.bytes,
                "lost": self.journal.lost,
            },
        }

    def close(self) -> None:
        """Close the finder, write the backlog of the journal, and close it."""
        self._finder.close()
        self.journal.poll(time.time())
        self.journal.close(time.time())

    def _write(self, records: Iterable[ProcessRecord]) -> None:
        """Journal records, and answer the workers that wait for their flows. While the journal is full, count them."""
        written = list(records)
        now = time.time()
        for record in written:
            self._answer(record.flow_id)
            self.counts[record.status.value] += 1
            self._spent.append((now - record.time) * 1000)
        if self.journal.full:  # the remaining bytes are for the workers
            self.counts["unwritten"] += len(written)
        else:
            self.journal.append(written, now)

    def _answer(self, flow_id: str) -> None:
        """Tell the worker that the refusal of this flow need not wait any more."""
        worker = self._waiting.pop(flow_id, None)
        if worker is not None:
            with contextlib.suppress(OSError):  # it does not read: its wait ends by its own timeout
                worker.send(flow_id.encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def serve(attribution: Attribution, reader: LineReader, writer: LineWriter) -> None:
    """Run until stdin ends; then handle the notes that were sent before, for at most LAST_SECONDS, and close."""
    poll = select.poll()
    poll.register(_IN, select.POLLIN)
    for worker in attribution.workers:
        poll.register(worker, select.POLLIN)
    beat = 0.0
    while not reader.ended:
        wait = 0.0 if attribution.busy else max(0.0, beat - time.monotonic())
        if any(descriptor == _IN for descriptor, _ in poll.poll(wait * 1000)):
            listen(attribution, reader)
        attribution.read()
        attribution.work()
        if time.monotonic() >= beat:
            beat = time.monotonic() + BEAT_SECONDS
            if writer.idle:
                writer.write(encode(attribution.beat()))
            writer.flush()
    last = time.monotonic() + LAST_SECONDS
    while time.monotonic() < last and (attribution.read() or attribution.busy):
        attribution.work()
    attribution.close()


def listen(attribution: Attribution, reader: LineReader) -> None:
    """Read the supervisor's messages, which are journal grants, and apply them."""
    for line in reader.read():
        room = json.loads(line)
        attribution.journal.grant(room["limit"], full=room["full"])


def main() -> int:
    """Run the process. Exits with status 0 after a clean stop.

    Returns 1 if it could not start, with the reason on stderr, or stdout was closed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches this process too; the supervisor stops it in order
    try:
        reader = LineReader(_IN)
        setup = setup_from(reader.first())
        with contextlib.suppress(PermissionError):  # a container may forbid it
            os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
        privileges.drop(setup.config.user, setup.parent, CAPABILITIES)
        attribution = Attribution(setup)
        attribution.confined = seccomp.confine(seccomp.ATTRIBUTION)
    except (EgressError, OSError) as error:
        sys.stderr.write(f"egress attribution: {error}\n")
        return 1
    try:
        os.set_blocking(_IN, False)
        serve(attribution, reader, LineWriter(_OUT))
    except BrokenPipeError:
        return 1
    sys.stdout.flush()
    os._exit(0)  # a thread that an agent's process blocks must not block the exit


if __name__ == "__main__":
    sys.exit(main())
