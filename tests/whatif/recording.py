"""Short builders of rules, flows and findings, and a real database in memory that stores them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import count
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from egress.model import Action, Agent, Effect, Mode, Reason, Rule, Severity
from egress.records.shape import FindingRecord, FlowRecord, Record
from egress.store.database.tables import metadata
from egress.store.recording.writer import store

START = 1_795_446_362.0
AGENT = Agent("trainer")
_numbers = count(1)

FLOW = FlowRecord(
    flow_id="", agent="trainer", start=START, updated=START, end=None, state="established", direction="out",
    proto="tcp", src="10.77.0.2", sport=40000, dst="198.51.100.7", dport=443, community_id="", app_proto="tls",
    server_name="", action=Action.ACCEPT, reason=Reason.DEFAULT, rule_id="", policy_version=1, mode=Mode.ENFORCE,
    packets_out=4, packets_in=3, bytes_out=1200, bytes_in=300, unseen_bytes=0,
)  # fmt: skip


def flow(**fields: Any) -> FlowRecord:
    """Make a flow record; each call begins it a second later than the call before."""
    number = next(_numbers)
    shared = {"flow_id": f"{number:016x}", "start": START + number, "updated": START + number}
    return replace(FLOW, **{**shared, **fields})


def tls(name: str, dst: str = "198.51.100.7", **fields: Any) -> FlowRecord:
    """A TLS connection to a name that the agent has resolved."""
    return flow(**{"server_name": name, "names": (name,), "dst": dst, **fields})


def dns(name: str, **fields: Any) -> FlowRecord:
    return flow(**{"proto": "udp", "dst": "10.0.0.53", "dport": 53, "app_proto": "dns", "server_name": name, **fields})


def refused(reason: Reason, rule_id: str = "") -> dict[str, Any]:
    return {"action": Action.REJECT, "reason": reason, "rule_id": rule_id}


def finding(of: FlowRecord, signature: str = "mining.stratum", **fields: Any) -> FindingRecord:
    made = FindingRecord(
        finding_id=f"{next(_numbers):016x}", flow_id=of.flow_id, agent=of.agent, time=of.start, signature=signature,
        severity=Severity.HIGH, technique="T1496", summary="It mines.", evidence=b"", effect=Effect.FLOW,
        action=Action.REJECT, mode=of.mode, proto=of.proto, src=of.src, sport=of.sport, dst=of.dst, dport=of.dport,
        community_id="", rule_id="", policy_version=1,
    )  # fmt: skip
    return replace(made, **fields)


def allow(destination: str = "any", **fields: Any) -> Rule:
    return Rule(**{"id": f"allow-{destination}", "action": Action.ACCEPT, "destination": destination, **fields})


def deny(destination: str = "any", **fields: Any) -> Rule:
    return Rule(**{"id": f"deny-{destination}", "action": Action.REJECT, "destination": destination, **fields})


@cache
def _memory() -> Engine:
    engine = sa.create_engine("sqlite://")
    metadata.create_all(engine)
    return engine


@contextmanager
def recorded(records: Iterable[Record]) -> Iterator[Connection]:
    """A connection to a database, in memory, that holds these records and nothing else."""
    with _memory().connect() as connection:
        store(connection, list(records))
        yield connection
        connection.rollback()
