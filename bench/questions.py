"""Queries of stored records, as the commands and the API make them: each question is a call of the store.

`bench.records` measures them, tests/store/query/test_plans.py pins the databases' plans for them, docs/database.md
shows both.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from egress.model import Agent
from egress.store.database.tables import findings, flows
from egress.store.policy import ruleset
from egress.store.query import counting, listing, reader, story, tail, timeline
from egress.store.query.flowgroups import flow_groups, names_of
from egress.store.query.reader import Filter
from egress.store.query.search import compile_query
from egress.store.recording import evidence
from egress.whatif.objections import Objections

HOUR, DAY = 3600.0, 86400.0
PAGE = 100


@dataclass(frozen=True, slots=True)
class Known:
    """Names and ids of stored records, which the questions ask about."""

    now: float  # seconds
    agent: str
    dst: str
    flow_id: str  # with a finding
    finding_id: str  # with evidence
    rule_id: str


@dataclass(frozen=True, slots=True)
class Question:
    """A named query; `ask` runs it about known records."""

    name: str  # as a person would ask it
    ask: Callable[[Engine, Known], object]
    index: str = ""  # the columns of the index without which it would read all rows; empty: it may read all
    table: str = "flows"  # of the index


def _flows(**fields: Any) -> Callable[[Engine, Known], object]:
    """Make a question of `egress query`. A field may be a function of the known records."""

    def ask(engine: Engine, known: Known) -> object:
        values = {name: value(known) if callable(value) else value for name, value in fields.items()}
        with closing(reader.flow_details(engine, Filter(now=known.now, **({"limit": PAGE} | values)))) as found:
            return list(found)

    return ask


def _counted(*keys: str, **fields: Any) -> Callable[[Engine, Known], object]:
    """Make a question of `egress query --count-by`; fields as in `_flows`."""

    def ask(engine: Engine, known: Known) -> object:
        values = {name: value(known) if callable(value) else value for name, value in fields.items()}
        return list(counting.count_by(engine, Filter(now=known.now, **values), keys, PAGE))

    return ask


def _drawn(seconds: float) -> Callable[[Engine, Known], object]:
    """Make a question of `egress timeline` over the last `seconds`."""

    def ask(engine: Engine, known: Known) -> object:
        shown = timeline.axis(known.now - seconds, known.now, 100)
        return timeline.timeline(engine, Filter(now=known.now), shown, 10)

    return ask


def _connected(ask: Callable[[sa.Connection, Known], object]) -> Callable[[Engine, Known], object]:
    """Make a question of a function that takes a connection instead of an engine."""

    def connected(engine: Engine, known: Known) -> object:
        with engine.connect() as connection:
            return ask(connection, known)

    return connected


def _followed(engine: Engine, known: Known) -> object:
    """Ask as `egress observe -f` does: the newest page, and then the records that came later."""
    following = tail.Tail(engine, Filter(now=known.now))
    return following.newest(PAGE), following.later()


def _page(table: sa.Table, query: str = "") -> Callable[[Engine, Known], object]:
    """Make a question for the second page of an API listing; `query` is its filter."""

    def ask(connection: sa.Connection, known: Known) -> object:
        wanted = compile_query(query, table, known.now)
        before = known.now - DAY, "8"
        read = listing.list_flows if table is flows else listing.list_findings
        return read(connection, wanted, ["*"], before, PAGE)

    return _connected(ask)


def _made(engine: Engine, known: Known) -> object:
    """Ask for the findings of the known agent, at most a page."""
    with closing(reader.findings(engine, Filter(now=known.now, agent=known.agent, limit=PAGE))) as found:
        return list(found)


def _ago(seconds: float) -> Callable[[Known], float]:
    """Return a function that returns the time so many seconds before the present of the known records."""
    return lambda known: known.now - seconds


def _network(known: Known) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Return the IPv4 network of the known destination, with 24 bits."""
    return ipaddress.ip_network(f"{known.dst}/24", strict=False)


QUESTIONS = (
    Question("query (the newest 100)", _flows(), "start"),
    Question("query agent:A", _flows(agent=lambda known: known.agent), "agent start"),
    Question("query agent:A since:1d", _flows(agent=lambda known: known.agent, since=_ago(DAY)), "agent start"),
    Question("query dest:ADDRESS", _flows(dest=lambda known: ipaddress.ip_network(known.dst)), "dst start"),
    Question("query dest:CIDR since:1d", _flows(dest=_network, since=_ago(DAY))),
    Question("query action:reject", _flows(query="action:reject"), "action start"),
    Question("query rule:R", _flows(query=lambda known: f"rule:{known.rule_id}"), "rule_id start"),
    Question("query signature:mining.*", _flows(query="signature:mining.*"), "flow_id start"),
    Question("query -signature:mining.*", _flows(query="-signature:mining.*"), "start"),
    Question("query name:*.example.com", _flows(query="name:*.example.com"), "start"),
    Question("query name:nowhere.example since:1d", _flows(query="name:nowhere.example since:1d"), "updated"),
    Question("query bytes>10mb since:1d --sort bytes", _flows(query="bytes>10mb since:1d", sort="bytes"), "updated"),
    Question("query since:1h, all of it", _flows(query="since:1h", limit=None), "updated"),
    Question("query --count-by agent since:1d", _counted("agent", since=_ago(DAY)), "updated"),
    Question("query --count-by agent, all", _counted("agent")),
    Question("query --count-by dest agent:A", _counted("dest", agent=lambda known: known.agent), "agent start"),
    Question(
        "query --count-by signature,agent since:7d",
        _counted("signature", "agent", since=_ago(7 * DAY)),
    ),
    Question("timeline since:24h", _drawn(DAY), "start"),
    Question("timeline since:30d", _drawn(30 * DAY), "start"),
    Question("show flow", lambda engine, known: story.flow_story(engine, known.flow_id), "flow_id start"),
    Question(
        "show finding",
        lambda engine, known: story.finding_story(engine, known.finding_id),
        "finding_id time",
        "findings",
    ),
    Question("show agent", lambda engine, known: story.agent_story(engine, known.agent), "agent start"),
    Question(
        "id by its first digits", lambda engine, known: reader.flow_ids(engine, known.flow_id[:6]), "flow_id start"
    ),
    Question("observe -f, a look", _followed, "updated"),
    Question(
        "evidence", _connected(lambda c, known: evidence.read(c, known.finding_id)), "finding_id time", "evidence"
    ),
    Question("GET /flows, second page", _page(flows), "start"),
    Question("GET /findings, second page", _page(findings), "time", "findings"),
    Question("GET /findings?signature=S", _page(findings, "signature:ssh.unusual-port"), "signature time", "findings"),
    Question("findings of agent A", _made, "agent time", "findings"),
    Question("a rule's hits", _connected(lambda c, known: ruleset.hits(c, [known.rule_id])), "rule_id start"),
    Question(
        "learn, simulate: an agent's flows since:7d",
        _connected(lambda c, known: list(flow_groups(c, since=known.now - 7 * DAY, agent=known.agent))),
        "agent start",
    ),
    Question("simulate since:1d", _connected(lambda c, known: list(flow_groups(c, since=known.now - DAY))), "updated"),
    Question("learn: what was objected to", _connected(lambda c, known: Objections(c, Agent(known.agent), known.now))),
    Question("learn: an address's names", _connected(lambda c, known: names_of(c, known.agent, known.dst))),
)
