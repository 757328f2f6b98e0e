"""One trial: a real gateway under load, a fault, and what arrived outside meanwhile.

`bench.chaos.traffic` makes the load (canaries, contents, and probes: flows that a rule allows) and is the witness.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.chaos.traffic import PROBE
from bench.recorded import stored
from demo.stage import Stage
from tests.lab.net import eventually
from tests.store.postgres import Server

# The load is a beacon by its rhythm: without the exemption its destination would be refused, probes included.
POLICY = """\
rules:
  - {id: probes, action: allow, destination: any, protocol: udp, ports: 7000, exempt: [beacon.timing]}
  - {id: ssh, action: allow, destination: any, protocol: tcp, ports: 22, app: ssh, exempt: [beacon.timing]}
"""
SETTLE = 60.0  # seconds in which a gateway must be whole again
DISK = "64m"
QUIET = 1.0  # seconds of load before a fault and after the recovery


class NotDoneError(Exception):
    """The fault cannot be injected on this machine; the text says why."""


@dataclass(slots=True)
class Result:
    """The outcome of one trial. Canaries and contents are counted while the agent had to be guarded."""

    name: str
    canaries: int = 0
    canaries_out: int = 0
    contents: int = 0
    contents_out: int = 0
    passed: int = 0  # allowed flows that arrived outside
    unrecorded: int = 0  # of these, without a row in the database in the end
    gap: float = 0.0  # the longest time without an allowed flow, seconds
    note: str = ""  # why the trial was not done, or failed

    @property
    def held(self) -> bool:
        """True if nothing got out, every allowed flow has a record, and the trial did not fail."""
        return not (self.note or self.canaries_out or self.contents_out or self.unrecorded)


@dataclass(slots=True)
class Trial:
    """A stage under load. Faults call its methods."""

    stage: Stage
    rate: float
    result: Result
    server: Server | None = None  # PostgreSQL, where the database is one
    _since: float = 0.0  # the agent has to be guarded from here on
    _files: tuple[Path, Path] = field(default=(Path(), Path()))

    # --- the load ---------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def load(self) -> Iterator[None]:
        """Send canaries, contents and probes within the block, and count those that arrived once it ends.

        Raises AssertionError if the traffic does not begin within SETTLE seconds.
        """
        sent, seen = self._files = self.stage.directory / "sent", self.stage.directory / "seen"
        program = [sys.executable, "-m", "bench.chaos.traffic"]
        self.stage.lab.popen(self.stage.outside, [*program, "witness", str(seen)])
        eventually(lambda: seen.exists() and "ready" in seen.read_text(), "the witness is there", SETTLE)
        sender = self.stage.lab.popen(self.stage.agent, [*program, "send", str(sent), str(self.rate)])
        eventually(lambda: sent.exists() and sent.read_text().count("\n") > 2, "the agent sends", SETTLE)
        try:
            yield
        finally:
            sender.send_signal(signal.SIGTERM)
            sender.wait(SETTLE)
            self._count()

    def hold(self, seconds: float) -> None:
        """Let the load go on for some seconds."""
        time.sleep(seconds)

    def guarded_from_now(self) -> None:
        """Count canaries and contents from here on: before, the agent did not have to be guarded."""
        self._since = time.monotonic()

    def passes(self) -> None:
        """Wait until allowed flows arrive outside again. Raises AssertionError after SETTLE seconds."""
        before = self._probes()
        eventually(lambda: self._probes() >= before + 3, "allowed flows pass again", SETTLE)

    def _probes(self) -> int:
        """Return the number of allowed flows that have arrived outside."""
        return self._files[1].read_text().count(" probe ")

    def _count(self) -> None:
        """Set the counts and the gap in the result, from the files of the sender and the witness."""
        result, since = self.result, self._since
        rows = [tuple(map(float, line.split())) for line in self._files[0].read_text().splitlines()]
        _, *first = max((row for row in rows if row[0] <= since), default=(0.0, 0.0, 0.0))
        _, *last = rows[-1]
        result.canaries, result.contents = (int(late - early) for early, late in zip(first, last, strict=True))
        times = []
        for line in self._files[1].read_text().splitlines():
            moment, kind, *_ = line.split()
            if since <= float(moment):
                result.canaries_out += kind == "canary"
                result.contents_out += kind == "content"
                if kind == "probe":
                    times.append(float(moment))
        result.gap = max((later - earlier for earlier, later in pairwise(times)), default=0.0)

    def arrived(self) -> set[tuple[str, int]]:
        """Return the source addresses and ports of the allowed flows that arrived outside while guarded."""
        rows = [line.split() for line in self._files[1].read_text().splitlines()]
        return {(row[2], int(row[3])) for row in rows if row[1] == "probe" and self._since <= float(row[0])}

    def compare(self) -> None:
        """Stop the gateway in order; count the allowed flows that arrived, and those without a row in the database.

        Raises AssertionError if the recorder has not caught up within SETTLE seconds.
        """
        arrived = self.arrived()
        self.result.passed = len(arrived)
        eventually(lambda: self.status()["recorder"].get("unread", 1) == 0, "the recorder has caught up", SETTLE)
        self.stage.stop()
        rows = {(flow.src, flow.sport) for flow in stored(self.stage.config).flows.values() if flow.dport == PROBE}
        self.result.unrecorded = len(arrived - rows)

    # --- the gateway ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start a gateway with two workers."""
        self.stage.start("--workers", "2")

    def resume(self) -> None:
        """End the cut that repeated changes of the kernel rules cause, if there is one, as a person does."""
        self.stage.egress("resume")

    def status(self) -> dict[str, Any]:
        """Return the gateway's status; without processes if it does not answer."""
        return self.stage.status() or {"workers": [], "recorder": {"pid": None}, "attribution": {"pid": None}}

    def pids(self, kind: str) -> list[int]:
        """Return the process ids of a kind: `workers`, `recorder`, `attribution`, or `supervisor`."""
        if kind == "supervisor":
            assert self.stage.daemon is not None
            return [self.stage.daemon.pid]
        found = self.status()[kind]
        return [entry["pid"] for entry in (found if kind == "workers" else [found]) if entry["pid"] is not None]

    def kill(self, kind: str, how: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to all processes of a kind."""
        for pid in self.pids(kind):
            os.kill(pid, how)

    def replaced(self, kind: str, old: list[int]) -> None:
        """Wait until a kind has as many processes as before (`old`), and none of the same.

        Raises AssertionError after SETTLE seconds.
        """

        def done() -> bool:
            now = self.pids(kind)
            return len(now) == len(old) and not set(now) & set(old)

        eventually(done, f"{kind}: replaced", SETTLE)

    def tool(self, *words: str) -> None:
        """Run a program in the gateway's namespace. Raises NotDoneError if this machine does not have it or refuses."""
        try:
            self.stage.lab.run(self.stage.gateway, list(words), check=True)
        except AssertionError as error:
            raise NotDoneError(str(error).strip().splitlines()[0][:160]) from None


Inject = Callable[[Trial], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault: its name, the group it is listed in, what `inject` does, and the state it begins in.

    `settings` are added to the config. `running`, `attached`: the gateway runs, the agent is attached, when the load
    begins. `open`: nothing guards the agent then by design, so canaries get out and flows have no record. `postgresql`:
    the database is PostgreSQL instead of SQLite.
    """

    name: str
    group: str
    inject: Inject
    settings: dict[str, object] = field(default_factory=dict)
    running: bool = True
    attached: bool = True
    open: bool = False
    postgresql: bool = False


@contextlib.contextmanager
def _disk(directory: Path) -> Iterator[None]:
    """Mount a small disk at `directory` within the block, which a fault can fill."""
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=755", "egress-chaos", directory], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


def run(fault: Fault, rate: float) -> Result:
    """Inject one fault into a gateway of its own, in namespaces of its own, and return the result.

    A trial that fails, or that this machine cannot do, has a note.
    """
    result = Result(fault.name)
    try:
        with contextlib.ExitStack() as stack:
            server = None
            settings = {"limits": {"records_agent": 0}, **fault.settings}  # no quota: each flow has a record of its own
            if fault.postgresql:
                server = Server()
                stack.callback(server.close)
                server.execute("CREATE DATABASE egress")
                settings["database"] = server.local_url("egress")
            stage = stack.enter_context(Stage(POLICY, settings))
            stack.enter_context(_disk(stage.config.state_dir))
            trial = Trial(stage, rate, result, server)
            if fault.attached:
                stage.attach()
            if fault.running:
                trial.start()
            with trial.load():
                trial.hold(QUIET)
                fault.inject(trial)
                if not fault.open:
                    trial.passes()
                    trial.hold(QUIET)
            if not fault.open:
                trial.compare()
    except NotDoneError as error:
        result.note = f"not done: {error}"
    except (AssertionError, OSError) as error:
        result.note = f"failed: {str(error).splitlines()[0][:160]}"
    return result
