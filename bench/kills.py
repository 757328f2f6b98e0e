"""Check that records survive kills: `python -m bench.kills --rounds 200 --database postgresql` (root; or sqlite).

Two agents send flows of one datagram each, some allowed and some refused, through the real gateway, while its workers,
its recorder and (PostgreSQL) its database are killed with SIGKILL at random moments; with --gateway the whole gateway,
too: then two recorders may be at work for a moment. Witnesses outside see each decision: the sink that a datagram
reached, the client that got an ICMP refusal. In the end

    each decided flow has exactly one row in the database, with that verdict        (missing, duplicates, wrong)
    the database has the same records as the journals                               (differing)

A flow may be recorded without a witness of its outcome: its worker was killed between the journal and the answer to the
kernel.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.recorded import Archive, Stored, stored
from demo.stage import Stage
from egress.model import Action
from tests.lab.many import DENIED, PORTS, flow
from tests.lab.net import eventually
from tests.store.postgres import Server

POLICY = "rules:\n  - {id: datagrams, action: allow, destination: any, protocol: udp, ports: [7000-7099]}\n"
RATE = 200.0  # flows per second of each agent
SETTLE = 30.0  # seconds within which a killed process must be replaced
# A server that commits to its log before it reports success, as in production.
DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}


@dataclass(slots=True)
class Report:
    """The outcomes of all flows."""

    rounds: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    arrived: int = 0
    refused: int = 0
    decided: int = 0  # arrived or refused: seen from outside
    stored: int = 0  # of the decided, with one row
    missing: int = 0
    duplicates: int = 0
    wrong: int = 0  # with another verdict
    unwitnessed: int = 0  # recorded, but without a witness
    journalled: int = 0  # whole lines of all journals
    rows: int = 0  # in the database
    differing: int = 0  # rows that differ from the journals, or are on one side only
    healed: int = 0

    @property
    def good(self) -> bool:
        """True if every flow decided has one row with that verdict, and database and journals have the same records."""
        return not (self.missing or self.duplicates or self.wrong or self.differing) and self.stored == self.decided

    def __str__(self) -> str:
        facts = asdict(self) | {"kills": ",".join(f"{name}:{count}" for name, count in sorted(self.kills.items()))}
        return " ".join(f"{name}={value}" for name, value in facts.items()) + (" GOOD" if self.good else " BAD")


class Run:
    """A stage with two agents in namespaces of their own, under load; `seed` determines the kills."""

    def __init__(self, stage: Stage, server: Server | None, seed: int, *, gateway: bool = False) -> None:
        self.stage, self.server = stage, server
        self._kinds = {"worker": self._worker, "recorder": self._recorder}
        if server is not None:
            self._kinds["database"] = self._database
        if gateway:
            self._kinds["gateway"] = self._gateway
        self.dice = random.Random(seed)
        self._deck: list[str] = []  # the next to be killed: each kind equally often
        self.report = Report()
        self.archive = Archive(stage.config.journal_dir)
        self._second = stage.lab.ns("agent2")
        stage.lab.veth(self._second, "eth0", stage.gateway, "agent1", 3)
        stage.lab.route(self._second, via=3)
        for name in ("ipv4.icmp_ratelimit", "ipv4.icmp_msgs_per_sec", "ipv6.icmp.ratelimit"):
            value = "1000000" if "msgs" in name else "0"
            stage.lab.run(stage.gateway, ["sysctl", "-qw", f"net.{name}={value}"])
        stage.attach("one")
        stage.egress("agent", "add", "two", "--netns", self._second)
        stage.start("--workers", "2")
        self.sink = stage.directory / "sink"
        stage.lab.popen(stage.outside, [sys.executable, "-m", "tests.lab.many", "sink", str(self.sink)])
        eventually(lambda: self.sink.exists() and self.sink.read_text().startswith("ready"), "the sink is up")
        self._senders: list[tuple[subprocess.Popen[str], Path, list[str]]] = []

    def load(self, rate: float) -> None:
        """Start a sender for each agent, `rate` flows per second, and wait until datagrams arrive."""
        for number, namespace in ((1, self.stage.agent), (3, self._second)):
            sources, out = [f"10.99.{number}.2", f"fd99:{number}::2"], self.stage.directory / f"sender-{number}"
            command = [sys.executable, "-m", "tests.lab.many", "send", str(out), str(rate), ",".join(sources)]
            self._senders.append((self.stage.lab.popen(namespace, command), out, sources))
        eventually(lambda: self.sink.read_text().count("\n") > 10, "datagrams arrive")

    # --- kills ------------------------------------------------------------------------------------------

    def round(self) -> None:
        """Kill one or two processes at random moments. Returns when they have been replaced."""
        again = []
        for _ in range(2 if self.dice.random() < 0.25 else 1):
            self._deck = self._deck or self.dice.sample(sorted(self._kinds), len(self._kinds))
            name = self._deck.pop()
            time.sleep(self.dice.uniform(0.0, 0.7))
            again.append((name, self._kinds[name]()))
            self.report.kills[name] += 1
        for name, back in again:
            eventually(back, f"the {name} is there again", SETTLE)
        self.archive.collect()
        self.report.rounds += 1

    def _status(self) -> dict[str, Any]:
        """Return the gateway's status; without processes if it does not answer."""
        return self.stage.status() or {"workers": [], "recorder": {"pid": None}}

    def _worker(self) -> Callable[[], bool]:
        """Kill a worker; return a function that is True once it is replaced."""
        present = [worker for worker in self._status()["workers"] if worker["alive"]]
        victim = self.dice.choice(present)
        os.kill(victim["pid"], signal.SIGKILL)

        def back() -> bool:
            found = [worker for worker in self._status()["workers"] if worker["index"] == victim["index"]]
            return bool(found) and found[0]["alive"] and found[0]["pid"] != victim["pid"]

        return back

    def _recorder(self) -> Callable[[], bool]:
        """Kill the recorder; return a function that is True once it is replaced."""
        eventually(lambda: self._status()["recorder"]["pid"] is not None, "the recorder runs", SETTLE)
        victim = self._status()["recorder"]["pid"]
        os.kill(victim, signal.SIGKILL)
        return lambda: self._status()["recorder"]["pid"] not in (None, victim)

    def _database(self) -> Callable[[], bool]:
        """Kill the database, and start it again up to 1.5 s later."""
        assert self.server is not None
        self.server.kill()
        time.sleep(self.dice.uniform(0.0, 1.5))
        self.server.start()
        return lambda: True

    def _gateway(self) -> Callable[[], bool]:
        """Kill the whole gateway, and start it again up to 0.5 s later."""
        self.stage.stop(signal.SIGKILL)
        time.sleep(self.dice.uniform(0.0, 0.5))
        self.stage.start("--workers", "2")
        return lambda: True

    # --- the end ----------------------------------------------------------------------------------------

    def end(self) -> Report:
        """Stop the senders and the gateway in order, and compare witnesses, journals and database.

        Raises AssertionError if the gateway does not stop cleanly.
        """
        for sender, _, _ in self._senders:
            sender.send_signal(signal.SIGTERM)
        for sender, _, _ in self._senders:
            sender.wait(SETTLE)
        eventually(lambda: self._status()["recorder"].get("unread", 1) == 0, "the recorder has caught up", SETTLE)
        self.report.healed = self.stage.log.read_text().count("bytes of an unfinished record")
        if self.stage.stop() != 0:
            raise AssertionError(f"the gateway did not stop cleanly: {self.stage.log.read_text()[-2000:]}")
        self.archive.collect()
        held = stored(self.stage.config)
        self._compare_witnesses(held)
        self._compare_journals(held)
        return self.report

    def _compare_witnesses(self, held: Stored) -> None:
        """Count the flows whose outcome was seen by the row that they have in the database."""
        report, rows = self.report, Counter[tuple[str, int, int]]()
        actions = {}
        for record in held.flows.values():
            key = record.src, record.sport, record.dport
            if record.proto == "udp" and DENIED - 2000 <= record.dport < DENIED + PORTS:
                rows[key] += 1
                actions[key] = record.action
        outcomes = dict(self._outcomes())
        report.arrived = sum(action is Action.ACCEPT for action in outcomes.values())
        report.refused = len(outcomes) - report.arrived
        report.decided = len(outcomes)
        report.missing = sum(not rows[key] for key in outcomes)
        report.stored = sum(rows[key] == 1 for key in outcomes)
        report.duplicates = sum(count - 1 for count in rows.values())
        report.wrong = sum(actions.get(key, action) is not action for key, action in outcomes.items())
        report.unwitnessed = len(rows.keys() - outcomes.keys())

    def _outcomes(self) -> Iterator[tuple[tuple[str, int, int], Action]]:
        """Yield ((source, its port, destination port), action) for each flow whose outcome the witnesses saw."""
        for line in self.sink.read_text().splitlines()[1:]:
            _, host, sport, dport = line.split()
            yield (host, int(sport), int(dport)), Action.ACCEPT
        for _, out, sources in self._senders:
            *refused, last = out.read_text().splitlines()
            self.report.sent += int(last.removeprefix("sent "))
            for number in map(int, refused):
                one = flow(number, sources)
                yield (one.source, one.sport, one.dport), Action.REJECT

    def _compare_journals(self, held: Stored) -> None:
        """Count the records that differ between the journals and the database."""
        journalled = self.archive.records()
        self.report.journalled = self.archive.lines
        self.report.rows = len(held.flows) + len(held.others)
        self.report.differing = sum(
            (journalled.flows.get(key) != held.flows.get(key)) for key in journalled.flows.keys() | held.flows.keys()
        ) + len(journalled.others ^ held.others)


