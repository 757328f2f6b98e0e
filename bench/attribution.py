"""Measure how often the process behind a flow is found, by its lifetime: real processes, through the real gateway.

`python -m bench.attribution` (root) runs processes that live 5, 20 and 100 ms from their fork to their end and send one
packet, at once or at a random moment of their life: they connect to a server that answers, or to one that the policy
refuses, or send a datagram. A process is caught if its record has its pid. The agent also has other, idle processes.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from demo.stage import SERVER, Stage
from egress.engine.engine import Engine
from egress.gateway.pipe.note import MAX_NOTE
from egress.gateway.worker.notifier import Notifier
from egress.limits import Limits
from egress.model import Action, Agent, Direction, Policy, Rule
from egress.records.shape import ProcessStatus
from egress.store.database.database import open_database
from egress.store.database.tables import flows, processes
from tests.lab.net import eventually

ANSWERED = 80
PORT = 20000  # and those after it, one per kind: a datagram of the same two ends would belong to the earlier flow
KINDS = (("tcp", "answered"), ("tcp", "refused"), ("udp", "sent"))
LIVES = (5, 20, 100)  # milliseconds
PAUSE = 5000  # microseconds between two of them
POLICY = f"""\
rules:
  - {{action: allow, destination: any, protocol: tcp, ports: {ANSWERED}}}
  - {{action: allow, destination: any, protocol: udp, ports: {PORT}-{PORT + 1000}}}
"""
SOURCE = Path(__file__).with_name("life.c")
IDLE = "import time\nprint('ready', flush=True)\ntime.sleep(3600)"


@dataclass(frozen=True, slots=True)
class Caught:
    """The number of processes of one row, by the status of the record of their flow.

    `right` and `wrong` have a record that names a process: the one that sent the packet, or another one.
    """

    right: int
    wrong: int
    gone: int  # the process had ended before it was found
    unknown: int
    missing: int  # no record
    lived: float  # ms, median of their real lifetimes

    @property
    def count(self) -> int:
        """The number of processes."""
        return self.right + self.wrong + self.gone + self.unknown + self.missing


def compiled(directory: Path) -> Path:
    """Compile bench/life.c, a program whose processes live for a given time; return its path."""
    program = directory / "life"
    compiler = shutil.which("cc") or shutil.which("gcc") or "cc"
    subprocess.run([compiler, "-O2", "-static-pie", "-o", program, SOURCE], check=True)
    program.chmod(0o755)
    return program


def measure(stage: Stage, program: Path, proto: str, host: str, port: int, life: int, when: int, count: int) -> Caught:
    """Run `count` processes in the agent's namespace, one after another, and count the records with the right process.

    `life` is in milliseconds; each process sends `when` microseconds after it began (-1: at a random moment).
    """
    family = "6" if ":" in host else "4"
    words = [proto, family, host, str(port), str(life * 1000), str(when), str(count), str(PAUSE)]
    begun = time.time()
    done = stage.lab.run(stage.agent, [str(program), *words], timeout=60 + count * (life + PAUSE / 1000) / 500)
    lives = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    pids = {port: pid for pid, port, _ in lives}
    found = _stored(stage, begun, proto, port, pids)
    right = sum(status is ProcessStatus.FOUND and pid == pids[port] for port, (status, pid) in found.items())
    named = sum(status is ProcessStatus.FOUND for status, _ in found.values())
    gone = sum(status is ProcessStatus.GONE for status, _ in found.values())
    lived = sorted(life for *_, life in lives)[len(lives) // 2] / 1000
    return Caught(right, named - right, gone, len(found) - named - gone, len(pids) - len(found), lived)


def _stored(
    stage: Stage, begun: float, proto: str, port: int, pids: dict[int, int]
) -> dict[int, tuple[ProcessStatus, int]]:
    """Wait until all records are stored, at most 5 s. Returns source port → status and pid of its record.

    `pids` has the pid of the process for each source port.
    """
    query = (
        sa.select(flows.c.sport, processes.c.status, processes.c.pid, flows.c.start)
        .join(processes, processes.c.flow_id == flows.c.flow_id)
        .where(flows.c.start >= begun, flows.c.proto == proto, flows.c.dport == port, flows.c.sport.in_(pids))
        .order_by(flows.c.start)
    )
    found: dict[int, tuple[ProcessStatus, int]] = {}

    def complete() -> bool:
        with engine.connect() as connection:
            found.update({port: (status, pid) for port, status, pid, _ in connection.execute(query)})
        return len(found) == len(pids)

    engine = open_database(stage.config.database_url, create=False)
    try:
        eventually(complete, "all records are stored", 5.0)
    except AssertionError:
        pass
    finally:
        engine.dispose()
    return found


def text(row: Caught, proto: str, fate: str, host: str, life: int, when: int) -> str:
    """Write a row of the table."""
    family = "IPv6" if ":" in host else "IPv4"
    kind = f"{life:3} ms  {row.lived:6.1f} ms  {'any time' if when < 0 else 'at once':8}  {proto} {fate:8}  {family:4}"
    return f"{kind}  {row.right / row.count:7.1%}  {row.gone:5}  {row.unknown:7}  {row.wrong:5}  {row.missing:8}"


def cost(rounds: int = 50, flows_each: int = 200) -> tuple[float, float]:
    """Measure a worker's microseconds to judge a new flow, and to send its note: medians of rounds taken in turn."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    notifier = Notifier([ours.detach()], lambda _: None)
    engine = Engine(
        Limits(max_flows=10**6, max_flows_agent=10**6, records_agent=0), Policy(1, (Rule("all", Action.ACCEPT),)), []
    )
    agent = Agent("bench", ("10.0.0.0/24",))
    judging, telling = [], []
    for number in range(rounds):
        packets = [syn(number * flows_each + each) for each in range(flows_each)]
        began = time.perf_counter()
        outcomes = [engine.packet(raw, float(number), agent, Direction.OUT) for raw in packets]
        between = time.perf_counter()
        for outcome in outcomes:
            notifier.send(outcome.records, 7)
        telling.append((time.perf_counter() - between) / flows_each * 1e6)
        judging.append((between - began) / flows_each * 1e6)
        for _ in outcomes:
            theirs.recv(MAX_NOTE)
    theirs.close()
    assert notifier.counters()["dropped"] == 0
    return statistics.median(judging), statistics.median(telling)


