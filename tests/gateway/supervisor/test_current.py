"""Orders for workers: applied in order, they give each worker the policy in force."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.gateway.pipe.messages import rule_from
from egress.gateway.supervisor.current import NOTHING, SLICE, Current, Orders
from egress.gateway.supervisor.snapshot import Snapshot
from egress.model import Action, PolicyChange, Rule

IDS = [f"r{number}" for number in range(6)]


class Worker:
    """The obvious reading of the orders: parts are kept until the commit, which applies them at once."""

    def __init__(self) -> None:
        self.version = 0
        self.rules: dict[str, Rule] = {}
        self._removed: list[str] = []
        self._added: list[Rule] = []

    def hear(self, orders: Orders) -> None:
        for line in orders:
            assert line.endswith(b"\n")
            self._hear(json.loads(line))

    def _hear(self, order: dict[str, Any]) -> None:
        if order["op"] == "policy.part":
            assert len(order["removed"]) <= SLICE
            assert len(order["added"]) <= SLICE
            self._removed += order["removed"]
            self._added += map(rule_from, order["added"])
            return
        assert order["op"] == "policy.commit"
        if order["base"] == NOTHING:
            self.rules.clear()
        else:
            assert order["base"] == self.version
        for gone in self._removed:
            del self.rules[gone]
        for rule in self._added:
            assert rule.id not in self.rules
            self.rules[rule.id] = rule
        self.version, self._removed, self._added = order["version"], [], []


def rule(name: str, *, once: bool = False, comment: str = "") -> Rule:
    return Rule(name, Action.ACCEPT, once=once, comment=comment)


def numbered(count: int) -> tuple[Rule, ...]:
    return tuple(Rule(f"n{number}", Action.ACCEPT, position=number) for number in range(count))


@pytest.mark.parametrize("count", [0, 1, SLICE, SLICE + 1, 3 * SLICE])
def test_a_worker_that_has_nothing_is_told_everything_in_the_rules_order(count: int) -> None:
    now, worker = Current(), Worker()
    now.replace(Snapshot(7, 1, numbered(count)[::-1]))
    worker.hear(now.orders())
    assert (worker.version, tuple(worker.rules.values())) == (7, numbered(count))


def test_a_removal_of_many_is_cut_into_slices_too() -> None:
    worker, many = Worker(), numbered(2 * SLICE + 1)
    worker.hear(Orders(PolicyChange(NOTHING, 1, (), many)))
    worker.hear(Orders(PolicyChange(1, 2, tuple(each.id for each in many[1:]), (rule("new"),))))
    assert list(worker.rules) == ["n0", "new"]


def test_lines_are_encoded_once_for_all_who_read_them() -> None:
    orders = Orders(PolicyChange(NOTHING, 1, (), numbered(SLICE + 1)))
    asyncio.run(orders.encoded())
    assert all(one is other for one, other in zip(orders, orders, strict=True))


@given(st.lists(st.tuples(st.sampled_from(IDS), st.booleans(), st.booleans()), max_size=25))
def test_after_any_edits_a_worker_has_the_rules_in_force_and_used_ones(
    edits: list[tuple[str, bool, bool]],
) -> None:
    """A once rule that was used stays with the workers until a rule with its id is added."""
    now, worker = Current(), Worker()
    for number, (name, once, spent) in enumerate(edits, 1):
        there = now.rules.get(name)
        gone, come = ((name,), ()) if there else ((), (rule(name, once=once, comment=str(number)),))
        used = frozenset(gone) if there and there.once and spent else frozenset()
        change = PolicyChange(now.version, number, gone, come)
        orders = now.orders_for(change, used)
        now.change(change, used)
        worker.hear(orders or now.orders())
        assert worker.version == now.version == number
        assert {name: worker.rules[name] for name in now.rules} == now.rules
        assert now.once == {name for name, each in now.rules.items() if each.once}
        assert worker.rules.keys() - now.rules.keys() <= now.lingering
    late = Worker()
    late.hear(now.orders())
    assert late.rules == now.rules


def test_a_spent_rule_that_is_edited_at_the_same_time_is_not_left_to_linger() -> None:
    now, worker = Current(), Worker()
    now.replace(Snapshot(1, 1, (rule("single", once=True),)))
    worker.hear(now.orders())
    change = PolicyChange(1, 2, ("single",), (rule("single", once=True, comment="again"),))
    orders = now.orders_for(change, frozenset({"single"}))
    now.change(change, frozenset({"single"}))
    worker.hear(orders or now.orders())
    assert worker.rules == now.rules
    assert worker.rules["single"].comment == "again"
