"""Rules whose name may have addresses that are not global (`private`), and the reasons private and metadata.

It is false in existing rules: a name that such a rule matches is admitted at global addresses only. A downgrade
replaces the reasons by the nearest ones, and loses the field, and the folded counts with these reasons.

SQLite cannot change a CHECK: flows and anomalies are rewritten in the transaction of the upgrade. On PostgreSQL the
constraint of a table is also that of its partitions, and a new column is the last one.
"""

from typing import Literal

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

BEFORE = ("rule", "default", "finding", "destination", "application", "name")
ADDED = ("private", "metadata")
AFTER = (
    "query",
    "budget",
    "approval",
    "quarantine",
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
UPDATE = {"sqlite": "UPDATE OR REPLACE", "postgresql": "UPDATE"}  # as 0002
NEAREST = {"private": "name", "metadata": "default"}


def _recreate() -> Literal["always", "auto"]:
    """Return Alembic's `recreate`: SQLite rewrites the table to change it, PostgreSQL changes it in place."""
    return "always" if op.get_bind().dialect.name == "sqlite" else "auto"


def _reasons(*known: str) -> None:
    """Change the CHECK of flows, anomalies and folded to these reasons."""
    for table in ("flows", "anomalies", "folded"):
        name = op.f(f"ck_{table}_reason")
        with op.batch_alter_table(table) as batch:
            batch.drop_constraint(name, type_="check")
            batch.create_check_constraint(name, f'"reason" IN ({", ".join(map(repr, known))})')


def _prefer_once() -> None:
    """Recreate the index of `once` rules on SQLite, so that it is the newest one.

    Of equally good indexes SQLite uses the newest, and the rewrite of the table has changed their order.
    """
    if _recreate() == "always":
        op.drop_index("ix_rules_once", "rules")
        op.create_index("ix_rules_once", "rules", ["id"], sqlite_where=sa.text("removed IS NULL AND once = 1"))


def upgrade() -> None:
    _reasons(*BEFORE, *ADDED, *AFTER)
    with op.batch_alter_table("rules", recreate=_recreate()) as batch:
        private: sa.Column[bool] = sa.Column("private", sa.Boolean(), nullable=False, server_default=sa.false())
        batch.add_column(private, insert_after="position" if _recreate() == "always" else None)
    _prefer_once()


def downgrade() -> None:
    with op.batch_alter_table("rules", recreate=_recreate()) as batch:
        batch.drop_column("private")
    _prefer_once()
    for reason, nearest in NEAREST.items():
        flows = sa.text("UPDATE flows SET reason = :nearest WHERE reason = :reason")
        # Reason and detail are parts of an anomaly's key. The old reason goes to the front of the detail, so that it is
        # not lost and no two keys become equal.
        anomalies = sa.text(
            f"{UPDATE[op.get_bind().dialect.name]} anomalies"
            " SET reason = :nearest, detail = CAST(:reason AS text) || ': ' || detail WHERE reason = :reason"
        )
        op.execute(sa.text("DELETE FROM folded WHERE reason = :reason").bindparams(reason=reason))
        for statement in (flows, anomalies):
            op.execute(statement.bindparams(reason=reason, nearest=nearest))
    _reasons(*BEFORE, *AFTER)
