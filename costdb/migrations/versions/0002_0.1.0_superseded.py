"""The table of measurements that merging found worse than another one of the same key."""

import sqlalchemy as sa
from alembic import op

revision = "0002_0.1.0"
down_revision = "0001_0.1.0"


def upgrade() -> None:
    """Create the table and its indexes."""
    op.create_table(
        "joulec_superseded",
        sa.Column("measurement_digest", sa.String(64), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("operator", sa.Text(), nullable=False),
        sa.Column("attributes", sa.Text(), nullable=False),
        sa.Column("epilogue", sa.Text(), nullable=False),
        sa.Column("shapes", sa.Text(), nullable=False),
        sa.Column("layouts", sa.Text(), nullable=False),
        sa.Column("placement", sa.Text(), nullable=False),
        sa.Column("algorithm", sa.Text(), nullable=False),
        sa.Column("parameters", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("compiler", sa.Text(), nullable=False),
        sa.Column("key_energy_source", sa.Text(), nullable=False),
        sa.Column("protocol", sa.Text(), nullable=False),
        sa.Column("time_s", sa.Double(), nullable=True),
        sa.Column("energy_j", sa.Double(), nullable=True),
        sa.Column("time_source", sa.Text(), nullable=True),
        sa.Column("energy_source", sa.Text(), nullable=True),
        sa.Column("spread", sa.Double(), nullable=True),
        sa.Column("samples", sa.Integer(), nullable=True),
        sa.Column("failure_kind", sa.Text(), nullable=True),
        sa.Column("failure_reason", sa.Text(), nullable=True),
        sa.Column("provenance", sa.JSON(), nullable=False),
        sa.Column("measured_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("measurement_digest"),
        sa.CheckConstraint("(time_s IS NULL) <> (failure_kind IS NULL)", name="ck_joulec_superseded_one_outcome"),
    )
    for column in ("id", "operator", "device"):
        op.create_index(f"ix_joulec_superseded_{column}", "joulec_superseded", [column])
