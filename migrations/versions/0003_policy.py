"""The policy as rows, with an audit of edits: rules, audit, tokens, approvals, responses, evidence; mode ask.

The documents of `policies` become rows of `rules`, each with the versions it belongs to; a downgrade makes documents of
them again. The table `rule_changes` is dropped, because `rules` has the changes. Rules of sandboxes in the newest
version are left over from a gateway that was killed: an additional version removes them.

A downgrade replaces values that an older program does not know by the nearest one: hold by reject, ask by enforce,
approval and quarantine by default. A quarantined agent gets the default deny. Sandboxes are removed.
"""

from typing import Literal

import sqlalchemy as sa
from alembic import op

from migrations.documents import to_documents, to_rules

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ACTION = ("accept", "reject", "drop", "hold")
MODE = ("enforce", "monitor", "ask")
KIND = ("netns", "interface", "cidr", "sandbox")
REASON = (
    *("rule", "default", "finding", "destination", "application", "name", "query", "budget"),
    *("approval", "quarantine"),
    *("inbound", "spoofed", "malformed", "truncated", "sequence", "midstream", "memcap", "recorder", "error"),
)
NEW_REASONS = ("approval", "quarantine")

APPEND_ONLY = "entries of the audit are never changed or deleted"
REFUSE = f"BEGIN SELECT RAISE(ABORT, '{APPEND_ONLY}'); END"
CALL = "EXECUTE FUNCTION audit_append_only()"
NEXT = "(SELECT coalesce(max(seq), 0) + 1 FROM audit)"
FUNCTION = f"RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '{APPEND_ONLY}'; END $$"
TRIGGERS = {
    "sqlite": (
        f"CREATE TRIGGER audit_update BEFORE UPDATE ON audit {REFUSE}",
        f"CREATE TRIGGER audit_delete BEFORE DELETE ON audit {REFUSE}",
        # INSERT OR REPLACE deletes without a DELETE.
        f"CREATE TRIGGER audit_insert BEFORE INSERT ON audit WHEN NEW.seq <> {NEXT} {REFUSE}",
    ),
    "postgresql": (
        f"CREATE FUNCTION audit_append_only() {FUNCTION}",
        f"CREATE TRIGGER audit_change BEFORE UPDATE OR DELETE ON audit FOR EACH ROW {CALL}",
        f"CREATE TRIGGER audit_truncate BEFORE TRUNCATE ON audit FOR EACH STATEMENT {CALL}",
    ),
}


def upgrade() -> None:
    _known_values(ACTION, MODE, REASON, KIND)
    with op.batch_alter_table("flows") as batch:
        comment = "bound to dst for this agent then"
        batch.add_column(sa.Column("names", sa.Text(), nullable=False, server_default="[]", comment=comment))
    op.create_index(op.f("ix_flows_rule_id_start"), "flows", ["rule_id", "start"])
    with op.batch_alter_table("agents", recreate=_recreate()) as batch:
        quarantined: sa.Column[bool] = sa.Column("quarantined", sa.Boolean(), nullable=False, server_default=sa.false())
        batch.add_column(quarantined, insert_after=_after("budgets"))
    _rules()
    to_rules(op.get_bind())
    op.drop_table("rule_changes")
    with op.batch_alter_table("policies") as batch:
        batch.drop_column("sha256")
        batch.drop_column("document")
    _audit()
    _tokens()
    _approvals()
    _idempotency()
    _evidence()
    _comments(
        "Every version of the policy; its rules are those of `rules` added by then and not yet removed",
        "Agents attached by `egress agent add` and, while they live, the sandboxes of `egress run`",
        "what is attached: netns, interface, cidr, sandbox",
    )


def downgrade() -> None:
    for table in ("evidence", "idempotency", "approvals", "tokens", "audit"):
        op.drop_table(table)
    if _dialect() == "postgresql":
        op.execute("DROP FUNCTION audit_append_only")
    _documents()
    op.drop_table("rules")
    _nearest()
    with op.batch_alter_table("agents", recreate=_recreate()) as batch:
        batch.drop_column("quarantined")
    op.drop_index(op.f("ix_flows_rule_id_start"), "flows")
    with op.batch_alter_table("flows", recreate=_recreate()) as batch:
        batch.drop_column("names")
    _known_values(ACTION[:3], MODE[:2], tuple(reason for reason in REASON if reason not in NEW_REASONS), KIND[:3])
    _comments(
        "Every set of rules that was ever in force; rows are never changed",
        "Agents attached by `egress agent add`; sandboxes of `egress run` are not listed",
        "what is attached: netns, interface, cidr",
    )


def _dialect() -> str:
    return str(op.get_bind().dialect.name)


