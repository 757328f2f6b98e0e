"""Shared parts of the tests of the running gateway: servers, clients, the database, a capture outside the gateway."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from ast import literal_eval
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from demo.stage import Stage
from egress import capture
from egress.capture.link import ip_packet
from egress.model import Rule
from egress.records.shape import AnomalyRecord, EvidenceRecord, FindingRecord, FlowRecord
from egress.store.database import tables
from egress.store.database.database import open_database, writing
from egress.store.policy import ruleset
from egress.store.policy.audit import Actor
from egress.store.policy.edits import Edit
from egress.store.query import reader
from egress.store.recording.evidence import read as read_evidence
from tests.lab.net import TIMEOUT, eventually

POLICY = """\
rules:
  - {id: ssh-out, action: allow, destination: 10.99.2.0/24, ports: 22, app: ssh}
  - {id: ssh-out6, action: allow, destination: "fd99:2::/64", ports: 22, app: ssh}
  - {id: web, action: allow, destination: any, protocol: tcp, ports: [80, 443, 8080]}
  - {id: datagrams, action: allow, destination: any, protocol: udp, ports: [7000-7099]}
  - {id: ping, action: allow, destination: 10.99.2.2, protocol: icmp}
  - {id: ping6, action: allow, destination: "fd99:2::2", protocol: icmpv6}
"""
HOSTS = ("10.99.2.2", "fd99:2::2")
LOGIN = '{"id":1,"jsonrpc":"2.0","method":"login","params":{"login":"4x","pass":"x","agent":"XMRig/6.21"}}'

PERSON = Actor("uid:0 (root)")

_T = TypeVar("_T")
_serial = itertools.count()
_COUNTERS = re.compile(r"\[\d+:\d+\]")


@contextmanager
def guarded(
    policy: str = POLICY, workers: int = 1, settings: dict[str, object] | None = None, attach: tuple[str, ...] = ()
) -> Iterator[Stage]:
    """A stage with a running gateway and one agent, rome-7, in the agent's namespace."""
    with Stage(policy, settings) as stage:
        stage.attach("rome-7", *attach)
        stage.start("--workers", str(workers))
        yield stage