def syn(number: int) -> bytes:
    """Make the first packet of a connection, each from another port or to another address."""
    ends = socket.inet_aton("10.0.0.2") + (0x0B000000 + number // 50000).to_bytes(4)
    header = struct.pack(">BBHHHBBH8s", 0x45, 0, 40, 0, 0, 64, 6, 0, ends)
    return header + struct.pack(">HHIIBBHHH", 1024 + number % 50000, 443, 1, 0, 0x50, 0x02, 64240, 0, 0)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.attribution", description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="processes of each kind")
    parser.add_argument("--beside", type=int, default=20, help="idle processes of the agent beside them")
    options = parser.parse_args()
    judging, telling = cost()
    print(
        f"a new flow in the worker: {judging:.1f} µs to judge, {telling:.1f} µs for the note ({telling / judging:.1%})"
    )
    print(" lives     really  packet                            caught   gone  unknown  wrong  no record")
    with Stage(POLICY) as stage:
        program = compiled(stage.directory)
        stage.attach("bench")
        stage.start("--workers", "1")
        for _ in range(options.beside):
            stage.lab.popen(stage.agent, [sys.executable, "-c", IDLE])
        ports = itertools.count(PORT)
        stage.lab.popen(stage.outside, [sys.executable, "-m", "http.server", str(ANSWERED), "--bind", "::"])
        stage.listening(ANSWERED)
        for life, when, (proto, fate), host in itertools.product(LIVES, (0, -1), KINDS, SERVER):
            port = ANSWERED if fate == "answered" else next(ports)
            row = measure(stage, program, proto, host, port, life, when, options.count)
            print(text(row, proto, fate, host, life, when), flush=True)
        status = stage.status() or {}
        print(status.get("attribution"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
