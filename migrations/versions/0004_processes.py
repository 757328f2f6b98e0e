"""The table `processes`: the processes that opened flows. A downgrade loses them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATUS = ("found", "gone", "unknown")


def upgrade() -> None:
    known = f'"status" IN ({", ".join(map(repr, STATUS))})'
    op.create_table(
        "processes",
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("flow_id", "agent")),
        sa.Column("time", sa.BigInteger(), nullable=False, comment="the flow's start"),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False, comment="why it was not found, or how sure it is"),
        sa.Column("pid", sa.BigInteger(), nullable=False, comment="the host's number; 0: not found"),
        sa.Column("inner_pid", sa.BigInteger(), nullable=False, comment="in its own pid namespace"),
        sa.Column("uid", sa.BigInteger(), comment="the host's number of its user"),
        sa.Column("exe", sa.Text(), nullable=False, comment="path in its own file system"),
        sa.Column("cmdline", sa.Text(), nullable=False, comment="what the process says it is"),
        sa.Column("cgroup", sa.Text(), nullable=False),
        sa.Column("runtime", sa.Text(), nullable=False, comment="docker, podman, …; empty: in no container"),
        sa.Column("container", sa.Text(), nullable=False, comment="the container's id"),
        sa.Column("started", sa.BigInteger()),
        sa.PrimaryKeyConstraint("flow_id", "time", name=op.f("pk_processes")),
        sa.CheckConstraint(known, name=op.f("ck_processes_status")),
        comment="The processes behind flows, as they were when the flows began",
    )
    op.create_index(op.f("ix_processes_time"), "processes", ["time"])


def downgrade() -> None:
    op.drop_table("processes")