@contextlib.contextmanager
def running(database: str, seed: int, *, gateway: bool = False) -> Iterator[Run]:
    """Start the stage for a run, and yield the run; `database` is sqlite or postgresql; `gateway`: kill that, too."""
    with contextlib.ExitStack() as stack:
        server = None
        settings: dict[str, object] = {"journal": {"segment_bytes": 65536}}  # many segments, begun and removed
        if database == "postgresql":
            server = Server(**DURABLE)
            stack.callback(server.close)
            server.execute("CREATE DATABASE egress")
            settings["database"] = server.local_url("egress")
        yield Run(stack.enter_context(Stage(POLICY, settings)), server, seed, gateway=gateway)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.kills", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the order and the moments of the kills")
    parser.add_argument("--rate", type=float, default=RATE, help="flows per second of each of two agents")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--gateway", action="store_true", help="kill the whole gateway as well")
    options = parser.parse_args()
    with running(options.database, options.seed, gateway=options.gateway) as run:
        run.load(options.rate)
        for number in itertools.count(1):
            run.round()
            if number % 10 == 0:
                print(f"{number} rounds, kills {dict(run.report.kills)}", flush=True)
            if number >= options.rounds:
                break
        report = run.end()
    print(f"database={options.database} seed={options.seed} rate={options.rate:g} {report}")
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
