"""The roster: which worker each interface belongs to, and what an edit changes."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.gateway.kernel.hostaddresses import host_addresses
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


def test_agents_of_one_interface_share_a_worker_but_no_queue() -> None:
    roster = Roster(3, 7400)
    roster.replace([entry("a"), entry("b", "shared"), entry("c", "shared")])
    assert roster.worker("b") == roster.worker("c") != roster.worker("a")
    queues = {each.agent: (each.queue, each.settled_queue) for each in roster.attachments()}
    assert queues == {"a": (7400, 7401), "b": (7402, 7403), "c": (7404, 7405)}
    assert {each.agent.name: each.queue for each in roster.watched(roster.worker("b"))} == {"b": 7402, "c": 7404}


def test_agents_that_share_an_interface_are_named_since_one_queue_has_the_packets_of_all() -> None:
    roster = Roster(2)
    two_ways = dataclasses.replace(entry("d"), others=(("further", 6),))
    roster.replace([entry("a"), entry("b", "shared"), entry("c", "shared"), two_ways])
    assert roster.crowded() == {"b", "c"}
    roster.replace([*roster.entries.values(), entry("e", "further")])
    assert roster.crowded() == {"b", "c", "d", "e"}


@given(st.integers(1, 3), st.sampled_from([0, 100]), st.lists(names, min_size=1, max_size=6))
def test_an_agent_keeps_its_queues_and_nobody_gets_them_while_their_worker_may_hold_them(
    workers: int, first: int, rounds: list[list[str]]
) -> None:
    roster, before = Roster(workers, first), dict[str, int]()
    for present in rounds:
        roster.replace(entry(name) for name in present)
        queues = {name: roster.queue(name) for name in present}
        assert all(queues[name] == number for name, number in before.items() if name in queues)
        assert len(set(queues.values())) == len(queues)
        assert not {queues[name] for name in queues.keys() - before.keys()} & set(before.values())
        assert all(number >= first and number % 2 == 0 for number in queues.values())
        before = queues


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


def test_further_interfaces_of_an_agent_go_to_its_queues() -> None:
    roster = Roster(3)
    two = dataclasses.replace(entry("b"), others=(("further0", 9),))
    roster.replace([entry("a"), two, entry("c")])
    places = {each.interface: each.queue for each in roster.attachments()}
    assert places["further0"] == places["veth-b"] != places["veth-a"]
    mine = [(each.agent.name, each.interface, each.queue) for each in roster.watched(roster.worker("b"))]
    assert mine == [("b", 5, places["veth-b"]), ("b", 9, places["veth-b"])]
    assert set(roster.moved()) == {"a", "b", "c"}


def test_names_do_not_mean_this_host_nor_an_agent() -> None:
    roster = Roster(2)
    wide = dataclasses.replace(entry("wide"), agent=Agent("wide", networks=("0.0.0.0/0", "::/0", "192.0.2.0/24")))
    roster.replace([entry("a"), wide])
    assert {"10.0.0.2/32", "192.0.2.0/24", *host_addresses()} == set(roster.nearby)
    assert not roster.readdress(), "they have not changed"
    assert roster.order(roster.worker("a")) == {"agents": roster.watched(roster.worker("a")), "nearby": roster.nearby}
