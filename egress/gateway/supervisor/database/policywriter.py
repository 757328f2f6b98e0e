"""What the gateway itself writes into the policy: the rules of the policy file, those of its sandboxes, spent ones out.

And what it reads there: everything that was edited since it looked last. All inside a transaction of the caller's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from egress.config import POLICY_FILE, Config
from egress.errors import EgressError
from egress.gateway.supervisor.snapshot import Snapshot
from egress.model import PolicyChange, Rule
from egress.policy.file import load_policy
from egress.store.database.errors import ConflictError
from egress.store.database.handles import Connection
from egress.store.database.tables import SANDBOX
from egress.store.policy import agents, approvals, audit, ruleset
from egress.store.policy.agents import StoredAgent
from egress.store.policy.audit import Actor
from egress.store.policy.edits import Edit

GATEWAY = Actor(audit.GATEWAY)


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """The file that `--policy` or the config names, else the default one where it exists."""

    config: Config
    named: Path | None = None

    @property
    def path(self) -> Path:
        return self.named or self.config.policy or POLICY_FILE

    def read(self) -> tuple[Rule, ...]:
        """Raises InputError for a file that is broken, or named and missing."""
        if self.path == POLICY_FILE and not POLICY_FILE.exists():
            return ()
        return load_policy(self.path)

    def sync(self, connection: Connection, listed: tuple[Rule, ...]) -> None:
        """Make these the rules of this host's file. Raises EgressError where one's id is taken by another rule.

        Records name rules by id alone: a configured host's name is part of it, for a fleet's hosts have like files.
        """
        if self.config.host:
            listed = tuple(replace(rule, id=f"{self.config.host}:{rule.id}") for rule in listed)
        try:
            Edit(connection, GATEWAY, time.time()).sync(ruleset.FILE, listed, self.config.host_name)
        except ConflictError as error:
            hint = "" if self.config.host else "; several gateways at one database each need a `host` in their config"
            raise EgressError(f"{self.path}: {error}{hint}") from None


@dataclass(frozen=True, slots=True)
class Edits:
    """What was edited."""

    audit: int  # the newest entry
    change: PolicyChange  # its version is its base where the policy did not change
    made: float | None  # when the first of its versions was made
    agents: tuple[StoredAgent, ...]
    denied: frozenset[str]  # holds


def everything(connection: Connection, host: str) -> Snapshot:
    """The policy and the agents of a host now."""
    newest = audit.latest(connection)
    policy = ruleset.snapshot(connection, host=host)
    listed = agents.list_agents(connection, host)
    return Snapshot(policy.version if policy else 0, newest, policy.rules if policy else (), listed, host)


def news(connection: Connection, host: str, version: int, entry: int, pending: frozenset[str]) -> Edits | None:
    """What was edited for a host after policy `version` and audit `entry`, for these holds too; None: nothing at all.

    The entry is read first: what is committed meanwhile is seen now or with the next look, never missed.
    """
    newest = audit.latest(connection)
    if newest == entry:
        return None
    change = ruleset.changes(connection, version, host)
    made = ruleset.made(connection, version) if change.version != version else None
    denied = approvals.denied(connection, pending) if pending else ()
    return Edits(newest, change, made, agents.list_agents(connection, host), frozenset(denied))


def enter(connection: Connection, sandbox: StoredAgent, own: tuple[Rule, ...]) -> None:
    """A sandbox and its own rules, until `leave`."""
    agents.add_agent(connection, GATEWAY, sandbox)
    if own:
        Edit(connection, GATEWAY, time.time()).sync(_source(sandbox.agent.name), own, sandbox.host)


def leave(connection: Connection, host: str, name: str) -> None:
    """Nothing where this host has no such sandbox."""
    Edit(connection, GATEWAY, time.time()).sync(_source(name), (), host)
    there = agents.agent(connection, name)
    if there is not None and there.kind == SANDBOX and there.host == host:
        agents.remove_agent(connection, GATEWAY, name)


def leave_all_but(connection: Connection, host: str, names: set[str]) -> None:
    """Take out sandboxes that are gone: of a gateway that was killed, or closed while the database was away."""
    for stored in agents.list_agents(connection, host):
        if stored.kind == SANDBOX and stored.agent.name not in names:
            leave(connection, host, stored.agent.name)


def spent(connection: Connection, host: str) -> frozenset[str]:
    """Ids of `once` rules that have admitted their flow, here or of an agent that is gone."""
    return frozenset(ruleset.spent(connection, host))


def remove(connection: Connection, host: str, ids: frozenset[str]) -> None:
    """Take rules out that are spent; those that were edited meanwhile stay."""
    Edit(connection, GATEWAY, time.time()).remove(sorted(ids & spent(connection, host)))


def _source(name: str) -> str:
    return f"{SANDBOX}:{name}"
