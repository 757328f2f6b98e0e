"""Steps: the tool calls that agent frameworks report; and the role of tokens that may report, reporter.

A downgrade turns tokens of that role into revoked viewers: the older program has no role with so few rights.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ROLES = ("viewer", "approver", "editor", "admin", "gateway")
SOURCES = ("api", "otlp")
INDEXES = (["agent", "start", "until"], ["agent", "reported"], ["agent", "trace_id"], ["episode", "start"])


def upgrade() -> None:
    _roles(*ROLES, "reporter")
    op.create_table(
        "steps",
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("episode", sa.Text(), nullable=False, comment="conversation, session or run; else the trace's id"),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tool", sa.Text(), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False, comment="arguments, cut"),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("end", sa.BigInteger(), comment="null while it is under way"),
        sa.Column("until", sa.BigInteger(), nullable=False, comment="when it stops to count as under way"),
        sa.Column("source", sa.String(16), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("call_id", "trace_id", "span_id")),
        sa.Column("reporter", sa.Text(), nullable=False, comment="the actor that told of it"),
        sa.Column("reported", sa.BigInteger(), nullable=False, comment="when, by our clock"),
        sa.PrimaryKeyConstraint("agent", "episode", "id", name=op.f("pk_steps")),
        sa.CheckConstraint(f"source IN ({', '.join(map(repr, SOURCES))})", name=op.f("ck_steps_source")),
        comment="Tool calls that agent frameworks told of",
    )
    for columns in INDEXES:
        op.create_index(op.f(f"ix_steps_{'_'.join(columns)}"), "steps", columns)


def downgrade() -> None:
    op.drop_table("steps")
    op.execute("UPDATE tokens SET role = 'viewer', revoked_at = coalesce(revoked_at, created) WHERE role = 'reporter'")
    _roles(*ROLES)


def _roles(*known: str) -> None:
    """Change the CHECK of tokens to these roles."""
    name = op.f("ck_tokens_role")
    with op.batch_alter_table("tokens") as batch:
        batch.drop_constraint(name, type_="check")
        batch.create_check_constraint(name, f"role IN ({', '.join(map(repr, known))})")
