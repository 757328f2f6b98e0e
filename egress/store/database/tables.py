"""The tables (SQLAlchemy Core): the dataclasses of the model, column for field, in the order of the fields.

Times are integers, microseconds since the epoch in UTC: their order, equality and ranges are exact on every database.
REAL does not guarantee this (PostgreSQL and SQLite print and compare floats differently), and SQLite's text dates only
by convention. The floats of the dataclasses are restored to the microsecond.

On PostgreSQL the tables of records (`DAYED`) have a partition for each day, by a column of their primary key
(egress.store.database.days).

There are no foreign keys between records: a finding may be journalled before its flow, an agent may be gone by the time
its records are stored, and a record must never be refused because of another one.
"""

from __future__ import annotations

import sqlalchemy as sa

from egress.model import Action, HoldState, Mode, StepSource
from egress.records.shape import (
    AnomalyRecord,
    EvidenceRecord,
    FindingRecord,
    FlowRecord,
    FoldedRecord,
    ProcessRecord,
    SealRecord,
)
from egress.store.database import schema
from egress.store.database.columns import BudgetList, Micros, Names, Plain, Ports

ATTACHMENTS = ("netns", "interface", "cidr")
SANDBOX = "sandbox"  # the kind of an agent that `egress run` makes; its row is removed with it
ROLES = ("viewer", "approver", "editor", "admin", "gateway", "reporter")
HOLD_STATES = tuple(state.value for state in HoldState)

metadata = schema.metadata
_enum, _one_of, _live, _host = schema.enum, schema.one_of, schema.live, schema.host
_columns = schema.record_columns

agents = sa.Table(
    "agents",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("networks", Names, nullable=False, comment="CIDRs that are the agent's own"),
    sa.Column("mode", _enum(Mode, "mode"), nullable=False),
    sa.Column("default", _enum(Action, "default"), nullable=False, comment="what happens where no rule speaks"),
    sa.Column("labels", Names, nullable=False),
    sa.Column("budgets", BudgetList, nullable=False, server_default="[]", comment="JSON: [{measure, limit, span}, …]"),
    sa.Column("quarantined", sa.Boolean(name="quarantined"), nullable=False, server_default=sa.false()),
    sa.Column("kind", sa.Text, nullable=False, comment="what is attached: netns, interface, cidr, sandbox"),
    sa.Column("value", sa.Text, nullable=False, comment="which one: the namespace, interface or CIDR"),
    sa.Column("created", Micros, nullable=False),
    _host("where it is attached"),
    _one_of("kind", (*ATTACHMENTS, SANDBOX)),
    comment="Agents attached by `egress agent add` and, while they live, the sandboxes of `egress run`",
)

flows = sa.Table(
    "flows",
    metadata,
    *_columns(
        FlowRecord,
        key=("flow_id", "start"),
        comments={
            "updated": "of the record this row shows; a later one replaces it",
            "end": "null while the flow lives",
            "direction": "out: the agent opened it",
            "src": "the opener",
            "server_name": "SNI, Host or queried name, as the agent wrote it",
            "mode": "monitor: the action was not carried out",
            "unseen_bytes": "stream bytes that were never inspected",
            "names": "bound to dst for this agent then",
        },
    ),
    # `egress query`: newest first, for all or for an agent, a destination, an action; --since uses `updated`.
    sa.Index(None, "start"),
    sa.Index(None, "updated"),
    sa.Index(None, "agent", "start"),
    sa.Index(None, "dst", "start"),
    sa.Index(None, "action", "start"),
    sa.Index(None, "rule_id", "start"),  # hits of a rule and the time of the last one
    comment="The latest record of each flow",
    **schema.by_day("start"),
)

findings = sa.Table(
    "findings",
    metadata,
    *_columns(
        FindingRecord,
        key=("finding_id", "time"),
        comments={"technique": "MITRE ATT&CK"},
    ),
    sa.Index(None, "flow_id"),
    sa.Index(None, "time"),
    sa.Index(None, "agent", "time"),
    sa.Index(None, "signature", "time"),
    comment="What signatures objected to, and what it led to",
    **schema.by_day("time"),
)

