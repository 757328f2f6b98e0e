"""JSON between supervisor and worker, one object per line: the worker's setup, its orders, its answers.

To the worker:

    the setup                                         first, without "op"
    {"op": "policy.part", "removed": [ids], "added": [rules]}   any number of them, kept until
    {"op": "policy.commit", "base": n, "version": m}  applies them all at once; base -1: they are the whole policy
    {"op": "begin"}                                   bind the queues; the orders above may come before it
    {"op": "journal", "limit": bytes, "full": true}   how far the journal may grow; full: no new flows (JournalGrant)
    {"op": "agents", "agents": [...], "nearby": [...]}   all agents that it watches from now on (and `Setup.nearby`)
    {"op": "overrun", "agent", "dropped"}             packets that the kernel dropped, as its queue was full
    {"op": "answer", "id", "action"}                  ends a hold
    {"op": "tally", "agent"}                          asks for an agent's RefusalCounts, as "tally"
    {"op": "stop"}                                    write the last records and end

From the worker:

    {"type": "policy", "version": m}                  answers each policy.commit
    {"type": "done", "order": n}                      answers an order that carries a number, "order": n
    {"type": "ready"}  {"type": "beat", counters}     its queues are bound; once a second
    {"type": "error", "text"}                         it cannot start
    {"type": "hold", "hold": {fields of Hold}}        a flow or DNS query begins to wait for an operator's decision
    {"type": "hold.ended", "id", "state"}             it ended: "approved", "denied", "expired" or "withdrawn"

"policy" and "done" have an "error" when the order could not be carried out; then no part of it was.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egress.config import Config, Journal, Queue, build
from egress.errors import EgressError
from egress.limits import Limits
from egress.model import Action, Agent, Mode, PolicyChange, Rule
from egress.policy.budgettext import budgets_from_json


@dataclass(frozen=True, slots=True)
class Watched:
    """An agent, the interface that all its traffic crosses, and its queues."""

    agent: Agent
    interface: int  # index
    queue: int  # number of its full-depth queue; the settled one is the next


@dataclass(frozen=True, slots=True)
class JournalGrant:
    """The number of bytes that one process may write to its journal, until the next grant replaces it."""

    limit: int  # bytes that it may have written since it started
    full: bool = False  # the remaining bytes are for flows that have begun: no new flow may pass


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings that a process without privileges gets, named as in `Config`.

    It is an allow-list: a worker meets hostile bytes, so a secret that a new setting holds must not reach it.
    """

    host: str  # this gateway's name
    journal_dir: Path
    user: str
    fail_open: bool
    mark_mask: int
    gate_queries: bool
    refuse_ech: bool
    beacon_alpha: float
    limits: Limits
    queue: Queue
    journal: Journal

    @classmethod
    def of(cls, config: Config, user: str) -> Settings:
        """Make the settings from a config, for a process that becomes `user`."""
        taken = {item.name: getattr(config, item.name) for item in dataclasses.fields(cls)}
        return cls(**taken | {"user": user, "host": config.host_name})


@dataclass(frozen=True, slots=True)
class Setup:
    """The first message to a worker or to the attribution process. The worker's policy follows in parts."""

    config: Settings
    index: int  # of the worker
    parent: int  # the supervisor's process id
    agents: tuple[Watched, ...]
    journal: JournalGrant
    capture: str = ""  # directory of packet captures; empty: none
    attribution: tuple[int, ...] = ()  # a worker's descriptor for notes of new flows; for attribution: one per worker
    nearby: tuple[str, ...] = ()  # this host's addresses, all agents' networks: rules for a name do not mean them


def encode(message: object) -> bytes:
    """Encode a message as a line of JSON with its newline. It may hold JSON values, paths and dataclasses."""
    return json.dumps(message, default=_plain, separators=(",", ":")).encode() + b"\n"


def setup_from(line: bytes) -> Setup:
    """Decode the first message to a process. Raises KeyError, TypeError, ValueError or InputError."""
    document = json.loads(line)
    return Setup(
        config=typing.cast(Settings, build(Settings, document["config"], "setup")),
        index=document["index"],
        parent=document["parent"],
        agents=watched_from(document["agents"]),
        journal=JournalGrant(**document["journal"]),
        capture=document["capture"],
        attribution=tuple(document["attribution"]),
        nearby=tuple(document["nearby"]),
    )


def watched_from(documents: list[dict[str, Any]]) -> tuple[Watched, ...]:
    """Decode agents and their interfaces from JSON values. Raises KeyError, TypeError or ValueError."""
    return tuple(Watched(agent_from(item["agent"]), item["interface"], item["queue"]) for item in documents)


def agent_from(document: dict[str, Any]) -> Agent:
    """Decode an agent from JSON values. Raises KeyError, TypeError or ValueError."""
    return Agent(
        name=document["name"],
        networks=tuple(document["networks"]),
        mode=Mode(document["mode"]),
        default=Action(document["default"]),
        labels=tuple(document["labels"]),
        budgets=budgets_from_json(document["budgets"]),
        quarantined=document["quarantined"],
    )


def rule_from(document: dict[str, Any]) -> Rule:
    """Decode a rule from JSON values. Raises KeyError, TypeError or ValueError."""
    values = dict(document)
    values["action"] = Action(values["action"])
    values["ports"] = tuple((low, high) for low, high in values["ports"])
    values["exempt"] = tuple(values["exempt"])
    return Rule(**values)


class Draft:
    """A change of policy that arrives in parts. A part that is not valid makes `finish` fail, not `add`."""

    def __init__(self) -> None:
        self._removed: list[str] = []
        self._added: list[Rule] = []
        self._broken = ""

    def add(self, part: dict[str, Any]) -> None:
        """Add the removed ids and the added rules of one part."""
        try:
            self._removed += part["removed"]
            self._added += map(rule_from, part["added"])
        except (KeyError, TypeError, ValueError) as error:
            self._broken = f"a part of the policy cannot be read: {type(error).__name__}: {error}"

    def finish(self, commit: dict[str, Any]) -> PolicyChange:
        """Return the change that all parts make together, and start an empty one. `commit` has `base` and `version`.

        Raises EgressError if a part was not valid.
        """
        change = PolicyChange(commit["base"], commit["version"], tuple(self._removed), tuple(self._added))
        broken = self._broken
        self._removed, self._added, self._broken = [], [], ""
        if broken:
            raise EgressError(broken)
        return change


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be a message")