class Peer:
    """A process of `tests.lab.peer`, or of another module with the same arguments, and its output so far."""

    def __init__(self, stage: Stage, namespace: str, role: str, *words: str, module: str = "tests.lab.peer") -> None:
        self.out = stage.directory / f"peer-{next(_serial)}"
        self.out.touch()
        command = [sys.executable, "-m", module, *([role] if role else []), str(self.out), *words]
        self.process = stage.lab.popen(namespace, command)

    @property
    def lines(self) -> list[str]:
        return self.out.read_text().splitlines()

    def send(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hears(self, beginning: str, timeout: float = TIMEOUT, count: int = 1) -> str:
        """Wait until `count` output lines begin with `beginning`; returns the last of them."""

        def found() -> bool:
            return sum(line.startswith(beginning) for line in self.lines) >= count

        try:
            eventually(found, beginning, timeout)
        except AssertionError:
            raise AssertionError(f"{beginning!r} {count}x: not within {timeout} s; said {self.lines[-5:]}") from None
        return [line for line in self.lines if line.startswith(beginning)][count - 1]

    def outcome(self, timeout: float = TIMEOUT) -> tuple[str, int]:
        """Wait for the outcome of the connection attempt: `open` or an errno's name, and the milliseconds it took."""
        eventually(lambda: bool(self.lines), "an outcome", timeout)
        word, milliseconds = self.lines[0].split()
        return word, int(milliseconds)

    def close(self) -> None:
        """End the client in order, so that its connection is closed."""
        self.process.communicate(timeout=TIMEOUT)


def call(stage: Stage, host: str, port: int, source: str = "", namespace: str = "") -> Peer:
    """Start a TCP client in the agent's namespace (or another one)."""
    return Peer(stage, namespace or stage.agent, "tcp", host, str(port), *([source] if source else []))


def outcome(stage: Stage, host: str, port: int, source: str = "", namespace: str = "") -> str:
    """Try to connect; returns `open` or an errno's name."""
    peer = call(stage, host, port, source, namespace)
    word, _ = peer.outcome()
    peer.close()
    return word


def serve(stage: Stage, port: int, namespace: str = "", hosts: tuple[str, ...] = HOSTS) -> list[Peer]:
    """Start echo services, TCP and UDP, one for each address; they are ready on return."""
    place = namespace or stage.outside
    peers = [Peer(stage, place, "echo", host, str(port)) for host in hosts]
    listening(stage, port, place, hosts)
    return peers


def listening(stage: Stage, port: int, namespace: str, hosts: tuple[str, ...]) -> None:
    def found() -> bool:
        sockets = stage.lab.run(namespace, ["ss", "-Hltn"]).stdout
        return all(f" {host}:{port} " in sockets or f" [{host}]:{port} " in sockets for host in hosts)

    eventually(found, f"port {port} listens")


def status(stage: Stage) -> dict[str, Any]:
    found = stage.status()
    assert found is not None, "the gateway does not answer"
    return found


def worker(stage: Stage, index: int = 0) -> dict[str, Any]:
    entry: dict[str, Any] = status(stage)["workers"][index]
    return entry


def bound(stage: Stage) -> int:
    """Count the queues with a listener in the gateway's namespace."""
    return len(stage.lab.run(stage.gateway, ["cat", "/proc/net/netfilter/nfnetlink_queue"]).stdout.splitlines())


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def queue_drops(stage: Stage, agent: str = "rome-7") -> int:
    (entry,) = (each for each in status(stage)["agents"] if each["name"] == agent)
    return sum(sum(kind.values()) for kind in entry["dropped"].values())


@contextmanager
def paused(pid: int) -> Iterator[None]:
    """Stop a process within the block (SIGSTOP, SIGCONT)."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        if not gone(pid):
            os.kill(pid, signal.SIGCONT)


def log(stage: Stage) -> str:
    return stage.log.read_text()


# --- the database ---------------------------------------------------------------------------------------------


@contextmanager
def database(stage: Stage) -> Iterator[sa.Engine]:
    engine = open_database(stage.config.database_url, create=False)
    try:
        yield engine
    finally:
        engine.dispose()


def flows(stage: Stage, wanted: reader.Filter = reader.Filter()) -> list[FlowRecord]:  # noqa: B008 - immutable
    with database(stage) as engine:
        return list(reader.flows(engine, wanted))


def findings(stage: Stage, wanted: reader.Filter = reader.Filter()) -> list[FindingRecord]:  # noqa: B008 - immutable
    with database(stage) as engine:
        return list(reader.findings(engine, wanted))


def evidence(stage: Stage) -> dict[str, EvidenceRecord]:
    """Read all evidence, by finding id."""
    with database(stage) as engine, engine.connect() as connection:
        ids = connection.scalars(sa.select(tables.evidence.c.finding_id)).all()
        kept = [read_evidence(connection, finding) for finding in ids]
    return {each.finding_id: each for each in kept if each is not None}


def anomalies(stage: Stage) -> list[AnomalyRecord]:
    columns = [tables.anomalies.c[name] for name in AnomalyRecord.__slots__]
    with database(stage) as engine, engine.connect() as connection:
        return [AnomalyRecord(*row) for row in connection.execute(sa.select(*columns))]


def edit(stage: Stage, work: Callable[[Connection], _T]) -> _T:
    """Write into the database, like another program."""
    with database(stage) as engine, writing(engine) as connection:
        return work(connection)


def allow(stage: Stage, *listed: Rule) -> None:
    """Put rules into the allowlist."""
    edit(stage, lambda connection: Edit(connection, PERSON, time.time()).add(listed))


def disallow(stage: Stage, *ids: str) -> None:
    edit(stage, lambda connection: Edit(connection, PERSON, time.time()).remove(ids))


def in_force(stage: Stage, timeout: float = TIMEOUT) -> int:
    """Wait until every worker judges by the database's newest policy; returns its version."""
    with database(stage) as engine, engine.connect() as connection:
        version = ruleset.current(connection)
    eventually(
        lambda: {worker["policy_version"] for worker in status(stage)["workers"]} == {version},
        f"version {version} is in force",
        timeout,
    )
    return version


# --- the kernel's rules ---------------------------------------------------------------------------------------


_OURS = """
import sys
from egress.gateway.kernel import nftables as nft
kernel = nft.Nftables()
for kind, wanted in ((nft.GETCHAIN, (3, 4, 5, 7)), (nft.GETRULE, (2, 4))):
    for family, found in kernel.everything(kind):
        if found[1] == b"egress\\0":
            name = found[wanted[0]].decode().rstrip("\\0")
            rest = "".join(found.get(key, b"").hex() + " " for key in wanted[1:])
            queued = "-j NFQUEUE " * (b"NFQUEUE" in found.get(4, b""))
            sys.stdout.write(f"EGRESS-{name} {family} {queued}{rest}\\n")
for name in ("agents", "out", "in"):
    for found in kernel.elements("egress", name):
        sys.stdout.write(f"EGRESS-{name} {bytes(found[1])[4:].decode().rstrip(chr(0))} {found.get(2, b'').hex()}\\n")
"""


def saved_rules(stage: Stage, *, ours: bool = True) -> str:
    """The rules of both families as iptables-save and ip print them, without counters and comments, and our table."""
    commands = [["iptables-save"], ["ip6tables-save"], ["ip", "-d", "-4", "rule"], ["ip", "-d", "-6", "rule"]]
    text = "".join(stage.lab.run(stage.gateway, command, check=True).stdout for command in commands)
    text += stage.lab.python(stage.gateway, _OURS) if ours else ""
    lines = [_COUNTERS.sub("", line) for line in text.splitlines() if not line.startswith("#")]
    return "\n".join(line for line in lines if ours or "proto 101" not in line)


def guarded_interfaces(stage: Stage) -> tuple[list[str], list[int], list[str]]:
    """Read the guard in the kernel: interfaces of the table, its queues, and interfaces behind the barrier."""
    code = (
        "import sys; from egress.gateway.kernel import guard; sys.stdout.write(repr(tuple(map(sorted, guard.state()))))"
    )
    found: tuple[list[str], list[int], list[str]] = literal_eval(stage.lab.python(stage.gateway, code))
    return found


# --- a witness outside ----------------------------------------------------------------------------------------


class Witness:
    """All packets that reach the outside namespace, captured by tcpdump before any program there gets them."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.path = stage.directory / f"witness-{next(_serial)}.pcap"
        self._errors = self.path.with_suffix(".log")

    def __enter__(self) -> Witness:
        command = ["tcpdump", "-i", "eth0", "-Q", "in", "-U", "--immediate-mode", "-B", "16384", "-Z", "root", "-w"]
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                ["ip", "netns", "exec", self._stage.outside, *command, str(self.path)], stderr=errors
            )
        eventually(lambda: "listening on" in self._errors.read_text(), "tcpdump listens")
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait(TIMEOUT)

    def packets(self) -> list[bytes]:
        """The IP packets seen so far, complete."""
        found = []
        with self.path.open("rb") as stream:
            try:
                for frame in capture.frames(stream):
                    raw = ip_packet(frame.link, frame.data)
                    if raw is not None:
                        found.append(raw)
            except capture.TruncatedError:
                pass  # tcpdump is writing its last packet
        return found

    def sees(self, *needles: bytes) -> None:
        """Wait until each of these has passed: packets sent before would have arrived too."""
        eventually(
            lambda: all(any(needle in raw for raw in self.packets()) for needle in needles), f"outside sees {needles!r}"
        )
