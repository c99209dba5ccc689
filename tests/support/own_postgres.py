"""A PostgreSQL of a test's own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.cli.devserver.embedded_postgres import EmbeddedPostgres
from app.db.migrate import upgrade


@contextmanager
def an_own_postgres() -> Iterator[EmbeddedPostgres]:
    """A server that runs during the block, with a migrated database. Its folder is not in pytest's own, which each session closes
    to other users."""
    with tempfile.TemporaryDirectory(prefix="signalbox-tests-") as folder:
        postgres = EmbeddedPostgres(Path(folder) / "data", durable=False, say=lambda line: None)
        postgres.start()
        try:
            upgrade(postgres.url)
            yield postgres
        finally:
            postgres.stop()
