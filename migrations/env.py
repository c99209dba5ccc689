"""Runs the migrations inside the connection that `app.db.migrate.upgrade` has opened and locked."""

from alembic import context

from app.db.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
