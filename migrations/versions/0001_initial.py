"""The first schema: agents, flows, findings, anomalies, policies, rule changes, journal checkpoints."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ACTION = ("accept", "reject", "drop")
MODE = ("enforce", "monitor")
REASON = (
    "rule",
    "default",
    "finding",
    "destination",
    "application",
    "inbound",
    "spoofed",
    "malformed",
    "truncated",
    "sequence",
    "midstream",
    "memcap",
    "recorder",
    "error",
)

# Text that is not an address is in no network. On SQLite each connection defines a function of this name.
IN_NETWORK = """
    CREATE FUNCTION in_network(address text, network text) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
    BEGIN
        RETURN address::inet <<= network::inet AND strpos(address, '/') = 0;
    EXCEPTION WHEN invalid_text_representation THEN
        RETURN false;
    END $$
"""


def _known(table: str, column: str, values: tuple[str, ...]) -> sa.CheckConstraint:
    return sa.CheckConstraint(f'"{column}" IN ({", ".join(map(repr, values))})', name=op.f(f"ck_{table}_{column}"))


def upgrade() -> None:
    _agents()
    _flows()
    _findings()
    _anomalies()
    _policies()
    op.create_table(
        "journal_checkpoints",
        sa.Column("segment", sa.Text(), nullable=False, comment="file name in the journal directory"),
        sa.Column("offset", sa.BigInteger(), nullable=False, comment="bytes whose records are stored"),
        sa.Column("updated", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("segment", name=op.f("pk_journal_checkpoints")),
        comment="How far the recorder has read; moves in the transaction that stores the records",
    )
    if _on_postgresql():
        op.execute(IN_NETWORK)


def _on_postgresql() -> bool:
    return bool(op.get_bind().dialect.name == "postgresql")


def _agents() -> None:
    op.create_table(
        "agents",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("networks", sa.Text(), nullable=False, comment="CIDRs that are the agent's own"),
        sa.Column("mode", sa.String(16), nullable=False),
        sa.Column("default", sa.String(16), nullable=False, comment="what happens where no rule speaks"),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False, comment="what is attached: netns, interface, cidr"),
        sa.Column("value", sa.Text(), nullable=False, comment="which one: the namespace, interface or CIDR"),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_agents")),
        _known("agents", "mode", MODE),
        _known("agents", "default", ACTION),
        _known("agents", "kind", ("netns", "interface", "cidr")),
        comment="Agents attached by `egress agent add`; sandboxes of `egress run` are not listed",
    )


def _flows() -> None:
    op.create_table(
        "flows",
        sa.Column("flow_id", sa.Text(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column(
            "updated", sa.BigInteger(), nullable=False, comment="of the record this row shows; a later one replaces it"
        ),
        sa.Column("end", sa.BigInteger(), comment="null while the flow lives"),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("direction", sa.Text(), nullable=False, comment="out: the agent opened it"),
        sa.Column("proto", sa.Text(), nullable=False),
        sa.Column("src", sa.Text(), nullable=False, comment="the opener"),
        sa.Column("sport", sa.Integer(), nullable=False),
        sa.Column("dst", sa.Text(), nullable=False),
        sa.Column("dport", sa.Integer(), nullable=False),
        sa.Column("community_id", sa.Text(), nullable=False),
        sa.Column("app_proto", sa.Text(), nullable=False),
        sa.Column("server_name", sa.Text(), nullable=False, comment="SNI, Host or queried name, as the agent wrote it"),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(16), nullable=False),
        sa.Column("rule_id", sa.Text(), nullable=False),
        sa.Column("policy_version", sa.BigInteger(), nullable=False),
        sa.Column("mode", sa.String(16), nullable=False, comment="monitor: the action was not carried out"),
        sa.Column("packets_out", sa.BigInteger(), nullable=False),
        sa.Column("packets_in", sa.BigInteger(), nullable=False),
        sa.Column("bytes_out", sa.BigInteger(), nullable=False),
        sa.Column("bytes_in", sa.BigInteger(), nullable=False),
        sa.Column("unseen_bytes", sa.BigInteger(), nullable=False, comment="stream bytes that were never inspected"),
        sa.PrimaryKeyConstraint("flow_id", name=op.f("pk_flows")),
        _known("flows", "state", ("new", "established", "closed", "timeout", "evicted", "shutdown")),
        _known("flows", "direction", ("out", "in")),
        _known("flows", "action", ACTION),
        _known("flows", "reason", REASON),
        _known("flows", "mode", MODE),
        comment="The latest record of each flow",
    )
    for columns in (["start"], ["updated"], ["agent", "start"], ["dst", "start"], ["action", "start"]):
        op.create_index(op.f(f"ix_flows_{'_'.join(columns)}"), "flows", columns)


def _findings() -> None:
    op.create_table(
        "findings",
        sa.Column("finding_id", sa.Text(), nullable=False),
        sa.Column("flow_id", sa.Text(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
        sa.Column("severity", sa.String(16), nullable=False),
        sa.Column("technique", sa.Text(), nullable=False, comment="MITRE ATT&CK"),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("evidence", sa.LargeBinary(), nullable=False),
        sa.Column("effect", sa.String(16), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("mode", sa.String(16), nullable=False),
        sa.Column("proto", sa.Text(), nullable=False),
        sa.Column("src", sa.Text(), nullable=False),
        sa.Column("sport", sa.Integer(), nullable=False),
        sa.Column("dst", sa.Text(), nullable=False),
        sa.Column("dport", sa.Integer(), nullable=False),
        sa.Column("community_id", sa.Text(), nullable=False),
        sa.Column("rule_id", sa.Text(), nullable=False),
        sa.Column("policy_version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("finding_id", name=op.f("pk_findings")),
        _known("findings", "severity", ("low", "medium", "high", "critical")),
        _known("findings", "effect", ("flow", "destination")),
        _known("findings", "action", ACTION),
        _known("findings", "mode", MODE),
        comment="What signatures objected to, and what it led to",
    )
    for columns in (["flow_id"], ["time"], ["agent", "time"], ["signature", "time"]):
        op.create_index(op.f(f"ix_findings_{'_'.join(columns)}"), "findings", columns)


def _anomalies() -> None:
    op.create_table(
        "anomalies",
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(16), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False, comment="packets"),
        sa.Column("src", sa.Text(), nullable=False),
        sa.Column("dst", sa.Text(), nullable=False),
        sa.Column("proto", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("agent", "time", "reason", "detail", "src", "dst", "proto", name=op.f("pk_anomalies")),
        _known("anomalies", "reason", REASON),
        comment="Packets refused without a flow",
    )
    op.create_index(op.f("ix_anomalies_time"), "anomalies", ["time"])


def _policies() -> None:
    op.create_table(
        "policies",
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False, comment="of the document"),
        sa.Column("created", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False, comment="the rules, as JSON"),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_policies")),
        comment="Every set of rules that was ever in force; rows are never changed",
    )
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


def downgrade() -> None:
    for table in (
        "journal_checkpoints",
        "rule_changes",
        "policies",
        "anomalies",
        "findings",
        "flows",
        "agents",
    ):
        op.drop_table(table)
    if _on_postgresql():
        op.execute("DROP FUNCTION in_network")