anomalies = sa.Table(
    "anomalies",
    metadata,
    # Anomalies have no id: the key is all but the count, so that a record read twice is stored once.
    *_columns(
        AnomalyRecord,
        key=("agent", "time", "reason", "detail", "src", "dst", "proto"),
        comments={"count": "packets"},
    ),
    sa.Index(None, "time"),
    comment="Packets refused without a flow",
    **schema.by_day("time"),
)

evidence = sa.Table(
    "evidence",
    metadata,
    *_columns(
        EvidenceRecord,
        key=("finding_id", "time"),
        comments={"packets": "the flow's first packets, see Packets"},
    ),
    sa.Index(None, "time"),
    comment="The packets that findings rest on",
    **schema.by_day("time"),
)

processes = sa.Table(
    "processes",
    metadata,
    *_columns(
        ProcessRecord,
        key=("flow_id", "time"),
        comments={
            "time": "the flow's start",
            "reason": "why it was not found, or how sure it is",
            "pid": "the host's number; 0: not found",
            "inner_pid": "in its own pid namespace",
            "uid": "the host's number of its user",
            "exe": "path in its own file system",
            "cmdline": "what the process says it is",
            "runtime": "docker, podman, …; empty: in no container",
            "container": "the container's id",
        },
    ),
    sa.Index(None, "time"),
    comment="The processes behind flows, as they were when the flows began",
    **schema.by_day("time"),
)

folded = sa.Table(
    "folded",
    metadata,
    *_columns(
        FoldedRecord,
        key=("agent", "time", "start", "kind", "proto", "dst", "dport", "action", "reason", "signature"),
        comments={"time": "when the counts ended", "start": "when they began", "dst": "empty: several"},
    ),
    sa.Index(None, "time"),
    comment="Records beyond an agent's quota, counted together",
    **schema.by_day("time"),
)

seals = sa.Table(
    "seals",
    metadata,
    *_columns(
        SealRecord,
        key=("chain", "number", "time"),
        comments={"start": "of the first line that it covers", "gap": "what may be missing before it"},
    ),
    sa.Column("leaves", sa.LargeBinary, nullable=False, comment="of the lines that it covers: 24 bytes each"),
    sa.Index(None, "time"),
    comment="The chains of hashes over the journals' lines; see egress verify",
    **schema.by_day("time"),
)

steps = sa.Table(
    "steps",
    metadata,
    sa.Column("agent", Plain, primary_key=True),
    sa.Column("episode", Plain, primary_key=True, comment="conversation, session or run; else the trace's id"),
    sa.Column("id", Plain, primary_key=True),
    sa.Column("tool", Plain, nullable=False),
    sa.Column("summary", Plain, nullable=False, comment="arguments, cut"),
    sa.Column("start", Micros, nullable=False),
    sa.Column("end", Micros, comment="null while it is under way"),
    sa.Column("until", Micros, nullable=False, comment="when it stops to count as under way"),
    sa.Column("source", _enum(StepSource, "source"), nullable=False),
    sa.Column("call_id", Plain, nullable=False),
    sa.Column("trace_id", Plain, nullable=False),
    sa.Column("span_id", Plain, nullable=False),
    sa.Column("reporter", Plain, nullable=False, comment="the actor that told of it"),
    sa.Column("reported", Micros, nullable=False, comment="when, by our clock"),
    sa.Index(None, "agent", "start", "until"),  # the steps under way at a time
    sa.Index(None, "agent", "reported"),  # how many steps of an agent were reported in a day
    sa.Index(None, "agent", "trace_id"),  # the conversation of a trace
    sa.Index(None, "episode", "start"),
    sa.Index(None, "start"),  # for retention
    comment="Tool calls that agent frameworks told of",
)

policies = sa.Table(
    "policies",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("created", Micros, nullable=False),
    sa.Column("actor", Plain, nullable=False),
    comment="Every version of the policy; its rules are those of `rules` added by then and not yet removed",
)

