"""Several gateways at one database: a column `host` of agents, rules, approvals and checkpoints; a table of gateways.

Existing rows have no host yet (empty). The gateway that made them recognises this by the state on its disk, and takes
them over when it starts (`egress.store.policy.gateways.adopt`); the recorder takes over the checkpoints of its journal.
If segments of several hosts have the same name, a downgrade keeps the checkpoint that has read least: a record that is
read twice is stored once.
"""

from typing import Literal

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

COMMENTS = {
    "agents": "where it is attached",
    "rules": "of a policy file or sandbox: where the agents are that it concerns; of the allowlist: empty, everywhere",
    "approvals": "where it waits",
}
KEY = "pk_journal_checkpoints"


def upgrade() -> None:
    for table, comment in COMMENTS.items():
        with op.batch_alter_table(table) as batch:
            batch.add_column(sa.Column("host", sa.Text(), nullable=False, server_default="", comment=comment))
    with op.batch_alter_table("journal_checkpoints", recreate=_recreate()) as batch:
        host: sa.Column[str] = sa.Column("host", sa.Text(), nullable=False, server_default="", comment="whose journal")
        batch.add_column(host, insert_before="segment" if _dialect() == "sqlite" else None)
        batch.drop_constraint(op.f(KEY), type_="primary")
        batch.create_primary_key(op.f(KEY), ["host", "segment"])
    _gateways()


def downgrade() -> None:
    op.drop_table("gateways")
    further = "SELECT 1 FROM journal_checkpoints AS other WHERE other.segment = journal_checkpoints.segment"
    less = '(other."offset", other.host) < (journal_checkpoints."offset", journal_checkpoints.host)'
    op.execute(f"DELETE FROM journal_checkpoints WHERE EXISTS ({further} AND {less})")  # noqa: S608 - our own names
    with op.batch_alter_table("journal_checkpoints", recreate=_recreate()) as batch:
        batch.drop_constraint(op.f(KEY), type_="primary")
        batch.drop_column("host")
        batch.create_primary_key(op.f(KEY), ["segment"])
    for table in COMMENTS:
        with op.batch_alter_table(table, recreate=_recreate()) as batch:
            batch.drop_column("host")


def _dialect() -> str:
    return str(op.get_bind().dialect.name)


def _recreate() -> Literal["always", "auto"]:
    """Return Alembic's `recreate`: SQLite rewrites the table to change it, PostgreSQL changes it in place."""
    return "always" if _dialect() == "sqlite" else "auto"


def _gateways() -> None:
    op.create_table(
        "gateways",
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("run", sa.Text(), nullable=False, comment="random, of the gateway that has this name now"),
        sa.Column(
            "place", sa.Text(), nullable=False, comment="where it runs: two of one place are never there at a time"
        ),
        sa.Column("program", sa.Text(), nullable=False, comment="version of egress"),
        sa.Column("started", sa.BigInteger(), nullable=False, comment="this and the next two by the database's clock"),
        sa.Column("seen", sa.BigInteger(), nullable=False, comment="its last sign of life"),
        sa.Column("stopped", sa.BigInteger(), comment="null: it runs, or was killed"),
        sa.Column("skew", sa.Float(), nullable=False, comment="seconds that its own clock is ahead"),
        sa.Column("policy_version", sa.Integer(), nullable=False, comment="that all its workers judge by"),
        sa.Column("agents", sa.Integer(), nullable=False, comment="that it watches"),
        sa.PrimaryKeyConstraint("host", name=op.f("pk_gateways")),
        comment="The gateways that share this database, by the name of their host",
    )
