"""`docs/data.md` says of every table who reads its rows, when they go, and what an erasure does with them: somebody has to decide
that for a new table.

`tests/services/test_erasure.py` fills all tables of which the page says that they are erased."""

from __future__ import annotations

from app.db import export
from app.services.context import AppContext
from tests.support.tables_page import tables_of_page

_TABLES = """
SELECT relname, relname = 'accounts' OR EXISTS (SELECT FROM pg_attribute WHERE attrelid = pg_class.oid AND attname = 'account_id')
FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
"""


def test_the_page_has_every_table_and_says_which_belong_to_accounts(context: AppContext) -> None:
    with context.database.transaction() as connection:
        found = dict(connection.exec_driver_sql(_TABLES).all())
    assert {name: entry.is_of_accounts for name, entry in tables_of_page().items()} == found


def test_the_export_has_the_tables_that_belong_to_accounts() -> None:
    of_accounts = {name for name, entry in tables_of_page().items() if entry.is_of_accounts}
    assert set(export.tables_of_accounts()) == of_accounts