rules = sa.Table(
    "rules",
    metadata,
    sa.Column("id", Plain, primary_key=True),
    sa.Column("action", _enum(Action, "action"), nullable=False),
    sa.Column("agent", Plain, nullable=False),
    sa.Column("destination", Plain, nullable=False),
    sa.Column("protocol", sa.Text, nullable=False),
    sa.Column("ports", Ports, nullable=False),
    sa.Column("app", sa.Text, nullable=False),
    sa.Column("exempt", Names, nullable=False),
    sa.Column("unnamed", sa.Boolean(name="unnamed"), nullable=False),
    sa.Column("expires_at", Micros),
    sa.Column("once", sa.Boolean(name="once"), nullable=False),
    sa.Column("comment", Plain, nullable=False),
    sa.Column("author", Plain, nullable=False),
    sa.Column("created", Micros, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("private", sa.Boolean(name="private"), nullable=False, server_default=sa.false()),
    sa.Column("source", Plain, nullable=False, comment="allowlist, file, or sandbox:NAME"),
    sa.Column("added", sa.Integer, primary_key=True, autoincrement=False, comment="policy version that brought it"),
    sa.Column("removed", sa.Integer, comment="policy version that took it away; null: in force"),
    _host("of a policy file or sandbox: where the agents are that it concerns; of the allowlist: empty, everywhere"),
    # Rules in force: by id, by page, equal rules, `once` rules.
    _live("id", "id", unique=True),
    _live("position", "position", "id"),
    _live("destination", "destination", "agent"),
    sa.Index(
        "ix_rules_once",
        "id",
        sqlite_where=sa.text("removed IS NULL AND once = 1"),
        postgresql_where=sa.text("removed IS NULL AND once"),
    ),
    # Rules that a version added and removed. Partial, so that SQLite does not use it for the rules in force.
    sa.Index(None, "added"),
    sa.Index(
        "ix_rules_removed",
        "removed",
        sqlite_where=sa.text("removed IS NOT NULL"),
        postgresql_where=sa.text("removed IS NOT NULL"),
    ),
    comment="Every rule there ever was; an edited rule is a new row. Rows lose nothing but get a `removed`",
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False, comment="1, 2, 3, … without a gap"),
    sa.Column("time", Micros, nullable=False),
    sa.Column("actor", Plain, nullable=False, comment="token:ID (name), uid:N (user) or gateway"),
    sa.Column("request_id", Plain, nullable=False),
    sa.Column("action", sa.Text, nullable=False, comment="noun.verb, like rule.create"),
    sa.Column("target", Plain, nullable=False, comment="id or name of what was changed"),
    sa.Column("before", sa.Text, comment="JSON; null: was not there"),
    sa.Column("after", sa.Text, comment="JSON; null: is gone"),
    sa.Column("previous", sa.Text, nullable=False, comment="hash of the entry before; 64 zeros for the first"),
    sa.Column("hash", sa.Text, nullable=False, comment="SHA-256 over this entry and `previous`"),
    sa.Index(None, "time"),
    comment="Every change made by people and programs; triggers keep rows from being changed or deleted",
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("id", sa.Text, primary_key=True, comment="8 hex digits, the public part"),
    sa.Column("name", Plain, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("agents", Names, nullable=False, comment="globs of the agents it may concern; [*]: all"),
    sa.Column("hash", sa.Text, nullable=False, comment="SHA-256 of the secret part"),
    sa.Column("created", Micros, nullable=False),
    sa.Column("created_by", Plain, nullable=False),
    sa.Column("expires_at", Micros),
    sa.Column("revoked_at", Micros),
    sa.Column("last_used", Micros, comment="to the minute"),
    _one_of("role", ROLES),
    comment="Bearer tokens of the API",
)

approvals = sa.Table(
    "approvals",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("flow_id", sa.Text, nullable=False),
    sa.Column("agent", Plain, nullable=False),
    sa.Column("time", Micros, primary_key=True, comment="since when it waits"),
    sa.Column("until", Micros, nullable=False),
    sa.Column("proto", Plain, nullable=False),
    sa.Column("dst", Plain, nullable=False),
    sa.Column("dport", sa.Integer, nullable=False),
    sa.Column("names", Names, nullable=False),
    sa.Column("query", sa.Boolean(name="query"), nullable=False),
    sa.Column("destination", Plain, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("decided_at", Micros),
    sa.Column("decided_by", Plain),
    sa.Column("rule_id", Plain, comment="the rule that an approval made"),
    _host("where it waits"),
    _one_of("state", HOLD_STATES),
    sa.Index(None, "state", "time"),
    sa.Index(None, "agent", "time"),
    comment="Holds of mode ask and what became of them",
)

idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("key", Plain, primary_key=True),
    sa.Column("caller", Plain, primary_key=True),
    sa.Column("request", sa.Text, nullable=False, comment="SHA-256 of method, path, query and body"),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("headers", sa.Text, nullable=False, comment="JSON"),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("created", Micros, nullable=False),
    sa.Index(None, "created"),
    comment="Answers to requests with an Idempotency-Key, for a day",
)

gateways = sa.Table(
    "gateways",
    metadata,
    sa.Column("host", sa.Text, primary_key=True),
    sa.Column("run", sa.Text, nullable=False, comment="random, of the gateway that has this name now"),
    sa.Column("place", sa.Text, nullable=False, comment="where it runs: two of one place are never there at a time"),
    sa.Column("program", sa.Text, nullable=False, comment="version of egress"),
    sa.Column("started", Micros, nullable=False, comment="this and the next two by the database's clock"),
    sa.Column("seen", Micros, nullable=False, comment="its last sign of life"),
    sa.Column("stopped", Micros, comment="null: it runs, or was killed"),
    sa.Column("skew", sa.Float, nullable=False, comment="seconds that its own clock is ahead"),
    sa.Column("policy_version", sa.Integer, nullable=False, comment="that all its workers judge by"),
    sa.Column("agents", sa.Integer, nullable=False, comment="that it watches"),
    comment="The gateways that share this database, by the name of their host",
)

journal_checkpoints = sa.Table(
    "journal_checkpoints",
    metadata,
    _host("whose journal", primary_key=True),
    sa.Column("segment", sa.Text, primary_key=True, comment="file name in the journal directory"),
    sa.Column("offset", sa.BigInteger, nullable=False, comment="bytes whose records are stored"),
    sa.Column("updated", Micros, nullable=False),
    comment="How far the recorder has read; moves in the transaction that stores the records",
)

captures = sa.Table(
    "captures",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False, comment="1, 2, 3, … within the case"),
    sa.Column("file", Plain, nullable=False, comment="its path, as it was given"),
    sa.Column("size", sa.BigInteger, nullable=False, comment="bytes"),
    sa.Column("sha256", sa.Text, nullable=False, comment="of the file, hex"),
    sa.Column("added", Micros, nullable=False),
    sa.Column("finished", Micros, comment="null: it is being read, or that was interrupted"),
    sa.Column("policy_version", sa.Integer, nullable=False, comment="it was judged under; 0: no rules"),
    sa.Column("networks", Names, nullable=False, comment="CIDRs of the agents; []: whoever opened a flow is its agent"),
    sa.Column("packets", sa.BigInteger, nullable=False, comment="frames of whatever kind"),
    sa.Column("flows", sa.BigInteger, nullable=False),
    sa.Column("findings", sa.BigInteger, nullable=False),
    sa.Column("unread", sa.BigInteger, nullable=False, comment="frames that do not parse or are of no agent"),
    sa.Column("truncated", Plain, nullable=False, comment="where the file breaks off; empty: it does not"),
    sa.Index(None, "sha256", unique=True),
    comment="Of a case (`egress replay --into-db`): what it was made from. Empty in the database of a gateway",
)

captured_flows = sa.Table(
    "captured_flows",
    metadata,
    sa.Column("flow_id", Plain, primary_key=True),
    sa.Column("capture", sa.Integer, primary_key=True, autoincrement=False),
    sa.Index(None, "capture"),
    comment="Of a case: which captures hold a flow. One that several hold has one row in `flows`",
)

pruned = sa.Table(
    "pruned",
    metadata,
    sa.Column("records", sa.Text, primary_key=True, comment="the table they were in"),
    sa.Column("count", sa.BigInteger, nullable=False, comment="rows taken away, ever"),
    sa.Column("before", Micros, nullable=False, comment="what is older is gone"),
    sa.Column("time", Micros, nullable=False, comment="when rows were last taken away"),
    comment="What was taken away for its age or size",
)

# Each table of records → the column by which it is partitioned.
DAYED: dict[sa.Table, sa.Column[float]] = {
    table: table.c[column] for table in metadata.tables.values() if (column := schema.day_column(table))
}
