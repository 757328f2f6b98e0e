"""The gateways that share this database: claims to host names, heartbeats, and moving or removing a host's rows.

A gateway claims the name of its host by a row, which it renews every few seconds. Another one that wants the name waits
until the holder has been silent for `SILENT_SECONDS`. It does not wait if the holder stopped cleanly, or ran in the
same place (the same boot of a machine and the same run_dir, whose lock only one process has): then it is gone for
certain. Times are those of the database, so the clocks of the hosts need not agree.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from egress.store.database.clock import clock
from egress.store.database.errors import ConflictError, NotFoundError
from egress.store.database.rows import decode, decode_first
from egress.store.database.tables import agents, gateways, journal_checkpoints, rules
from egress.store.database.tables import approvals as holds
from egress.store.policy import approvals
from egress.store.policy.agents import list_agents, remove_agent
from egress.store.policy.audit import GATEWAY, Actor, note
from egress.store.policy.edits import Edit
from egress.store.policy.ruleset import ALLOWLIST, LIVE

BEAT_SECONDS = 5.0  # between two heartbeats
SILENT_SECONDS = 20.0  # without a heartbeat: the gateway is gone, or cannot reach the database

UP, SILENT, STOPPED = "up", "silent", "stopped"


@dataclass(frozen=True, slots=True)
class StoredGateway:
    """A gateway, stored under the name of its host. Times are seconds, by the clock of the database."""

    host: str
    run: str  # random, new with each start of a gateway
    place: str  # where it runs: two gateways never run in one place at the same time
    program: str  # version of egress
    started: float
    seen: float
    stopped: float | None
    skew: float  # seconds that its clock is ahead of the database's
    policy_version: int  # in force in all its workers
    agents: int  # number of its agents

    def state(self, now: float) -> str:
        """Return UP, SILENT or STOPPED; `now` is the time of the database's clock."""
        if self.stopped is not None:
            return STOPPED
        return UP if abs(now - self.seen) < SILENT_SECONDS else SILENT  # a clock may have been set back


def listed(connection: Connection) -> tuple[StoredGateway, ...]:
    """All gateways that were not removed, sorted by host."""
    return tuple(decode(StoredGateway, connection.execute(sa.select(gateways).order_by(gateways.c.host))))


def get(connection: Connection, host: str) -> StoredGateway | None:
    """The gateway of a host; None if there is none."""
    return decode_first(StoredGateway, connection.execute(sa.select(gateways).where(gateways.c.host == host)))


def claim(
    connection: Connection, host: str, run: str, place: str, program: str, *, had: bool = False
) -> StoredGateway | None:
    """Claim the name of a host for this gateway, in a transaction of `database.writing`.

    Returns None on success, else the gateway that has the name; the caller may try again later. `run`, `place` and
    `program` are stored as in StoredGateway. `had`: this run has had the name before. Then a gateway in the same place
    is not an earlier run of this one, but runs on a copy of this machine, and keeps the name while it is up.
    """
    now, skew = clock(connection)
    there = get(connection, host)
    if there is not None and there.run == run:
        return None
    if there is not None and (had or there.place != place) and there.state(now) == UP:
        return there
    connection.execute(gateways.delete().where(gateways.c.host == host))
    connection.execute(gateways.insert(), _row(StoredGateway(host, run, place, program, now, now, None, skew, 0, 0)))
    return None


def beat(connection: Connection, host: str, run: str, policy_version: int, watched: int) -> bool:
    """Store a heartbeat, with the policy version in force and the number of agents that the gateway watches.

    Returns False if this run does not hold the name any more.
    """
    now, skew = clock(connection)
    alive = {"seen": now, "skew": skew, "policy_version": policy_version, "agents": watched, "stopped": None}
    return connection.execute(gateways.update().where(*_mine(host, run)).values(**alive)).rowcount > 0


def leave(connection: Connection, host: str, run: str) -> None:
    """Mark the gateway as stopped, which releases the name at once. Does nothing if this run does not hold it."""
    now, _ = clock(connection)
    connection.execute(gateways.update().where(*_mine(host, run)).values(seen=now, stopped=now, agents=0))


