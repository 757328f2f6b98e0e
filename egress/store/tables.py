"""The tables (SQLAlchemy Core): the model's dataclasses, column for field, in the order of the fields.

Times are integers, microseconds since the epoch, UTC: order, equality and ranges are then exact on every database,
which REAL does not promise (PostgreSQL and SQLite print and compare floats differently) and SQLite's text dates do
only by convention. The dataclasses' floats come back to the microsecond.

There are no foreign keys between records: a finding may be journalled before its flow, a sandbox of `egress run` is
in no agents row, and a record must never be refused for what another one says.
"""

from __future__ import annotations

import json
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from egress.budgettext import budgets_from_json, budgets_to_json
from egress.eve import CHANGES, DIRECTIONS, FLOW_STATES, micros
from egress.model import Action, Budget, Effect, Mode, Reason, Severity

ATTACHMENTS = ("netns", "interface", "cidr")


class Micros(TypeDecorator[float]):
    """Seconds as float in Python, whole microseconds in the database."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> int | None:
        return None if value is None else micros(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> float | None:
        return None if value is None else value / 1_000_000


class Plain(TypeDecorator[str]):
    r"""Text from the network: NUL and lone surrogates, which databases refuse, are stored as `\x00` and `\ud800`."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None or value.isprintable():
            return value
        return value.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")


class Names(TypeDecorator[tuple[str, ...]]):
    """A tuple of strings, stored as a JSON array."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: tuple[str, ...] | None, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> tuple[str, ...] | None:
        return None if value is None else tuple(json.loads(value))


class Budgets(TypeDecorator[tuple[Budget, ...]]):
    """An agent's budgets, stored as a JSON array of {measure, limit, span}."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: tuple[Budget, ...] | None, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(budgets_to_json(value))

    def process_result_value(self, value: str | None, dialect: Dialect) -> tuple[Budget, ...] | None:
        return None if value is None else budgets_from_json(json.loads(value))


def _enum(known: type[StrEnum], name: str) -> sa.Enum:
    return sa.Enum(
        known,
        name=name,
        native_enum=False,  # a CHECK, on every database the same
        create_constraint=True,
        length=16,
        values_callable=lambda members: [member.value for member in members],
    )


def _one_of(column: str, known: tuple[str, ...]) -> sa.CheckConstraint:
    return sa.CheckConstraint(f"{column} IN ({', '.join(repr(value) for value in known)})", name=column)


metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

agents = sa.Table(
    "agents",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("networks", Names, nullable=False, comment="CIDRs that are the agent's own"),
    sa.Column("mode", _enum(Mode, "mode"), nullable=False),
    sa.Column("default", _enum(Action, "default"), nullable=False, comment="what happens where no rule speaks"),
    sa.Column("labels", Names, nullable=False),
    sa.Column("budgets", Budgets, nullable=False, server_default="[]", comment="JSON: [{measure, limit, span}, …]"),
    sa.Column("kind", sa.Text, nullable=False, comment="what is attached: netns, interface, cidr"),
    sa.Column("value", sa.Text, nullable=False, comment="which one: the namespace, interface or CIDR"),
    sa.Column("created", Micros, nullable=False),
    _one_of("kind", ATTACHMENTS),
    comment="Agents attached by `egress agent add`; sandboxes of `egress run` are not listed",
)

flows = sa.Table(
    "flows",
    metadata,
    sa.Column("flow_id", Plain, primary_key=True),
    sa.Column("agent", Plain, nullable=False),
    sa.Column("start", Micros, nullable=False),
    sa.Column("updated", Micros, nullable=False, comment="of the record this row shows; a later one replaces it"),
    sa.Column("end", Micros, comment="null while the flow lives"),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("direction", sa.Text, nullable=False, comment="out: the agent opened it"),
    sa.Column("proto", Plain, nullable=False),
    sa.Column("src", Plain, nullable=False, comment="the opener"),
    sa.Column("sport", sa.Integer, nullable=False),
    sa.Column("dst", Plain, nullable=False),
    sa.Column("dport", sa.Integer, nullable=False),
    sa.Column("community_id", Plain, nullable=False),
    sa.Column("app_proto", Plain, nullable=False),
    sa.Column("server_name", Plain, nullable=False, comment="SNI, Host or queried name, as the agent wrote it"),
    sa.Column("action", _enum(Action, "action"), nullable=False),
    sa.Column("reason", _enum(Reason, "reason"), nullable=False),
    sa.Column("rule_id", Plain, nullable=False),
    sa.Column("policy_version", sa.BigInteger, nullable=False),
    sa.Column("mode", _enum(Mode, "mode"), nullable=False, comment="monitor: the action was not carried out"),
    sa.Column("packets_out", sa.BigInteger, nullable=False),
    sa.Column("packets_in", sa.BigInteger, nullable=False),
    sa.Column("bytes_out", sa.BigInteger, nullable=False),
    sa.Column("bytes_in", sa.BigInteger, nullable=False),
    sa.Column("unseen_bytes", sa.BigInteger, nullable=False, comment="stream bytes that were never inspected"),
    _one_of("state", FLOW_STATES),
    _one_of("direction", DIRECTIONS),
    # `egress query`: newest first, alone or within an agent, a destination, an action; --since asks `updated`.
    sa.Index(None, "start"),
    sa.Index(None, "updated"),
    sa.Index(None, "agent", "start"),
    sa.Index(None, "dst", "start"),
    sa.Index(None, "action", "start"),
    comment="The latest record of each flow",
)

