"""The roster: which worker each interface belongs to, and what an edit changes."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.config import Config
from egress.gateway.supervisor.roster import Roster, RosterEntry, interface_index
from egress.model import Agent, Mode

names = st.lists(st.sampled_from("abcdefgh"), unique=True)


def entry(name: str, interface: str = "", index: int = 5) -> RosterEntry:
    return RosterEntry(Agent(name, networks=("10.0.0.2/32",)), interface or f"veth-{name}", index, masquerade=False)


@given(st.integers(1, 4), st.lists(names, min_size=1, max_size=5))
def test_interfaces_stay_with_their_worker_and_new_ones_go_to_the_least_loaded(
    workers: int, rounds: list[list[str]]
) -> None:
    roster, before = Roster(workers), dict[str, int]()
    for present in rounds:
        roster.replace(entry(name) for name in present)
        assigned = {name: roster.worker(name) for name in present}
        assert all(assigned[name] == worker for name, worker in before.items() if name in assigned)
        loads = [sum(worker == number for worker in assigned.values()) for number in range(workers)]
        kept = [sum(before.get(name) == number for name in present) for number in range(workers)]
        assert all(load == old or load <= min(loads) + 1 for load, old in zip(loads, kept, strict=True))
        assert [each.agent.name for number in range(workers) for each in roster.watched(number)] == [
            name for number in range(workers) for name in present if assigned[name] == number
        ]
        before = assigned


def test_agents_of_one_interface_share_a_worker_and_its_two_queues() -> None:
    roster = Roster(3)
    roster.replace([entry("a"), entry("b", "shared"), entry("c", "shared")])
    assert roster.worker("b") == roster.worker("c") != roster.worker("a")
    config = Config()
    queues = {each.agent: (each.queue, each.settled_queue) for each in roster.attachments(config)}
    first = config.queue.base + 2 * roster.worker("b")
    assert queues["b"] == queues["c"] == (first, first + 1)


def test_an_edit_changes_all_but_the_networks() -> None:
    roster = Roster(1)
    roster.replace([entry("a"), entry("b")])
    edited = dataclasses.replace(entry("a").agent, mode=Mode.MONITOR, networks=("192.0.2.0/24",))
    assert roster.adopt({"a": edited})
    agent = roster.entries["a"].agent
    assert (agent.mode, agent.networks) == (Mode.MONITOR, ("10.0.0.2/32",))
    assert not roster.adopt({"a": edited}), "nothing has changed"


def test_an_interface_that_is_another_one_now_is_named() -> None:
    roster = Roster(1)
    here = interface_index("lo")
    assert here > 0
    roster.replace([entry("same", "lo", here), entry("other", "lo", here + 1), entry("gone", "no-such-link")])
    assert roster.moved() == ["other", "gone"]
    roster.replace([dataclasses.replace(entry("gone", "no-such-link"), absent=True)])
    assert roster.moved() == []


def test_an_agent_that_is_not_watched_has_no_worker() -> None:
    with pytest.raises(KeyError):
        Roster(1).worker("a")
