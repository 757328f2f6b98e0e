"""The effect `none`, of findings by `egress hunt`. A downgrade deletes these findings."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

BEFORE = ("flow", "destination")


def upgrade() -> None:
    _effects(*BEFORE, "none")


def downgrade() -> None:
    op.execute(sa.text("DELETE FROM findings WHERE effect = 'none'"))
    _effects(*BEFORE)


def _effects(*known: str) -> None:
    """Change the CHECK of findings to these effects. SQLite cannot do this in place: the table is rewritten."""
    name = op.f("ck_findings_effect")
    with op.batch_alter_table("findings") as batch:
        batch.drop_constraint(name, type_="check")
        batch.create_check_constraint(name, f'"effect" IN ({", ".join(map(repr, known))})')
