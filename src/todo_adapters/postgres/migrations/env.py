"""Alembic's entry point, called by ``todo_adapters.postgres.schema``."""

from alembic import context

from todo_adapters.postgres.tables import SCHEMA, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table_schema=SCHEMA,
    include_schemas=True,
    # Better Auth's tables may be in the same database; compare only ours.
    include_name=lambda name, kind, _: name == SCHEMA if kind == "schema" else True,
    compare_type=True,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
