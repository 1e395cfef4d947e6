"""Indexes from which rows of one operator or device come in the order in which they are read, page by page."""

from alembic import op

revision = "0004_0.1.0"
down_revision = "0003_0.1.0"


def upgrade() -> None:
    """Put the place of a row behind the operator and the device."""
    for table, place in (("joulec_costs", "id"), ("joulec_superseded", "measurement_digest")):
        for column in ("operator", "device"):
            op.drop_index(f"ix_{table}_{column}", table)
            op.create_index(f"ix_{table}_{column}", table, [column, place])
