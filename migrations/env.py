"""Runs the migrations inside the connection that `app.store.migrations.upgrade` has opened and locked."""

from alembic import context

from app.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
