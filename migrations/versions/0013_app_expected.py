"""A column of flows, app_expected: the application protocols that a rule allows, separated by commas.

It is filled in flows that were refused because they had another protocol, else empty. A downgrade loses it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("flows") as batch:
        batch.add_column(sa.Column("app_expected", sa.Text(), nullable=False, server_default=""))


def downgrade() -> None:
    with op.batch_alter_table("flows") as batch:
        batch.drop_column("app_expected")
