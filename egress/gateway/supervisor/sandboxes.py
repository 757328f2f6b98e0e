"""The sandboxes of `egress run`: each is made on a request, and destroyed when the request's connection closes."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Set
from dataclasses import dataclass, replace
from typing import Any

from egress.config import Config
from egress.errors import EgressError, InputError
from egress.gateway.pipe.messages import rule_from
from egress.gateway.sandbox import remains, sandbox
from egress.gateway.sandbox.sandbox import Sandbox
from egress.gateway.supervisor.roster import RosterEntry, interface_index
from egress.model import AGENT_NAME, Action, Agent, Mode, Rule
from egress.policy.budgettext import budgets_from_json

MAX_SANDBOXES = 4096


@dataclass(frozen=True, slots=True)
class OpenedSandbox:
    """An open sandbox, its agent and its rules."""

    agent: Agent
    sandbox: Sandbox
    rules: tuple[Rule, ...]  # of its own policy file; they apply to this agent, even if they name another


class Sandboxes:
    """The open sandboxes by agent name. Calls may come from threads; sandboxes are made and removed one at a time."""

    def __init__(self, config: Config) -> None:
        self.open: dict[str, OpenedSandbox] = {}
        self._config = config
        self._changing = threading.Lock()

    def names(self) -> set[str]:
        """Return the agent names of the open sandboxes."""
        return set(self.open)

    def clean(self) -> int:
        """Destroy the sandboxes that a killed gateway left, and remove names in /run/netns that lead nowhere.

        Returns the number of destroyed sandboxes. Raises EgressError.
        """
        left = sandbox.leftovers(self._config)
        for one in left:
            sandbox.destroy(one, self._config)
        remains.clean()
        return len(left)

    def create(self, request: dict[str, Any], taken: Set[str]) -> OpenedSandbox:
        """Make a sandbox from a request: agent (empty: a generated name), mode, default, rules, budgets.

        No packet passes before `connect`. `taken` are the names of other agents. Raises EgressError, InputError for a
        request that is not valid.
        """
        name = request.get("agent") or f"run-{secrets.token_hex(4)}"
        if not isinstance(name, str) or not AGENT_NAME.fullmatch(name):
            raise InputError(f"agent name {name!r} must be letters, digits, . _ - and at most 63 long")
        try:
            mode, default = Mode(request["mode"]), Action(request["default"])
            rules = tuple(map(rule_from, request.get("rules", [])))
            budgets = budgets_from_json(request.get("budgets", []))
        except (KeyError, ValueError, TypeError):
            raise InputError(
                "the request for a sandbox is not valid; use the egress command of the gateway's version"
            ) from None
        with self._changing:
            if name in taken or name in self.open:
                raise EgressError(f"there is an agent {name} already; choose another --agent name")
            if len(self.open) >= MAX_SANDBOXES:
                raise EgressError(f"{MAX_SANDBOXES} sandboxes are open; end some first")
            made = sandbox.create(name, sandbox.free_index(self._config), self._config)
            agent = Agent(name, made.networks, mode, default, ("sandbox",), budgets)
            own = tuple(replace(rule, agent=name, id=f"{name}:{rule.id}") for rule in rules)
            self.open[name] = OpenedSandbox(agent, made, own)
            return self.open[name]

    def connect(self, name: str) -> None:
        """Let packets of a sandbox pass: call it once its interface is guarded. Raises EgressError."""
        sandbox.connect(self.open[name].sandbox)

    def destroy(self, name: str) -> None:
        """Kill the processes in a sandbox and remove it; no effect if it is not open.

        If it cannot be removed, it stays open and guarded: raises EgressError or OSError.
        """
        with self._changing:
            opened = self.open.get(name)
            if opened is not None:
                sandbox.destroy(opened.sandbox, self._config)
                del self.open[name]

    def entries(self) -> list[RosterEntry]:
        """List the roster entries of all open sandboxes.

        A sandbox whose interface its agent has deleted is listed, too: `egress run` still asks for its summary.
        """
        return [
            RosterEntry(
                opened.agent, opened.sandbox.interface, interface_index(opened.sandbox.interface), masquerade=True
            )
            for opened in tuple(self.open.values())  # threads add and remove some meanwhile
        ]
