"""The table `folded`: counts of the records beyond an agent's quota, which have no rows. A downgrade loses them."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

KINDS = ("flow", "alert", "anomaly")
ACTIONS = ("accept", "reject", "drop", "hold")
REASONS = (
    *("rule", "default", "finding", "destination", "application", "name", "query", "budget", "approval", "quarantine"),
    *("inbound", "spoofed", "malformed", "truncated", "sequence", "midstream", "memcap", "recorder", "error"),
)
KEY = ("agent", "time", "start", "kind", "proto", "dst", "dport", "action", "reason", "signature")


def upgrade() -> None:
    op.create_table(
        "folded",
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False, comment="when the counts ended"),
        sa.Column("start", sa.BigInteger(), nullable=False, comment="when they began"),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("proto", sa.Text(), nullable=False),
        sa.Column("dst", sa.Text(), nullable=False, comment="empty: several"),
        sa.Column("dport", sa.Integer(), nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(16), nullable=False),
        sa.Column("signature", sa.Text(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("count", "packets", "bytes_out", "bytes_in")),
        sa.PrimaryKeyConstraint(*KEY, name=op.f("pk_folded")),
        *(_known(name, words) for name, words in (("kind", KINDS), ("action", ACTIONS), ("reason", REASONS))),
        comment="Records beyond an agent's quota, counted together",
        postgresql_partition_by="RANGE (time)",
    )
    op.create_index(op.f("ix_folded_time"), "folded", ["time"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute("CREATE TABLE folded_rest PARTITION OF folded DEFAULT")


def downgrade() -> None:
    op.drop_table("folded")


def _known(column: str, words: tuple[str, ...]) -> sa.CheckConstraint:
    return sa.CheckConstraint(f'"{column}" IN ({", ".join(map(repr, words))})', name=op.f(f"ck_folded_{column}"))
