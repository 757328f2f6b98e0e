"""Tables of a case (a database made from capture files): its captures, and the captures that contain each flow.

A downgrade loses them. They are empty in the database of a gateway.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "captures",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False, comment="1, 2, 3, … within the case"),
        sa.Column("file", sa.Text(), nullable=False, comment="its path, as it was given"),
        sa.Column("size", sa.BigInteger(), nullable=False, comment="bytes"),
        sa.Column("sha256", sa.Text(), nullable=False, comment="of the file, hex"),
        sa.Column("added", sa.BigInteger(), nullable=False),
        sa.Column(
            "finished", sa.BigInteger(), nullable=True, comment="null: it is being read, or that was interrupted"
        ),
        sa.Column("policy_version", sa.Integer(), nullable=False, comment="it was judged under; 0: no rules"),
        sa.Column(
            "networks",
            sa.Text(),
            nullable=False,
            comment="CIDRs of the agents; []: whoever opened a flow is its agent",
        ),
        sa.Column("packets", sa.BigInteger(), nullable=False, comment="frames of whatever kind"),
        sa.Column("flows", sa.BigInteger(), nullable=False),
        sa.Column("findings", sa.BigInteger(), nullable=False),
        sa.Column("unread", sa.BigInteger(), nullable=False, comment="frames that do not parse or are of no agent"),
        sa.Column("truncated", sa.Text(), nullable=False, comment="where the file breaks off; empty: it does not"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_captures")),
        comment="Of a case (`egress replay --into-db`): what it was made from. Empty in the database of a gateway",
    )
    op.create_index(op.f("ix_captures_sha256"), "captures", ["sha256"], unique=True)
    op.create_table(
        "captured_flows",
        sa.Column("flow_id", sa.Text(), nullable=False),
        sa.Column("capture", sa.Integer(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("flow_id", "capture", name=op.f("pk_captured_flows")),
        comment="Of a case: which captures hold a flow. One that several hold has one row in `flows`",
    )
    op.create_index(op.f("ix_captured_flows_capture"), "captured_flows", ["capture"], unique=False)


def downgrade() -> None:
    op.drop_table("captured_flows")
    op.drop_table("captures")
