"""A gateway's name: claimed once, waited for, refused to a second machine, kept while the database is away."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from egress.config import Config
from egress.errors import EgressError, InputError
from egress.gateway.supervisor.database.link import DatabaseAwayError, DatabaseLink
from egress.gateway.supervisor.database.presence import Presence
from egress.model import Agent
from egress.store.database import tables
from egress.store.policy import gateways
from egress.store.policy.agents import StoredAgent, add_agent, list_agents
from egress.store.policy.audit import Actor

ROOT = Actor("uid:0 (root)")


class Machine:
    """A gateway's side of the database, in a run_dir of its own."""

    def __init__(self, path: Path, name: str, host: str = "gpu-1") -> None:
        run = path / name
        run.mkdir(exist_ok=True)
        self.config = Config(host=host, state_dir=run, run_dir=run, database=f"sqlite:///{path / 'egress.db'}")
        self.link = DatabaseLink(self.config.database_url, host)
        self.link.open(create=True)
        self.presence = Presence(self.config, self.link)

    def beat(self, version: int = 1) -> None:
        asyncio.run(self.presence.beat(version, 2))

    def row(self) -> gateways.StoredGateway:
        with self.link.reading() as connection:
            found = gateways.get(connection, self.config.host)
        assert found is not None
        return found


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Callable[..., Machine]]:
    made: list[Machine] = []

    def make(name: str, host: str = "gpu-1") -> Machine:
        made.append(Machine(tmp_path, name, host))
        return made[-1]

    yield make
    for each in made:
        each.link.close()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the times: silence is detected in half a second."""
    monkeypatch.setattr(gateways, "SILENT_SECONDS", 0.5)


def test_after_a_crash_in_the_same_place_it_is_there_at_once(machine: Callable[..., Machine]) -> None:
    machine("here").presence.enter(None)
    again = machine("here")
    began = time.monotonic()
    again.presence.enter("gpu-1")
    assert time.monotonic() - began < gateways.SILENT_SECONDS / 2
    again.beat(7)
    assert (again.row().policy_version, again.row().agents) == (7, 2)


def test_a_second_machine_of_one_name_is_refused_as_soon_as_the_first_shows_that_it_lives(
    machine: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateways, "BEAT_SECONDS", 0.01)
    first, second = machine("here"), machine("there")
    first.presence.enter(None)
    ended = threading.Event()

    def live() -> None:
        while not ended.wait(0.05):
            first.beat()

    living = threading.Thread(target=live)
    living.start()
    try:
        with pytest.raises(EgressError, match="another machine is host gpu-1 at this database: set another `host`"):
            second.presence.enter(None)
    finally:
        ended.set()
        living.join()
    first.beat(2)
    assert first.link.ok


def test_a_machine_that_is_gone_is_waited_out(machine: Callable[..., Machine], soon: None) -> None:
    first, second = machine("here"), machine("there")
    first.presence.enter(None)
    second.presence.enter(None)
    with pytest.raises(DatabaseAwayError, match="another machine is host gpu-1"):
        first.beat(3)
    assert not first.link.ok, "it lost its name while it was silent, and reports that"
    asyncio.run(second.presence.leave())
    first.link.open(create=False)
    asyncio.run(first.presence.renew("gpu-1"))
    first.beat(3)
    assert first.row().policy_version == 3


def test_a_host_that_was_forgotten_while_it_ran_is_there_again(machine: Callable[..., Machine]) -> None:
    first = machine("here")
    first.presence.enter(None)
    with first.link.writing() as connection:
        connection.execute(tables.gateways.delete())
    first.beat(2)
    assert first.row().policy_version == 2


def test_signs_of_life_are_few(machine: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateways, "BEAT_SECONDS", 60.0)
    first = machine("here")
    first.presence.enter(None)
    stored = 0
    store = first.link.store

    async def counted(work: Callable[..., Any]) -> Any:
        nonlocal stored
        stored += 1
        return await store(work)

    monkeypatch.setattr(first.link, "store", counted)
    for version in (1, 1, 1, 2, 2):
        first.beat(version)
    assert stored == 2


@pytest.mark.parametrize("wrong", ["-a", "a b", "a" * 64, "ü", "a\n"])
def test_names_that_are_none(wrong: str) -> None:
    with pytest.raises(InputError, match="host: "):
        Config(host=wrong)


def test_the_machines_own_name_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, wanted in (("gpu-1.example.org", "gpu-1.example.org"), ("(none)", "none-"), ("", "localhost")):
        monkeypatch.setattr("platform.node", lambda name=name: name)
        assert Config().host_name == wanted
        assert Config(host=wanted).host_name == wanted
    assert Config(host="x").host_name == "x"


def test_a_file_goes_with_its_gateway_under_another_name(machine: Callable[..., Machine]) -> None:
    renamed = machine("here", "gpu-2")
    with renamed.link.writing() as connection:
        add_agent(connection, ROOT, StoredAgent(Agent("a"), "netns", "a", 5.0, "gpu-1"))
    renamed.presence.enter("gpu-1")
    with renamed.link.reading() as connection:
        assert [each.agent.name for each in list_agents(connection, "gpu-2")] == ["a"]


def test_a_copy_of_the_machine_does_not_share_its_name(machine: Callable[..., Machine]) -> None:
    """A virtual machine that was copied while it ran has the boot and the run_dir of its original."""
    original, copy = machine("a"), machine("a")
    original.presence.enter(None)
    original.beat()
    copy.presence.enter(None)  # as after a crash
    copy.beat()
    with pytest.raises(DatabaseAwayError, match="another machine is host gpu-1"):
        original.beat(2)
    copy.beat(2)
    assert original.link.error and copy.link.ok
