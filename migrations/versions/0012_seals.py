"""The table `seals`: the chains of hashes over the lines of journals. A downgrade loses them."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

STATES = ("opened", "running", "closed", "stopped", "tail")


def upgrade() -> None:
    known = f'"state" IN ({", ".join(map(repr, STATES))})'
    op.create_table(
        "seals",
        sa.Column("chain", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("time", sa.BigInteger(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False, comment="of the first line that it covers"),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("host", "writer", "segment")),
        sa.Column("state", sa.String(16), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in ("lines", "lost")),
        sa.Column("gap", sa.Text(), nullable=False, comment="what may be missing before it"),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("previous", "digest")),
        sa.Column("leaves", sa.LargeBinary(), nullable=False, comment="of the lines that it covers: 24 bytes each"),
        sa.PrimaryKeyConstraint("chain", "number", "time", name=op.f("pk_seals")),
        sa.CheckConstraint(known, name=op.f("ck_seals_state")),
        comment="The chains of hashes over the journals' lines; see egress verify",
        postgresql_partition_by="RANGE (time)",
    )
    op.create_index(op.f("ix_seals_time"), "seals", ["time"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute("CREATE TABLE seals_rest PARTITION OF seals DEFAULT")


def downgrade() -> None:
    op.drop_table("seals")
