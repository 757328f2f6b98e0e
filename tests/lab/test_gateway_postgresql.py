"""The gateway over PostgreSQL: edits are followed as fast, records arrive, and it goes on while the server is away."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from demo.stage import Stage
from egress.model import Action, Rule
from egress.store.database.database import writing
from egress.store.policy.audit import Actor
from egress.store.policy.edits import Edit
from tests.lab.gateway import HOSTS, database, flows, guarded, outcome, serve, status
from tests.lab.net import eventually, needs_root
from tests.store.postgres import Server

pytestmark = [pytest.mark.lab, needs_root]

OLD, NEW = 8080, 9000
SECONDS = 0.2
PERSON = Actor("uid:0 (root)")
OPENING = Rule("opening", Action.ACCEPT, protocol="tcp", ports=((NEW, NEW),))
POLICY = f"rules:\n  - {{action: allow, destination: any, protocol: tcp, ports: {OLD}}}\n"


@pytest.fixture
def server() -> Iterator[Server]:
    started = Server()
    try:
        yield started
    finally:
        started.close()


@pytest.fixture
def stage(server: Server) -> Iterator[Stage]:
    server.execute("CREATE DATABASE egress")
    with guarded(POLICY, workers=2, settings={"database": server.local_url("egress")}) as running:
        for port in (OLD, NEW):
            serve(running, port)
        yield running


def edit(stage: Stage, *, opening: bool) -> int:
    with database(stage) as engine, writing(engine) as connection:
        change = Edit(connection, PERSON, time.time())
        if opening:
            change.add([OPENING])
        else:
            change.remove([OPENING.id])
        return change.version


def in_force(stage: Stage, version: int) -> None:
    def everywhere() -> bool:
        return {worker["policy_version"] for worker in status(stage)["workers"]} == {version}

    eventually(everywhere, f"version {version} is in force")


def test_edits_records_and_a_server_that_goes_and_comes(stage: Stage, server: Server) -> None:
    for number in range(10):
        in_force(stage, edit(stage, opening=not number % 2))
        assert outcome(stage, HOSTS[0], NEW) == ("ECONNREFUSED" if number % 2 else "open")
    spent = status(stage)["propagation"]
    assert spent["edits"] >= 10
    assert 0 < spent["median"] < SECONDS * 1000, spent
    eventually(lambda: {flow.dport for flow in flows(stage)} >= {NEW}, "records are in PostgreSQL")

    server.stop()
    eventually(lambda: not status(stage)["database"]["ok"], "it is noticed", 20.0)
    assert [outcome(stage, HOSTS[0], port) for port in (OLD, NEW)] == ["open", "ECONNREFUSED"]
    server.start()
    eventually(lambda: bool(status(stage)["database"]["ok"]), "it is back", 30.0)
    in_force(stage, edit(stage, opening=True))
    assert outcome(stage, HOSTS[0], NEW) == "open"
    eventually(lambda: OLD in {flow.dport for flow in flows(stage)}, "what happened meanwhile is stored", 30.0)