def _recreate() -> Literal["always", "auto"]:
    """Return Alembic's `recreate`: SQLite rewrites the table to change it, PostgreSQL changes it in place."""
    return "always" if _dialect() == "sqlite" else "auto"


def _after(column: str) -> str | None:
    """Return the column to insert behind; None on PostgreSQL, which adds columns at the end only."""
    return column if _dialect() == "sqlite" else None


def _known(table: str, column: str, values: tuple[str, ...]) -> sa.CheckConstraint:
    return sa.CheckConstraint(f'"{column}" IN ({", ".join(map(repr, values))})', name=op.f(f"ck_{table}_{column}"))


def _known_values(*known: tuple[str, ...]) -> None:
    """Change the CHECKs of all tables to these values of action, mode, reason and kind, in this order."""
    action, mode, reason, kind = known
    columns = {
        "flows": {"action": action, "reason": reason, "mode": mode},
        "findings": {"action": action, "mode": mode},
        "anomalies": {"reason": reason},
        "agents": {"mode": mode, "default": action, "kind": kind},
    }
    for table, checks in columns.items():
        with op.batch_alter_table(table) as batch:
            for column, values in checks.items():
                name = op.f(f"ck_{table}_{column}")
                batch.drop_constraint(name, type_="check")
                batch.create_check_constraint(name, f'"{column}" IN ({", ".join(map(repr, values))})')


def _comments(policies: str, agents: str, kind: str) -> None:
    """Change comments of the tables on PostgreSQL; SQLite has none."""
    if _dialect() == "postgresql":
        op.create_table_comment("policies", policies)
        op.create_table_comment("agents", agents)
        op.alter_column("agents", "kind", comment=kind)


def _rules() -> None:
    op.create_table(
        "rules",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("agent", "destination", "protocol", "ports")),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("app", "exempt")),
        sa.Column("unnamed", sa.Boolean(), nullable=False),
        sa.Column("expires_at", sa.BigInteger()),
        sa.Column("once", sa.Boolean(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("comment", "author")),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False, comment="allowlist, file, or sandbox:NAME"),
        sa.Column("added", sa.Integer(), nullable=False, comment="policy version that brought it"),
        sa.Column("removed", sa.Integer(), comment="policy version that took it away; null: in force"),
        sa.PrimaryKeyConstraint("id", "added", name=op.f("pk_rules")),
        _known("rules", "action", ACTION),
        comment="Every rule there ever was; an edited rule is a new row. Rows lose nothing but get a `removed`",
    )
    live = "removed IS NULL"
    _index("live_id", ["id"], live, unique=True)
    _index("live_position", ["position", "id"], live)
    _index("live_destination", ["destination", "agent"], live)
    _index("removed", ["removed"], "removed IS NOT NULL")
    once = {"sqlite": "once = 1", "postgresql": "once"}
    _index("once", ["id"], f"{live} AND {once[_dialect()]}")
    op.create_index(op.f("ix_rules_added"), "rules", ["added"])


def _index(name: str, columns: list[str], only: str, *, unique: bool = False) -> None:
    """Create a partial index of `rules`, over the rows for which the SQL expression `only` is true."""
    where = sa.text(only)
    op.create_index(f"ix_rules_{name}", "rules", columns, unique=unique, sqlite_where=where, postgresql_where=where)


