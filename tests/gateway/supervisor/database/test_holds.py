"""Holds on their way to the database and back."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from egress.gateway.pipe.messages import encode
from egress.gateway.supervisor.database.holds import HoldDesk
from egress.gateway.supervisor.database.link import DatabaseLink
from egress.model import Hold
from egress.store.policy import approvals
from egress.store.policy.audit import Actor

NOW = time.time()


def hold(name: str) -> Hold:
    return Hold(name, name, "rome-7", NOW, NOW + 120, "tcp", "192.0.2.7", 443, ("a.example",), False, "a.example")


class Desk:
    """Holds over a real database, and the refusals of each worker."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.link = DatabaseLink(f"sqlite:///{path}")
        self.link.open(create=True)
        self.refused: list[tuple[int, list[str]]] = []

    def play(self, *steps: Callable[[HoldDesk], object]) -> None:
        async def run() -> None:
            holds = HoldDesk(self.link, lambda worker, ids: self.refused.append((worker, sorted(ids))))
            for step in steps:
                step(holds)
                await holds.written()
            self.pending, self.unasked = dict(holds.pending), holds.refused

        asyncio.run(run())

    def states(self) -> dict[str, str]:
        with self.link.reading() as connection:
            return {each.id: each.state for each in approvals.listed(connection, limit=100)}

    def deny(self, name: str) -> None:
        with self.link.writing() as connection:
            approvals.deny(connection, Actor("uid:0 (root)"), name, NOW + 1)


@pytest.fixture
def desk(tmp_path: Path, empty_database: Path) -> Desk:
    shutil.copy(empty_database, tmp_path / "egress.db")
    return Desk(tmp_path / "egress.db")


def asks(worker: int, name: str) -> Callable[[HoldDesk], None]:
    return lambda holds: holds.take_message(worker, {"type": "hold", "hold": json.loads(encode(hold(name)))})


def ends(worker: int, name: str, state: str) -> Callable[[HoldDesk], None]:
    return lambda holds: holds.take_message(worker, {"type": "hold.ended", "id": name, "state": state})


def test_what_waits_is_asked_as_it_is(desk: Desk) -> None:
    desk.play(asks(0, "one"))
    with desk.link.reading() as connection:
        found = approvals.get(connection, "one")
    assert found is not None
    assert (found.agent, found.destination, found.names, found.state) == (
        "rome-7",
        "a.example",
        ("a.example",),
        "pending",
    )
    assert desk.pending == {"one": 0}


def test_what_ends_is_closed_and_a_decision_stays(desk: Desk) -> None:
    desk.play(
        asks(0, "late"),
        asks(0, "gone"),
        asks(1, "no"),
        asks(1, "ruled"),
        lambda _: desk.deny("no"),
        ends(0, "late", "expired"),
        ends(0, "gone", "withdrawn"),
        ends(1, "no", "denied"),
        ends(1, "ruled", "approved"),  # by a new rule, without a decision
    )
    assert desk.states() == {"late": "expired", "gone": "withdrawn", "no": "denied", "ruled": "withdrawn"}
    assert desk.pending == {}


def test_a_worker_that_is_gone_takes_its_own_along(desk: Desk) -> None:
    desk.play(asks(0, "one"), asks(1, "two"), lambda holds: holds.worker_gone(0))
    assert desk.states() == {"one": "withdrawn", "two": "pending"}


def test_one_that_ends_as_soon_as_it_begins_is_on_record(desk: Desk) -> None:
    def at_once(holds: HoldDesk) -> None:
        asks(0, "one")(holds)
        ends(0, "one", "expired")(holds)

    desk.play(at_once)
    assert desk.states() == {"one": "expired"}


def test_a_denial_goes_to_the_worker_that_holds_it(desk: Desk) -> None:
    desk.play(asks(0, "one"), asks(3, "two"), lambda holds: holds.deny({"two", "of another gateway"}))
    assert desk.refused == [(3, ["two"])]


def test_without_a_database_holds_are_refused_and_ends_are_kept(desk: Desk) -> None:
    hidden = desk.path.with_name("hidden")

    def back(holds: HoldDesk) -> None:
        hidden.rename(desk.path)
        desk.link.open(create=False)
        holds.catch_up()

    desk.play(
        asks(0, "before"),
        lambda _: desk.path.rename(hidden),
        lambda _: desk.link.changed(),
        asks(1, "while"),
        ends(0, "before", "expired"),
        ends(1, "while", "denied"),
        back,
    )
    assert desk.refused == [(1, ["while"])]
    assert desk.unasked == 1
    assert desk.states() == {"before": "expired"}