findings = sa.Table(
    "findings",
    metadata,
    sa.Column("finding_id", Plain, primary_key=True),
    sa.Column("flow_id", Plain, nullable=False),
    sa.Column("agent", Plain, nullable=False),
    sa.Column("time", Micros, nullable=False),
    sa.Column("signature", Plain, nullable=False),
    sa.Column("severity", _enum(Severity, "severity"), nullable=False),
    sa.Column("technique", Plain, nullable=False, comment="MITRE ATT&CK"),
    sa.Column("summary", Plain, nullable=False),
    sa.Column("evidence", sa.LargeBinary, nullable=False),
    sa.Column("effect", _enum(Effect, "effect"), nullable=False),
    sa.Column("action", _enum(Action, "action"), nullable=False),
    sa.Column("mode", _enum(Mode, "mode"), nullable=False),
    sa.Column("proto", Plain, nullable=False),
    sa.Column("src", Plain, nullable=False),
    sa.Column("sport", sa.Integer, nullable=False),
    sa.Column("dst", Plain, nullable=False),
    sa.Column("dport", sa.Integer, nullable=False),
    sa.Column("community_id", Plain, nullable=False),
    sa.Column("rule_id", Plain, nullable=False),
    sa.Column("policy_version", sa.BigInteger, nullable=False),
    sa.Index(None, "flow_id"),
    sa.Index(None, "time"),
    sa.Index(None, "agent", "time"),
    sa.Index(None, "signature", "time"),
    comment="What signatures objected to, and what it led to",
)

anomalies = sa.Table(
    "anomalies",
    metadata,
    # Anomalies have no id: all but the count is the key, so that a record read twice is stored once.
    sa.Column("agent", Plain, primary_key=True),
    sa.Column("time", Micros, primary_key=True),
    sa.Column("reason", _enum(Reason, "reason"), primary_key=True),
    sa.Column("detail", Plain, primary_key=True),
    sa.Column("count", sa.BigInteger, nullable=False, comment="packets"),
    sa.Column("src", Plain, primary_key=True),
    sa.Column("dst", Plain, primary_key=True),
    sa.Column("proto", Plain, primary_key=True),
    sa.Index(None, "time"),
    comment="Packets refused without a flow",
)

policies = sa.Table(
    "policies",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("sha256", sa.Text, nullable=False, comment="of the document"),
    sa.Column("created", Micros, nullable=False),
    sa.Column("actor", Plain, nullable=False),
    sa.Column("document", sa.Text, nullable=False, comment="the rules, as JSON"),
    comment="Every set of rules that was ever in force; rows are never changed",
)

rule_changes = sa.Table(
    "rule_changes",
    metadata,
    sa.Column("time", Micros, nullable=False),
    sa.Column("policy_version", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("change", sa.Text, primary_key=True),
    sa.Column("rule_id", Plain, primary_key=True),
    sa.Column("rule", Plain, nullable=False, comment="the rule as JSON"),
    sa.Column("actor", Plain, nullable=False),
    _one_of("change", CHANGES),
    comment="Rules added and removed, version by version",
)

journal_checkpoints = sa.Table(
    "journal_checkpoints",
    metadata,
    sa.Column("segment", sa.Text, primary_key=True, comment="file name in the journal directory"),
    sa.Column("offset", sa.BigInteger, nullable=False, comment="bytes whose records are stored"),
    sa.Column("updated", Micros, nullable=False),
    comment="How far the recorder has read; moves in the transaction that stores the records",
)