def _documents() -> None:
    """Recreate the columns `sha256` and `document` of `policies`, and the table rule_changes, and fill them."""
    with op.batch_alter_table("policies", recreate=_recreate()) as batch:
        sha256 = sa.Column("sha256", sa.Text(), nullable=False, server_default="", comment="of the document")
        batch.add_column(sha256, insert_after="version" if _dialect() == "sqlite" else None)
        document = sa.Column("document", sa.Text(), nullable=False, server_default="", comment="the rules, as JSON")
        batch.add_column(document)
    with op.batch_alter_table("policies") as batch:
        batch.alter_column("sha256", server_default=None)
        batch.alter_column("document", server_default=None)
    op.create_table(
        "rule_changes",
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("policy_version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("change", sa.Text(), nullable=False),
        sa.Column("rule_id", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False, comment="the rule as JSON"),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("policy_version", "change", "rule_id", name=op.f("pk_rule_changes")),
        _known("rule_changes", "change", ("added", "removed")),
        comment="Rules added and removed, version by version",
    )
    to_documents(op.get_bind())


def _nearest() -> None:
    """Replace the values that revision 0002 does not know by the nearest ones; delete sandboxes."""
    for table in ("flows", "findings"):
        op.execute(f"UPDATE {table} SET action = 'reject' WHERE action = 'hold'")  # noqa: S608 - our own names
        op.execute(f"UPDATE {table} SET mode = 'enforce' WHERE mode = 'ask'")  # noqa: S608
    op.execute("DELETE FROM agents WHERE kind = 'sandbox'")
    op.execute("""UPDATE agents SET mode = 'enforce', "default" = 'reject' WHERE quarantined""")
    op.execute("UPDATE agents SET mode = 'enforce' WHERE mode = 'ask'")
    op.execute("""UPDATE agents SET "default" = 'reject' WHERE "default" = 'hold'""")
    replace = " OR REPLACE" if _dialect() == "sqlite" else ""
    for reason in NEW_REASONS:
        op.execute(sa.text("UPDATE flows SET reason = 'default' WHERE reason = :reason").bindparams(reason=reason))
        # Reason and detail are parts of an anomaly's key. The old reason goes to the front of the detail, so that it is
        # not lost and no two keys become equal.
        anomalies = sa.text(
            f"UPDATE{replace} anomalies SET reason = 'default', detail = CAST(:reason AS text) || ': ' || detail"
            " WHERE reason = :reason"
        )
        op.execute(anomalies.bindparams(reason=reason))


def _audit() -> None:
    op.create_table(
        "audit",
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False, comment="1, 2, 3, … without a gap"),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False, comment="token:ID (name), uid:N (user) or gateway"),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False, comment="noun.verb, like rule.create"),
        sa.Column("target", sa.Text(), nullable=False, comment="id or name of what was changed"),
        sa.Column("before", sa.Text(), comment="JSON; null: was not there"),
        sa.Column("after", sa.Text(), comment="JSON; null: is gone"),
        sa.Column("previous", sa.Text(), nullable=False, comment="hash of the entry before; 64 zeros for the first"),
        sa.Column("hash", sa.Text(), nullable=False, comment="SHA-256 over this entry and `previous`"),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit")),
        comment="Every change made by people and programs; triggers keep rows from being changed or deleted",
    )
    op.create_index(op.f("ix_audit_time"), "audit", ["time"])
    for statement in TRIGGERS[_dialect()]:
        op.execute(statement)


def _tokens() -> None:
    roles = ("viewer", "approver", "editor", "admin", "gateway")
    op.create_table(
        "tokens",
        sa.Column("id", sa.Text(), nullable=False, comment="8 hex digits, the public part"),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("agents", sa.Text(), nullable=False, comment="globs of the agents it may concern; [*]: all"),
        sa.Column("hash", sa.Text(), nullable=False, comment="SHA-256 of the secret part"),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.BigInteger()),
        sa.Column("revoked_at", sa.BigInteger()),
        sa.Column("last_used", sa.BigInteger(), comment="to the minute"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
        _known("tokens", "role", roles),
        comment="Bearer tokens of the API",
    )


def _approvals() -> None:
    states = ("pending", "approved", "denied", "expired", "withdrawn")
    op.create_table(
        "approvals",
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("id", "flow_id", "agent")),
        sa.Column("time", sa.BigInteger(), nullable=False, comment="since when it waits"),
        sa.Column("until", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("proto", "dst")),
        sa.Column("dport", sa.Integer(), nullable=False),
        sa.Column("names", sa.Text(), nullable=False),
        sa.Column("query", sa.Boolean(), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("destination", "state")),
        sa.Column("decided_at", sa.BigInteger()),
        sa.Column("decided_by", sa.Text()),
        sa.Column("rule_id", sa.Text(), comment="the rule that an approval made"),
        sa.PrimaryKeyConstraint("id", "time", name=op.f("pk_approvals")),
        _known("approvals", "state", states),
        comment="Holds of mode ask and what became of them",
    )
    op.create_index(op.f("ix_approvals_state_time"), "approvals", ["state", "time"])
    op.create_index(op.f("ix_approvals_agent_time"), "approvals", ["agent", "time"])


def _idempotency() -> None:
    op.create_table(
        "idempotency",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("request", sa.Text(), nullable=False, comment="SHA-256 of method, path, query and body"),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("headers", sa.Text(), nullable=False, comment="JSON"),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key", "caller", name=op.f("pk_idempotency")),
        comment="Answers to requests with an Idempotency-Key, for a day",
    )
    op.create_index(op.f("ix_idempotency_created"), "idempotency", ["created"])


def _evidence() -> None:
    op.create_table(
        "evidence",
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("finding_id", "flow_id", "agent")),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("packets", sa.LargeBinary(), nullable=False, comment="the flow's first packets, see Packets"),
        sa.PrimaryKeyConstraint("finding_id", name=op.f("pk_evidence")),
        comment="The packets that findings rest on",
    )
    op.create_index(op.f("ix_evidence_time"), "evidence", ["time"])
