"""The agents: those attached by `egress agent add`, and the running sandboxes of `egress run`."""

from __future__ import annotations

import ipaddress
import time
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from egress.errors import InputError
from egress.model import AGENT_NAME, Action, Agent, Budget, Mode
from egress.policy.budgettext import budgets_to_json, check_budgets
from egress.store.database.errors import ConflictError, NotFoundError
from egress.store.database.tables import ATTACHMENTS, SANDBOX, agents
from egress.store.policy.audit import GATEWAY, Actor, note

MAX_LABEL = 128  # characters

_FIELDS = [field.name for field in fields(Agent)]


@dataclass(frozen=True, slots=True)
class StoredAgent:
    """An agent and its attachment: a network namespace, an interface (veth, bridge), or a CIDR behind an interface.

    The gateway itself attaches a sandbox, by its interface.
    """

    agent: Agent
    kind: str  # netns, interface, cidr, sandbox
    value: str  # the namespace, interface or CIDR
    created: float = 0.0  # seconds since the epoch; 0: the time when it is added
    host: str = ""  # where it is attached; names are unique over all hosts, because records refer to agents by name


def add_agent(connection: Connection, actor: Actor, stored: StoredAgent, ts: float | None = None) -> StoredAgent:
    """Add an agent and return it as stored; it is audited as agent.create. `ts`: seconds; None: now.

    Raises ConflictError if the name is taken on any host, InputError if a field is not valid (`check`).
    """
    check(stored)
    ts = time.time() if ts is None else ts
    name = stored.agent.name
    if (there := agent(connection, name)) is not None:
        how = "it ends with its command" if there.kind == SANDBOX else f"`egress agent rm {name}` removes it"
        where = f" on host {there.host}" if there.host else ""
        raise ConflictError(f"there is an agent {name} already{where}; {how}", name)
    stored = replace(stored, created=stored.created or ts)
    row = {field: getattr(stored.agent, field) for field in _FIELDS}
    row.update(kind=stored.kind, value=stored.value, created=stored.created, host=stored.host)
    connection.execute(agents.insert(), row)
    note(connection, actor, ts, "agent.create", name, None, to_mapping(stored))
    return stored


def list_agents(connection: Connection, host: str | None = None) -> tuple[StoredAgent, ...]:
    """The agents of a host, or of all hosts (None), sorted by name."""
    query = sa.select(agents).order_by(agents.c.name)
    rows = connection.execute(query if host is None else query.where(agents.c.host == host))
    return tuple(_stored(row) for row in rows)


def count_quarantined(connection: Connection) -> int:
    """The number of agents in quarantine."""
    return connection.scalar(sa.select(sa.func.count()).select_from(agents).where(agents.c.quarantined)) or 0


def agent(connection: Connection, name: str) -> StoredAgent | None:
    """The agent with this name; None if it is not attached."""
    row = connection.execute(sa.select(agents).where(agents.c.name == name)).first()
    return None if row is None else _stored(row)


def remove_agent(connection: Connection, actor: Actor, name: str, ts: float | None = None) -> StoredAgent:
    """Remove an agent and return it; its records stay. It is audited as agent.delete. `ts`: seconds; None: now.

    Raises NotFoundError if there is no such agent; ConflictError for a sandbox, which only the gateway removes.
    """
    gone = _known(connection, name)
    if gone.kind == SANDBOX and actor.name != GATEWAY:
        raise ConflictError(f"agent {name} is a sandbox of `egress run` and ends with its command", name)
    connection.execute(agents.delete().where(agents.c.name == name))
    note(connection, actor, time.time() if ts is None else ts, "agent.delete", name, to_mapping(gone), None)
    return gone


def update_agent(
    connection: Connection,
    actor: Actor,
    name: str,
    *,
    mode: Mode | None = None,
    default: Action | None = None,
    labels: tuple[str, ...] | None = None,
    budgets: tuple[Budget, ...] | None = None,
    quarantined: bool | None = None,
    ts: float,
) -> StoredAgent:
    """Change the settings that are not None, and return the agent with them.

    A change of quarantine is audited as agent.quarantine or agent.release, other changes as agent.update. Raises
    NotFoundError if there is no such agent, InputError if a value is not valid.
    """
    old = _known(connection, name)
    wanted: dict[str, Any] = {"mode": mode, "default": default, "labels": labels, "budgets": budgets}
    given = {field: value for field, value in wanted.items() if value is not None}
    new = replace(old, agent=replace(old.agent, **given))
    check(new)
    if new != old:
        note(connection, actor, ts, "agent.update", name, to_mapping(old), to_mapping(new))
    if quarantined is not None and quarantined != old.agent.quarantined:
        was, new = new, replace(new, agent=replace(new.agent, quarantined=quarantined))
        action = "agent.quarantine" if quarantined else "agent.release"
        note(connection, actor, ts, action, name, to_mapping(was), to_mapping(new))
    if new != old:
        row = {field: getattr(new.agent, field) for field in _FIELDS}
        connection.execute(agents.update().where(agents.c.name == name).values(**row))
    return new


def to_mapping(stored: StoredAgent) -> dict[str, object]:
    """The agent as a mapping of plain JSON types, for an entry of the audit chain."""
    written = asdict(stored.agent) | {"budgets": budgets_to_json(stored.agent.budgets)}
    return written | {"kind": stored.kind, "value": stored.value, "created": stored.created, "host": stored.host}


def check(stored: StoredAgent) -> None:
    """Raise InputError if the name, a network, a label, a budget, the default or the attachment is not valid."""
    if not AGENT_NAME.fullmatch(stored.agent.name):
        raise InputError(f"agent name {stored.agent.name!r} must be letters, digits, . _ - and at most 63 long")
    if stored.kind not in (*ATTACHMENTS, SANDBOX):
        raise InputError(f"attachment {stored.kind!r} must be one of {', '.join(ATTACHMENTS)}")
    if not stored.value.isprintable() or (not stored.value and stored.kind != SANDBOX):
        raise InputError(f"attachment {stored.kind} needs the name of what is attached, not {stored.value!r}")
    if stored.agent.default is Action.HOLD:
        raise InputError(f"agent {stored.agent.name}: its default is to accept, reject or drop; mode ask holds")
    for network in stored.agent.networks:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise InputError(f"agent {stored.agent.name}: network {error}") from None
    for label in stored.agent.labels:
        if not label or not label.isprintable() or len(label) > MAX_LABEL:
            raise InputError(f"label {ascii(label)[:60]} must be 1 to {MAX_LABEL} printable characters")
    try:
        check_budgets(stored.agent.budgets)
    except ValueError as error:
        raise InputError(f"agent {stored.agent.name}: a budget {error}") from None


def _known(connection: Connection, name: str) -> StoredAgent:
    found = agent(connection, name)
    if found is None:
        raise NotFoundError(f"there is no agent {name}; `egress agent list` shows them", name)
    return found


def _stored(row: sa.Row[Any]) -> StoredAgent:
    values = row._mapping
    return StoredAgent(
        Agent(**{name: values[name] for name in _FIELDS}),
        *(values[name] for name in ("kind", "value", "created", "host")),
    )
