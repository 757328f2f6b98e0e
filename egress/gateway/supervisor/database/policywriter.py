"""The gateway's own edits of the policy, and its reads of policy and agents. All run in the caller's transaction.

The edits: rules of the policy file and of sandboxes, and the removal of spent rules (`once` rules that have admitted
their flow).
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


class TrailError(EgressError):
    """The audit trail lacks an entry that this gateway has seen."""


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """The policy file: the one that `--policy` (`named`) or the config names, else the default one if it exists."""

    config: Config
    named: Path | None = None

    @property
    def path(self) -> Path:
        return self.named or self.config.policy or POLICY_FILE

    def read(self) -> tuple[Rule, ...]:
        """Read the rules; none if the default file does not exist.

        Raises InputError if the file is not valid, or a file that was named does not exist.
        """
        if self.path == POLICY_FILE and not POLICY_FILE.exists():
            return ()
        return load_policy(self.path)

    def sync(self, connection: Connection, listed: tuple[Rule, ...]) -> None:
        """Replace the stored rules of this host's file by `listed`. Raises EgressError if another source has an id.

        A configured `host` becomes part of each id: hosts that share a database often have similar files, and records
        name rules by id alone.
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
    """The edits since the last read, and the agents after them."""

    audit: int  # the newest audit entry that is included
    head: str  # its hash
    change: PolicyChange  # its version is its base where the policy did not change
    made: float | None  # when the first of its versions was made
    agents: tuple[StoredAgent, ...]
    denied: frozenset[str]  # ids of pending holds that a person denied


def read_all(connection: Connection, host: str) -> Snapshot:
    """Read the policy and the agents of a host."""
    newest, head = audit.head(connection)
    policy = ruleset.snapshot(connection, host=host)
    listed = agents.list_agents(connection, host)
    return Snapshot(policy.version if policy else 0, newest, policy.rules if policy else (), listed, host, head)


def read_edits(
    connection: Connection, host: str, version: int, entry: int, seen: str, pending: frozenset[str]
) -> Edits | None:
    """Read the edits for a host after policy `version` and audit `entry`. None: there were none.

    Of the holds `pending` (ids), the denied ones are included. The newest entry is read first: a commit that comes
    meanwhile is seen now or with the next read, never missed. Raises TrailError if the entry with the hash `seen` is
    gone.
    """
    newest, head = audit.head(connection)
    if newest == entry and head == seen:
        return None
    require_entry(connection, entry, seen)
    change = ruleset.changes(connection, version, host)
    made = ruleset.made(connection, version) if change.version != version else None
    denied = approvals.denied(connection, pending) if pending else ()
    return Edits(newest, head, change, made, agents.list_agents(connection, host), frozenset(denied))


def require_entry(connection: Connection, entry: int, seen: str) -> None:
    """Raise TrailError if the audit trail lacks an entry that this gateway has seen, by its number and hash."""
    if lost := audit.lacks(connection, audit.Anchor(seen, entry, " by this gateway")):
        raise TrailError(f"{lost}; bring the right database back")


def add_sandbox(connection: Connection, sandbox: StoredAgent, own: tuple[Rule, ...]) -> None:
    """Add a sandbox and its own rules."""
    agents.add_agent(connection, GATEWAY, sandbox)
    if own:
        Edit(connection, GATEWAY, time.time()).sync(_source(sandbox.agent.name), own, sandbox.host)


def remove_sandbox(connection: Connection, host: str, name: str) -> None:
    """Remove a sandbox of this host and its own rules; no effect if there is none of this name."""
    Edit(connection, GATEWAY, time.time()).sync(_source(name), (), host)
    there = agents.agent(connection, name)
    if there is not None and there.kind == SANDBOX and there.host == host:
        agents.remove_agent(connection, GATEWAY, name)


def remove_other_sandboxes(connection: Connection, host: str, names: set[str]) -> None:
    """Remove this host's sandboxes except `names`: left by a killed gateway, or closed while the database was away."""
    for stored in agents.list_agents(connection, host):
        if stored.kind == SANDBOX and stored.agent.name not in names:
            remove_sandbox(connection, host, stored.agent.name)


def spent_rules(connection: Connection, host: str) -> frozenset[str]:
    """Read the ids of `once` rules that have admitted their flow, of an agent on this host or of one that is gone."""
    return frozenset(ruleset.spent(connection, host))


def remove_spent(connection: Connection, host: str, ids: frozenset[str]) -> None:
    """Remove those of the rules `ids` that are still spent: an edit meanwhile may have renewed some."""
    Edit(connection, GATEWAY, time.time()).remove(sorted(ids & spent_rules(connection, host)))


def _source(name: str) -> str:
    return f"{SANDBOX}:{name}"
