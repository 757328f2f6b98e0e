"""JSON between supervisor and worker, one object a line: the worker's setup, its orders, its answers.

To the worker: the setup, then {"op": "agents" | "policy" | "tally" | "stop", "seq": n, …}. From the worker:
{"type": "ready" | "error" | "beat" | "done", …}; "done" carries the order's seq. Both ends are ours.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egress.budgettext import budgets_from_json
from egress.config import Config, build
from egress.model import Action, Agent, Mode, Policy, Rule


@dataclass(frozen=True, slots=True)
class Watched:
    """An agent and the interface all its traffic crosses."""

    agent: Agent
    interface: int  # index


@dataclass(frozen=True, slots=True)
class Setup:
    """All a worker is told before it starts."""

    config: Config
    index: int  # of the worker: queues base + 2 * index and the next
    parent: int  # the supervisor's process id
    agents: tuple[Watched, ...]
    policy: Policy
    capture: str = ""  # directory of packet captures; empty: none


def encode(message: object) -> bytes:
    """One line. Takes JSON values and the dataclasses of this module and of the model."""
    return json.dumps(message, default=_plain, separators=(",", ":")).encode() + b"\n"


def setup_from(line: bytes) -> Setup:
    document = json.loads(line)
    return Setup(
        config=typing.cast(Config, build(Config, document["config"], "setup")),
        index=document["index"],
        parent=document["parent"],
        agents=watched_from(document["agents"]),
        policy=policy_from(document["policy"]),
        capture=document["capture"],
    )


def watched_from(documents: list[dict[str, Any]]) -> tuple[Watched, ...]:
    return tuple(Watched(agent_from(item["agent"]), item["interface"]) for item in documents)


def agent_from(document: dict[str, Any]) -> Agent:
    return Agent(
        name=document["name"],
        networks=tuple(document["networks"]),
        mode=Mode(document["mode"]),
        default=Action(document["default"]),
        labels=tuple(document["labels"]),
        budgets=budgets_from_json(document["budgets"]),
    )


def policy_from(document: dict[str, Any]) -> Policy:
    return Policy(document["version"], tuple(map(rule_from, document["rules"])))


def rule_from(document: dict[str, Any]) -> Rule:
    values = dict(document)
    values["action"] = Action(values["action"])
    values["ports"] = tuple((low, high) for low, high in values["ports"])
    values["exempt"] = tuple(values["exempt"])
    return Rule(**values)


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no message")