def adopt(connection: Connection, host: str, was: str | None) -> None:
    """Give this gateway's rows its present host name.

    `was`: its name when it last ran; "": it ran before rows had a host; None: not known, or it never ran. A SQLite file
    has one gateway, so all rows are moved. On PostgreSQL only rows without a host are, and only if `was` is "": those
    of another name may belong to another gateway by now. Raises ConflictError on PostgreSQL while agents are attached
    under another name `was`, since this gateway would leave them unguarded; on SQLite if another gateway uses the file.
    """
    if connection.dialect.name == "sqlite":
        _require_alone(connection, host)
        connection.execute(gateways.delete().where(gateways.c.host != host))
        _move(connection, None, host)
    elif was == "":
        _move(connection, "", host)
    elif was not in (None, host) and (left := _attached(connection, was)):
        raise ConflictError(
            f"this gateway was host {was} when it last ran, and {left} agents are attached there: set `host: {was}` in"
            f" its config, or give them to {host} with `egress fleet rename {was} {host}`; where this is a copy of that"
            " machine remove policy.json from its state_dir",
            was,
        )


def rename(connection: Connection, actor: Actor, old: str, new: str, ts: float) -> None:
    """Move all rows of a host to another name; audited as host.rename.

    Raises NotFoundError if there is no host `old`; ConflictError if its gateway runs, or if there is a host `new`.
    """
    _unused(connection, old)
    if get(connection, new) is not None or _attached(connection, new):
        raise ConflictError(f"host {new} already exists; `egress fleet rm {new}` removes it", new)
    _move(connection, old, new)
    connection.execute(gateways.delete().where(gateways.c.host == old))
    note(connection, actor, ts, "host.rename", new, {"host": old}, {"host": new})


def forget(connection: Connection, actor: Actor, host: str, ts: float) -> int:
    """Remove a host: its agents and the rules of its file and sandboxes; returns the number of agents.

    Its pending approvals are withdrawn. The checkpoints of its journal stay, in case the host returns with its journal.
    Audited as host.forget. Raises NotFoundError; ConflictError while the host's gateway runs.
    """
    _unused(connection, host)
    gone = list_agents(connection, host)
    for each in gone:
        # As the gateway, which alone may remove sandboxes; the audit entry below names the author.
        remove_agent(connection, Actor(GATEWAY, actor.request_id), each.agent.name, ts)
    edit = Edit(connection, actor, ts)
    sources = sa.select(rules.c.source).where(LIVE, rules.c.host == host, rules.c.source != ALLOWLIST).distinct()
    for source in connection.scalars(sources).all():
        edit.sync(source, (), host)
    approvals.withdraw_all(connection, ts, host)
    connection.execute(gateways.delete().where(gateways.c.host == host))
    note(connection, actor, ts, "host.forget", host, {"agents": len(gone)}, None)
    return len(gone)


def _require_alone(connection: Connection, host: str) -> None:
    """Raise ConflictError if a gateway in another place is up."""
    (now, _), mine = clock(connection), get(connection, host)
    for other in listed(connection):
        if other.state(now) == UP and (mine is None or other.place != mine.place):
            raise ConflictError(
                f"a gateway that is host {other.host} uses this SQLite file, which serves one: give each a state_dir"
                " of its own, or a PostgreSQL database to all",
                other.host,
            )


def _unused(connection: Connection, host: str) -> None:
    """Raise NotFoundError if there is no such host, ConflictError if its gateway runs."""
    there = get(connection, host)
    if there is None and not _attached(connection, host):
        raise NotFoundError(f"there is no host {host}; `egress fleet list` lists them", host)
    if there is not None and there.state(clock(connection)[0]) == UP:
        raise ConflictError(f"a gateway runs on host {host}; stop it first", host)


def _attached(connection: Connection, host: str) -> int:
    return connection.scalar(sa.select(sa.func.count()).select_from(agents).where(agents.c.host == host)) or 0


def _move(connection: Connection, old: str | None, new: str) -> None:
    """Move all rows of the host `old` (None: of any host) to the host `new`.

    Where both have a checkpoint for a segment, both are deleted: the segment is read again, which stores no record
    twice.
    """
    marks = journal_checkpoints.c
    theirs = sa.true() if old is None else marks.host.in_((old, new))
    several = sa.select(marks.segment).where(theirs).group_by(marks.segment).having(sa.func.count() > 1)
    connection.execute(journal_checkpoints.delete().where(theirs, marks.segment.in_(several)))
    for table in (agents, holds, journal_checkpoints, rules):
        terms = [table.c.host != new if old is None else table.c.host == old]
        if table is rules:
            terms.append(rules.c.source != ALLOWLIST)
        connection.execute(table.update().where(*terms).values(host=new))


def _mine(host: str, run: str) -> tuple[sa.ColumnElement[bool], ...]:
    return gateways.c.host == host, gateways.c.run == run


def _row(gateway: StoredGateway) -> dict[str, object]:
    return {field.name: getattr(gateway, field.name) for field in fields(StoredGateway)}
