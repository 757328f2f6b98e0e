"""Budgets of agents, and the reasons name, query and budget.

SQLite cannot change a CHECK: the tables are rewritten in the transaction of the upgrade. A downgrade replaces a reason
that 0001 does not know by the nearest one, and loses budgets. Policies stay as they are: an older program ignores their
new fields.

PostgreSQL changes the tables in place; there a new column is the last one, unlike on SQLite.
"""

from typing import Literal

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BEFORE = ("rule", "default", "finding", "destination", "application")
ADDED = ("name", "query", "budget")
AFTER = (
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
NEAREST = {"name": "application", "query": "default", "budget": "default"}

# If a row with the new key existed, SQLite would replace it, and PostgreSQL would fail. None exists: its detail would
# begin with a reason.
UPDATE = {"sqlite": "UPDATE OR REPLACE", "postgresql": "UPDATE"}


def _recreate() -> Literal["always", "auto"]:
    """Return Alembic's `recreate`: SQLite rewrites the table to change it, PostgreSQL changes it in place."""
    return "always" if op.get_bind().dialect.name == "sqlite" else "auto"


def _reasons(*known: str) -> None:
    """Change the CHECK of flows and anomalies to these reasons."""
    for table in ("flows", "anomalies"):
        name = op.f(f"ck_{table}_reason")
        with op.batch_alter_table(table) as batch:
            batch.drop_constraint(name, type_="check")
            batch.create_check_constraint(name, f'"reason" IN ({", ".join(map(repr, known))})')


def upgrade() -> None:
    _reasons(*BEFORE, *ADDED, *AFTER)
    # "always": the column belongs beside the agent's other fields, and SQLite by itself adds at the end only.
    with op.batch_alter_table("agents", recreate=_recreate()) as batch:
        budgets = sa.Column(
            "budgets", sa.Text(), nullable=False, server_default="[]", comment="JSON: [{measure, limit, span}, …]"
        )
        batch.add_column(budgets, insert_after="labels" if _recreate() == "always" else None)


def downgrade() -> None:
    with op.batch_alter_table("agents", recreate=_recreate()) as batch:
        batch.drop_column("budgets")
    for reason, nearest in NEAREST.items():
        flows = sa.text("UPDATE flows SET reason = :nearest WHERE reason = :reason")
        # Reason and detail are parts of an anomaly's key. The old reason goes to the front of the detail, so that it is
        # not lost and no two keys become equal.
        anomalies = sa.text(
            f"{UPDATE[op.get_bind().dialect.name]} anomalies"
            " SET reason = :nearest, detail = CAST(:reason AS text) || ': ' || detail WHERE reason = :reason"
        )
        for statement in (flows, anomalies):
            op.execute(statement.bindparams(reason=reason, nearest=nearest))
    _reasons(*BEFORE, *AFTER)
