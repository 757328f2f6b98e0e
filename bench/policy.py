"""Measure a policy of 100,000 rules: compiling, memory, edits, decisions; and names and budgets for a packet."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_address

from egress.model import TCP, Action, Agent, Budget, BudgetSpan, Measure, Policy, PolicyChange, Reason, Rule, Verdict
from egress.policy.affected import ChangeScope
from egress.policy.bindings import Bindings
from egress.policy.budgets import Budgets
from egress.policy.rulebook import Rulebook

RULES = 100_000
COUNT = 20_000
NOW = 1_700_000_000.0
WHO = Agent("train-7", default=Action.REJECT, labels=("gpu",))
REFUSED = Verdict(Action.REJECT, Reason.DEFAULT)
SELECTORS = ("*", "*", "*", "train-*", "label:gpu", "train-7", "other")


@dataclass
class Target:
    """A flow to compare rules with (`rulebook.Subject`)."""

    remote: bytes
    names: frozenset[str] = frozenset()
    said: str | None = None
    rport: int = 443
    proto: int = TCP
    outbound: bool = True
    app: str = ""
    excluded: frozenset[str] = frozenset()
    hidden: bool = False
    rule: Rule | None = None


@dataclass
class Live(Target):
    """A target with a verdict, as of a live flow."""

    who: Agent = WHO
    verdict: Verdict = REFUSED
    objection: Verdict | None = None


def address(number: int, host: int) -> str:
    """Return an IPv4 address that ends with `host`, another one for each number."""
    return f"{20 + number % 180}.{number // 180 % 250}.{number // 45000 % 250}.{host}"


def rule(number: int) -> Rule:
    """Make a rule: half are exact names, a fifth wildcards, the rest addresses and networks; one in twenty denies."""
    destination = (
        f"host{number}.example{number % 997}.org",
        f"api.service{number}.example",
        f"host{number}.internal",
        f"w{number}.region{number % 17}.cloud.example",
        f"*.zone{number}.example.net",
        f"**.deep{number}.example.com",
        address(number, 9),
        address(number, 10),
        address(number, 0) + "/24",
        address(number, 0) + "/28",
    )[number % 10]
    action = Action.REJECT if number % 20 == 13 else Action.ACCEPT
    agent = SELECTORS[number // 10 % len(SELECTORS)]
    expires_at = NOW + number if number % 50 == 0 else None
    return Rule(f"r{number}", action, agent, destination, "tcp", ((443, 443),), expires_at=expires_at)


def compiling() -> dict[str, float]:
    """Measure seconds to compile the rules, and again after an edit; MiB of the compiled form beside the rules."""
    rules = tuple(rule(number) for number in range(RULES))
    gc.collect()
    began = time.perf_counter()
    book = Rulebook(Policy(1, rules))
    first = time.perf_counter()
    edited = Rulebook(Policy(2, rules[1:]), book)
    second = time.perf_counter()
    del book, edited
    gc.collect()
    tracemalloc.start()
    book = Rulebook(Policy(1, rules))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del book
    return {"compile (s)": first - began, "compile after edit (s)": second - first, "memory (MiB)": held / 2**20}


def editing() -> dict[str, float]:
    """Measure milliseconds to edit the rules in place, and to find the flows of an agent that an edit affects."""
    book = Rulebook(Policy(0, tuple(rule(number) for number in range(RULES))))
    flows = [Live(ip_address(address(number, 9)).packed) for number in range(1000)]
    costs = dict.fromkeys(("edit 1 rule", "edit 1,000 rules", "scope of 1 rule", "1,000 flows touched?"), 0.0)
    for count in (1, 1000):
        rounds = COUNT // 100 // count or 1
        began = time.perf_counter()
        for turn in range(rounds):
            edited = [rule((turn * 7919 + number * 97) % RULES) for number in range(count)]
            added = tuple(replace(each, comment="edited") for each in edited)
            book.apply(PolicyChange(book.version, book.version + 1, tuple(each.id for each in edited), added))
        costs[f"edit {count:,} rule{'s'[: count - 1]}"] = (time.perf_counter() - began) / rounds * 1e3
    change = PolicyChange(book.version, book.version + 1, ("r0",), (rule(0),))
    costs["scope of 1 rule"] = _each(lambda: ChangeScope(change, book)) / 1e3
    scope = ChangeScope(change, book)
    began = time.perf_counter()
    if any(scope.includes(flow) for flow in flows):
        raise RuntimeError("the benchmark's edit affects flows that it should not")
    costs["1,000 flows touched?"] = (time.perf_counter() - began) * 1e3
    return costs


def _each(work: Callable[[], object]) -> float:
    """Measure microseconds per call."""
    began = time.perf_counter()
    for _ in range(COUNT):
        work()
    return (time.perf_counter() - began) / COUNT * 1e6


def asking() -> dict[str, float]:
    """Measure microseconds per decision among all rules, and the costs that names and budgets add to a packet."""
    book = Rulebook(Policy(1, tuple(rule(number) for number in range(RULES))))
    elsewhere = ip_address("8.8.8.8").packed
    targets = {
        "address": Target(ip_address(address(6, 9)).packed),
        "network": Target(ip_address(address(8, 77)).packed),
        "name": Target(elsewhere, frozenset({"host0.example0.org"}), "host0.example0.org"),
        "** name": Target(elsewhere, frozenset({"a.b.deep5.example.com"})),
        "miss, address": Target(elsewhere),
        "miss, 4 names": Target(elsewhere, frozenset(f"a.b.c{number}.org" for number in range(4)), "a.b.c1.org"),
    }
    for kind, target in targets.items():
        hit = book.decide(WHO, target, NOW - 1)[0].action is Action.ACCEPT
        if hit == kind.startswith("miss"):
            raise RuntimeError(f"the benchmark's {kind} did not get the verdict it is meant to time")
    costs = {}
    for kind, target in targets.items():
        costs[f"decide, {kind}"] = _each(partial(book.decide, WHO, target, NOW - 1))
    costs["may resolve, hit"] = _each(lambda: book.may_resolve(WHO, "host0.example0.org", NOW - 1))
    costs["may resolve, miss"] = _each(lambda: book.may_resolve(WHO, "www.nowhere.example", NOW - 1))
    bindings = Bindings()
    costs["bind"] = _each(lambda: bindings.bind("train-7", ("a.x.org", "b.x.org"), elsewhere, 300, NOW))
    costs["names of an address"] = _each(lambda: bindings.names_of("train-7", elsewhere, NOW))
    budgets = Budgets()
    limited = Agent("b", budgets=tuple(Budget(Measure.BYTES, 10**12, span) for span in BudgetSpan))
    costs["budget, none"] = _each(lambda: budgets.note_bytes(WHO, 1500, NOW))
    costs["budget, 3 of bytes"] = _each(lambda: budgets.note_bytes(limited, 1500, NOW))
    return costs
