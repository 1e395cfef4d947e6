"""Runs the migrations over the connection, and within the transaction, that `joulec.costdb.schema` has opened."""

from alembic import context

from joulec.costdb.schema import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
