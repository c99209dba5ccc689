"""Which errors of Postgres mean that the same request may succeed later."""

from __future__ import annotations

import pytest

from app.core.errors import Unavailable
from app.db.connection import execute
from app.services.context import AppContext


@pytest.mark.parametrize("statement", ["EXECUTE gone", "PREPARE twice AS SELECT 1; PREPARE twice AS SELECT 1"])
def test_prepared_statements_of_another_connection_make_the_database_unavailable(
    context: AppContext, statement: str
) -> None:
    # A pooler in transaction mode gives each transaction another connection.
    with pytest.raises(Unavailable):
        context.database.run_with_reconnect(lambda connection: execute(connection, statement, ()))
