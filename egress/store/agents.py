"""The agents that `egress agent add` attached: who they are and what they are attached to."""

from __future__ import annotations

import ipaddress
import re
import time
from dataclasses import dataclass, fields

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.exc import IntegrityError

from egress.budgettext import check_budgets
from egress.errors import EgressError, InputError
from egress.model import Agent
from egress.store.database import writing
from egress.store.tables import ATTACHMENTS, agents

MAX_LABEL = 128  # characters

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)


@dataclass(frozen=True, slots=True)
class StoredAgent:
    """An agent and its attachment: a network namespace, an interface (veth, bridge), a CIDR behind an interface."""

    agent: Agent
    kind: str  # netns, interface, cidr
    value: str
    created: float = 0.0  # seconds since the epoch; 0: now, when it is added


def add_agent(engine: Engine, stored: StoredAgent) -> None:
    """Add a row. Raises EgressError where the name is taken, InputError for a bad name, network, label, budget or
    attachment.
    """
    _check(stored)
    row = {field.name: getattr(stored.agent, field.name) for field in fields(Agent)}
    row.update(kind=stored.kind, value=stored.value, created=stored.created or time.time())
    try:
        with writing(engine) as connection:
            connection.execute(agents.insert(), row)
    except IntegrityError:
        name = stored.agent.name
        raise EgressError(f"there is an agent {name} already; `egress agent rm {name}` removes it") from None


def list_agents(engine: Engine) -> tuple[StoredAgent, ...]:
    """All of them, by name."""
    with engine.connect() as connection:
        rows = connection.execute(sa.select(agents).order_by(agents.c.name)).mappings().all()
    names = [field.name for field in fields(Agent)]
    return tuple(
        StoredAgent(Agent(**{name: row[name] for name in names}), row["kind"], row["value"], row["created"])
        for row in rows
    )


def remove_agent(engine: Engine, name: str) -> StoredAgent:
    """Take an agent out and return what it was; its records stay. Raises EgressError where there is none."""
    with writing(engine) as connection:
        found = next((stored for stored in list_agents(engine) if stored.agent.name == name), None)
        if found is None:
            raise EgressError(f"there is no agent {name}; `egress agent list` shows them")
        connection.execute(agents.delete().where(agents.c.name == name))
    return found


def _check(stored: StoredAgent) -> None:
    if not _NAME.fullmatch(stored.agent.name):
        raise InputError(f"agent name {stored.agent.name!r} must be letters, digits, . _ - and at most 63 long")
    if stored.kind not in ATTACHMENTS:
        raise InputError(f"attachment {stored.kind!r} must be one of {', '.join(ATTACHMENTS)}")
    if not stored.value.isprintable() or not stored.value:
        raise InputError(f"attachment {stored.kind} needs the name of what is attached, not {stored.value!r}")
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
